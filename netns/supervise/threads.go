package supervise

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// spareThreads is how many threads a gateway may want beyond those that it has when
	// it starts; busy with everything at once, it was seen to want 5.
	spareThreads = 12
	// fewProcesses is a limit of processes with which this process and its supervisor
	// start. Of more, spare threads take no more than half.
	fewProcesses = 32
)

// KeepThreads makes the threads now that this process may want later: the program could
// use up all that its user may have (RLIMIT_NPROC, pids.max of cgroups), and Go's runtime
// does not survive that there is none. It never ends one that is idle.
func KeepThreads() {
	n := spareThreads
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &limit); err == nil && limit.Cur < fewProcesses+2*spareThreads {
		n = max(0, int(limit.Cur)-fewProcesses) / 2
	}
	var made sync.WaitGroup
	enough := make(chan struct{})
	for range n {
		made.Add(1)
		go func() {
			runtime.LockOSThread() // to be on a thread that no other has
			defer runtime.UnlockOSThread()
			made.Done()
			<-enough
		}()
	}
	made.Wait()
	close(enough)
}
