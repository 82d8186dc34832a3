package relay

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Bulk is moved by splice(2), through a pipe: the pages change hands without
// being copied.
const (
	// pipeSize holds as much as a veth delivers at once, several times over.
	pipeSize = 256 << 10
	// maxPipes bounds the pipes of a run. An unprivileged user has 16,384 pages
	// in all his pipes (fs.pipe-user-pages-soft); these take at most half, and
	// with none free data is copied.
	maxPipes = 8192 * 4096 / pipeSize
)

// pipe is empty whenever it is free.
type pipe struct{ r, w int }

// pipes keeps those that are free, and counts all.
type pipes struct {
	mu   sync.Mutex
	free []*pipe
	made int
}

// bulkPipes is the process's: the limit is the user's, whatever proxy it is for.
var bulkPipes pipes

// get returns a free pipe, or nil if there can be none.
func (p *pipes) get() *pipe {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		taken := p.free[n-1]
		p.free = p.free[:n-1]
		return taken
	}
	if p.made >= maxPipes {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil // the user's pages are used up
	}
	p.made++
	return &pipe{fds[0], fds[1]}
}

// put takes a pipe back; one that holds data is closed.
func (p *pipes) put(x *pipe, empty bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if empty && len(p.free) < maxFreePipes {
		p.free = append(p.free, x)
		return
	}
	unix.Close(x.r)
	unix.Close(x.w)
	p.made--
}

// maxFreePipes are kept for the next bulk.
const maxFreePipes = 8

// idlePipe is how long a direction without data keeps its pipe.
const idlePipe = 200 * time.Millisecond

// splice moves at most limit bytes from src to dst, until src is idle, or ends;
// eof tells that it ended. Without a free pipe it does nothing.
func splice(dst, src Stream, count *atomic.Int64, limit int64) (moved int64, eof bool, err error) {
	p := bulkPipes.get()
	if p == nil {
		return 0, false, nil
	}
	inPipe := 0
	defer func() { bulkPipes.put(p, inPipe == 0) }()
	from, err := src.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = src.SetReadDeadline(time.Time{}) }()
	for moved < limit {
		var serr error
		waited := false
		err := from.Read(func(fd uintptr) bool {
			if inPipe, serr = move(int(fd), p.w, int(min(pipeSize, limit-moved))); serr != unix.EAGAIN {
				return true
			}
			if !waited {
				waited = true
				_ = src.SetReadDeadline(time.Now().Add(idlePipe))
			}
			return false
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return moved, false, nil
		case err != nil:
			return moved, false, err
		case serr != nil:
			return moved, false, serr
		case inPipe == 0:
			return moved, true, nil
		}
		for inPipe > 0 {
			var n int
			err := to.Write(func(fd uintptr) bool {
				n, serr = move(p.r, int(fd), inPipe)
				return serr != unix.EAGAIN
			})
			if err == nil {
				err = serr
			}
			if err != nil {
				return moved, false, err
			}
			inPipe -= n
			moved += int64(n)
			count.Add(int64(n))
		}
	}
	return moved, false, nil
}

// move is splice(2), which does not wait.
func move(from, to, size int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(max(n, 0)), err
		}
	}
}
