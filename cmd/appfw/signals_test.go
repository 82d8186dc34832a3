package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"appfw/netns/supervise"
)

func init() {
	probes["signals"] = probeSignals
	probes["without landlock"] = probeWithoutLandlock
}

// probeSignals sends signals to processes in every way that there is, and says which
// came. args: their numbers.
func probeSignals(args []string) error {
	var pids []int
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		pids = append(pids, pid)
	}
	gateway := os.Getppid()
	for ; parentOf(gateway) > 1 && !strings.Contains(commandOf(gateway), "gateway"); gateway = parentOf(gateway) {
	}
	pids = append(pids, gateway, parentOf(gateway))
	try := func(what string, pid int, err error) {
		if !errors.Is(err, unix.EPERM) {
			fmt.Printf("%s to %d (%s) POSSIBLE: %v\n", what, pid, commandOf(pid), err)
		}
	}
	info := make([]byte, 128)
	for _, pid := range pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		fmt.Printf("%d threads of %d\n", len(threads), pid)
		for _, thread := range threads {
			tid, _ := strconv.Atoi(filepath.Base(thread))
			try("kill", tid, unix.Kill(tid, 0))
			try("kill -STOP", tid, unix.Kill(tid, unix.SIGSTOP))
			try("tkill", tid, errOf(third(unix.Syscall(unix.SYS_TKILL, uintptr(tid), uintptr(unix.SIGSTOP), 0))))
			try("tgkill", tid, unix.Tgkill(pid, tid, unix.SIGSTOP))
			*(*int32)(unsafe.Pointer(&info[0])), *(*int32)(unsafe.Pointer(&info[8])) = int32(unix.SIGSTOP), -1 // SI_QUEUE
			_, _, e := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(tid), uintptr(unix.SIGSTOP), uintptr(unsafe.Pointer(&info[0])))
			try("sigqueue", tid, errOf(e))
			try("F_SETOWN", tid, sendSIGIO(tid))
			try("ptrace", tid, unix.PtraceAttach(tid))
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		try("pidfd_send_signal", pid, unix.PidfdSendSignal(fd, unix.SIGSTOP, nil, 0))
		dir, err := unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		try("pidfd_send_signal to /proc", pid, unix.PidfdSendSignal(dir, unix.SIGSTOP, nil, 0))
		group, err := unix.Getpgid(pid)
		if err == nil && group != unix.Getpgrp() {
			try("killpg", pid, unix.Kill(-group, unix.SIGSTOP))
		}
	}
	// To all that can be reached, which are those of the run.
	signal.Ignore(unix.SIGUSR1, unix.SIGHUP)
	_ = unix.Kill(0, unix.SIGHUP)
	_ = unix.Kill(-1, unix.SIGUSR1)
	return nil
}

func third(_, _ uintptr, e unix.Errno) unix.Errno { return e }

func commandOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(b), "\x00", " ")
}

func parentOf(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// sendSIGIO has the kernel send a signal when a pipe can be read (fcntl(2)). It is EPERM
// if F_SETOWN is; whether the signal came, the victim tells.
func sendSIGIO(tid int) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	defer write.Close()
	owner := struct{ kind, pid int32 }{0 /* F_OWNER_TID */, int32(tid)}
	if _, _, e := unix.Syscall(unix.SYS_FCNTL, read.Fd(), unix.F_SETOWN_EX, uintptr(unsafe.Pointer(&owner))); e != 0 {
		return e
	}
	if _, err := unix.FcntlInt(read.Fd(), unix.F_SETSIG, int(unix.SIGKILL)); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(read.Fd(), unix.F_SETFL, unix.O_ASYNC); err != nil {
		return err
	}
	_, err = write.WriteString("x")
	if err == nil {
		err = unix.EPERM // nothing is told
	}
	return err
}

// No signal of a program leaves its run: not to appfw, not to other processes of its
// user's. They would have got some: those in the run do.
func TestSignalsStay(t *testing.T) {
	both(t, func(w *world) {
		victim := w.talk("sh", "-c", `trap 'echo got' HUP USR1; trap 'echo end' EXIT; while read line; do echo "$line"; done`)
		if victim.ask("there") != "there" {
			t.Fatal("no victim")
		}
		pid := strconv.Itoa(victim.cmd.Process.Pid)
		if out, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children"); err != nil || len(out) > 0 {
			pid = strings.TrimSpace(string(out)) // of what runs it as its user
		}
		script := `trap '' HUP; trap 'echo "the run got it"' USR1; ` + strings.Join(probing("signals", pid), " ") + `; sleep 0.1; curl -sS http://example.com`
		r := w.run("--allow", "example.com", "--", "sh", "-c", script)
		out := w.ok(r)
		if strings.Contains(out, "POSSIBLE") {
			t.Errorf("%s", out)
		}
		wants(t, out, "the run got it", "hello from example.com")
		if got := victim.ask("still there"); got != "still there" {
			t.Errorf("the victim says %q", got)
		}
	})
}

// What a program may do with signals to its own, it may under appfw.
func TestSignalsWithin(t *testing.T) {
	both(t, func(w *world) {
		w.ok(w.run("--", "bash", "-c", `set -e
sleep 100 & kill -0 $!; kill -TERM $!; wait $! || test $? = 143
(trap 'exit 9' USR1; while :; do sleep 0.02; done) & sleep 0.2; kill -USR1 $!; wait $! || test $? = 9
setsid sleep 100 & sleep 0.1; kill -KILL $!
timeout 0.1 sleep 100 || test $? = 124
set -m; sleep 100 & kill -STOP %1; kill -CONT %1; kill -- -$!; wait $! || test $? = 143`))
		for _, tracer := range [][]string{
			{"strace", "-qq", "-f", "-o", "/dev/null", "true"},
			{"sh", "-c", `sleep 100 & timeout -s INT 0.5 strace -qq -o /dev/null -p $!; kill -0 $! && kill $!`},
			{"sh", "-c", `sleep 100 & gdb -batch -nx -p $! -ex 'info proc' 2>&1 | grep -q "^process" && kill $!`},
		} {
			if _, err := exec.LookPath(tracer[0]); err != nil {
				t.Logf("%s is not there", tracer[0])
				continue
			}
			w.ok(w.run(append([]string{"--"}, tracer...)...))
		}
		// A user namespace of its own, and mounts in it, are as possible as before.
		if w.user.UID != 0 {
			w.ok(w.run("--", "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs x /mnt && umount /mnt"))
		}
	})
}

// probeWithoutLandlock executes a program on a kernel that has no Landlock, or would.
// args: its errno, and the program.
func probeWithoutLandlock(args []string) error {
	errno, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_LANDLOCK_CREATE_RULESET},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const syncThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, syncThreads, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return e
	}
	return syscall.Exec(args[1], args[1:], append(os.Environ(), "APPFW_PROBE="))
}

// Where the kernel cannot keep signals, appfw says so, once, and doctor does.
func TestSignalsOnOlderKernels(t *testing.T) {
	both(t, func(w *world) {
		on := func(errno unix.Errno, args ...string) result {
			args = append(probing("without landlock", strconv.Itoa(int(errno)), program), args...)
			return w.finish(w.Command(t.Context(), w.user, args[0], args[1:]...))
		}
		const says = "appfw: note: the program can send signals to your other processes: "
		for errno, why := range map[unix.Errno]string{
			unix.ENOSYS:     "the kernel has no scopes of Landlock, which are of Linux 6.12\n",
			unix.EOPNOTSUPP: "the kernel has no scopes of Landlock, which are of Linux 6.12\n",
			unix.EPERM:      "ask for the version of Landlock: operation not permitted\n",
		} {
			r := on(errno, "run", "--", "sh", "-c", "kill -0 $PPID && echo sent")
			if r.code != 0 || r.stdout != "sent\n" || r.stderr != says+why {
				t.Errorf("%v: %+v", errno, r)
			}
		}
		if r := on(unix.ENOSYS, "run", "--quiet", "--", "true"); r.code != 0 || r.stderr != "" {
			t.Errorf("%+v", r)
		}
		wants(t, on(unix.ENOSYS, "doctor").stdout, "note  signals: the program can send signals to your other processes: the kernel has no scopes")
		wants(t, w.appfw("doctor").stdout, "ok    signals stay within a run\n")
		// A gateway that is stopped goes on, and appfw ends.
		c := w.Command(t.Context(), w.user, "env", append(probing("without landlock", strconv.Itoa(int(unix.ENOSYS)), program), "run", "--quiet", "--allow", "example.com", "--", "sh", "-c",
			"kill -STOP $PPID; curl -sS http://example.com && kill -STOP $PPID; exit 5")[1:]...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		w.awaitExit("sh -c", "a stopped gateway")
		if e := awaitEnd(t, c); e != (supervise.Ending{Code: 5}) {
			t.Errorf("%+v", e)
		}
	})
}
