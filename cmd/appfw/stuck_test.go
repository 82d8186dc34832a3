package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/journal"
)

// soon is how long appfw may go on after its program, or when it is told to end,
// whoever does not read what it writes.
const soon = 6 * time.Second

// unread is a FIFO that nobody reads. A write to it waits once it is full, which it may
// be from the start.
func (w *world) unread(full bool) *os.File {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "fifo")
	err := unix.Mkfifo(path, 0o666)
	if err == nil {
		err = errors.Join(os.Chmod(path, 0o666), os.Chmod(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for b := make([]byte, 4096); full && err == nil; {
		_, err = unix.Write(fd, b)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		w.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	w.t.Cleanup(func() { f.Close() })
	return f
}

// stopped is a terminal on which nobody sees anything: output to it is suspended, as by
// Ctrl-S, or nobody reads the other end.
func (w *world) stopped(suspended bool) *os.File {
	w.t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ptmx.Close() })
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	fd, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err == nil && suspended {
		err = unix.IoctlSetInt(fd, unix.TCXONC, unix.TCOOFF)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	tty := os.NewFile(uintptr(fd), "terminal")
	w.t.Cleanup(func() { tty.Close() })
	return tty
}

// stuck starts the program with a stderr of its own. If that is a terminal, it is the
// one that controls the program.
func (w *world) stuck(stderr *os.File, args ...string) *session {
	w.t.Helper()
	s := &session{world: w, cmd: w.Command(w.t.Context(), w.user, program, args...), out: newOutput(), err: newOutput()}
	s.cmd.Env = append(s.cmd.Env, raceEnv...)
	s.cmd.Stdout = s.out
	if s.cmd.Stderr = s.err; stderr != nil {
		s.cmd.Stderr = stderr
		if _, err := unix.IoctlGetTermios(int(stderr.Fd()), unix.TCGETS); err == nil {
			s.cmd.SysProcAttr.Setsid, s.cmd.SysProcAttr.Setctty, s.cmd.SysProcAttr.Ctty = true, true, 2
		}
	}
	in, err := s.cmd.StdinPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	s.in = in
	return s
}

// endsSoon waits for the program to end, and compares its exit code.
func (s *session) endsSoon(code int) {
	s.t.Helper()
	began := time.Now()
	late := time.AfterFunc(soon, func() { _ = s.cmd.Process.Kill() })
	defer late.Stop()
	_ = s.cmd.Wait()
	if took := time.Since(began); took >= soon {
		s.t.Errorf("after %v it had not ended", took)
	} else if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("it ended with %d, not %d\nstderr: %s", got, code, s.err)
	}
}

func init() {
	// denied COUNT ADDRESS [stay] connects to so many different addresses, which has to
	// fail, and then to one, which has to succeed; it says so, and may stay.
	probes["denied"] = func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		for i := range n {
			if c, err := net.Dial("tcp4", fmt.Sprintf("11.%d.%d.1:80", 100+i/256, i%256)); err == nil {
				return fmt.Errorf("connected to %v", c.RemoteAddr())
			}
		}
		began := time.Now()
		c, err := net.DialTimeout("tcp4", args[1], time.Minute)
		if err != nil {
			return err
		}
		defer c.Close()
		fmt.Printf("connected in %d ms\n", time.Since(began).Milliseconds())
		if len(args) > 2 {
			told := make(chan os.Signal, 1)
			signal.Notify(told, unix.SIGTERM)
			<-told
			os.Exit(7)
		}
		return nil
	}
}

// connects waits until the probe has connected, at once.
func (s *session) connects() {
	s.t.Helper()
	late := time.AfterFunc(time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer late.Stop()
	for {
		s.out.mu.Lock()
		text := string(s.out.text)
		s.out.mu.Unlock()
		var ms int
		if _, err := fmt.Sscanf(text, "connected in %d ms\n", &ms); err == nil {
			if took := time.Duration(ms) * time.Millisecond; took > failFast {
				s.t.Errorf("what is allowed took %v", took)
			}
			return
		}
		if err := unix.Kill(s.cmd.Process.Pid, 0); err != nil || s.cmd.ProcessState != nil {
			s.t.Fatalf("it ended, and said %q\nstderr: %s", text, s.err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// manyDenied fill a pipe with their lines twice.
const manyDenied = 1500

// Whoever does not read what appfw writes delays nothing that is allowed, and does not
// keep appfw from ending after its program.
func TestStuck(t *testing.T) {
	both(t, func(w *world) {
		for name, c := range map[string]struct {
			stderr *os.File // nil: it is read
			log    *os.File // nil: there is none
			dash   bool     // the log is stderr
			denied int
			says   string // on stderr
		}{
			"stderr":              {stderr: w.unread(false), denied: manyDenied},
			"full stderr":         {stderr: w.unread(true), denied: 20},
			"log":                 {log: w.unread(false), denied: manyDenied, says: "appfw: --log is not whole: it is held up, and lacks "},
			"full log":            {log: w.unread(true), denied: 20, says: "appfw: --log is not whole: it is held up, and lacks 22 records\n"},
			"log on stderr":       {stderr: w.unread(false), dash: true, denied: manyDenied},
			"stderr and log":      {stderr: w.unread(true), log: w.unread(true), denied: 20},
			"suspended terminal":  {stderr: w.stopped(true), denied: manyDenied},
			"terminal, not read":  {stderr: w.stopped(false), denied: manyDenied},
			"log on the terminal": {stderr: w.stopped(true), dash: true, denied: 20},
		} {
			w.t.Run(name, func(t *testing.T) {
				t.Parallel() // most of the time they wait
				w := *w
				w.t = t
				args := []string{"run", "--allow", "11.22.0.10"}
				switch {
				case c.log != nil:
					args = append(args, "--log", c.log.Name())
				case c.dash:
					args = append(args, "--log", "-")
				}
				args = append(args, "--")
				s := w.stuck(c.stderr, append(args, probing("denied", fmt.Sprint(c.denied), "11.22.0.10:80")...)...)
				s.connects()
				s.endsSoon(0)
				text := s.err.String()
				wants(t, text[max(0, len(text)-200):], c.says)

				s = w.stuck(c.stderr, append(args, probing("denied", "20", "11.22.0.10:80", "stay")...)...) // it is full by now
				s.connects()
				s.signal(unix.SIGTERM)
				s.endsSoon(7)
			})
		}
	})
}

// awaitServer waits until something accepts connections at an address of the host.
func (w *world) awaitServer(addr string) {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := w.DialFromHost("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Since(began) > patience {
			w.t.Fatal(err)
		}
	}
}

// What serves until it is told to end, ends then, even if not a word of it is read.
func TestStuckServices(t *testing.T) {
	both(t, func(w *world) {
		for _, c := range []struct {
			log  *os.File
			code int
		}{{nil, 0}, {w.unread(true), exitFailed}} {
			flags := []string{"--allow", "example.com", "--allow", "127.0.0.1"}
			if c.log != nil {
				flags = append(flags, "--log", c.log.Name())
			}
			s := w.stuck(w.unread(true), append([]string{"serve", "--listen", "127.0.0.1:1080"}, flags...)...)
			w.awaitServer("127.0.0.1:1080")
			for range 3 {
				if r := w.curl("-x", "socks5h://127.0.0.1:1080", "http://11.22.0.20/"); r.code == 0 || r.took > failFast {
					w.t.Errorf("what is denied: %+v", r)
				}
			}
			wants(w.t, w.ok(w.curl("-x", "socks5h://127.0.0.1:1080", "http://example.com/")), "hello from example.com")
			s.signal(unix.SIGHUP)
			wants(w.t, w.ok(w.curl("-x", "http://127.0.0.1:1080", "http://example.com/")), "hello from example.com")
			s.signal(unix.SIGTERM)
			s.endsSoon(c.code)

			shell, pid := w.handmade()
			s = w.stuck(w.unread(true), append([]string{"attach", "--pid", pid}, flags...)...)
			shell.until(getExample, "hello from example.com")
			shell.ok("for i in 1 2 3; do curl -s -m 5 http://11.22.0.2$i; done; true")
			wants(w.t, shell.ok(getExample), "hello from example.com")
			s.signal(unix.SIGTERM)
			s.endsSoon(c.code)
			shell.end()

			if w.user.UID != 0 {
				continue // named namespaces are root's
			}
			name := fmt.Sprintf("appfw-stuck-%d", os.Getpid())
			defer w.appfw("netns", "--delete", name)
			s = w.stuck(w.unread(true), append([]string{"netns", name}, flags...)...)
			for began := time.Now(); ; {
				r := w.finish(w.Command(w.t.Context(), w.user, "ip", "netns", "exec", name, "curl", "-sS", "-m", "5", "http://example.com/"))
				if r.code == 0 {
					break
				}
				if time.Since(began) > patience {
					w.t.Fatalf("%+v", r)
				}
			}
			s.signal(unix.SIGTERM)
			s.endsSoon(c.code)
		}
	})
}

// While a log waits for who is to read it, appfw has not begun, and ends by a signal.
func TestStuckOpening(t *testing.T) {
	both(t, func(w *world) {
		_, pid := w.handmade()
		for _, c := range []struct{ command, args []string }{
			{[]string{"run"}, []string{"--", "echo", "it ran"}},
			{[]string{"serve"}, []string{"--listen", "127.0.0.1:1080"}},
			{[]string{"attach"}, []string{"--pid", pid}},
		} {
			log := w.unread(false)
			log.Close() // nobody has it open
			s := w.stuck(nil, append(append(c.command, "--log", log.Name()), c.args...)...)
			for began := time.Now(); !waitsForReader(s.cmd.Process.Pid); time.Sleep(10 * time.Millisecond) {
				if time.Since(began) > patience {
					w.t.Fatalf("%v: it does not wait: %s", c.command, s.err)
				}
			}
			s.signal(unix.SIGTERM)
			s.endsSoon(-1) // by the signal
			if out := s.out.String() + s.err.String(); out != "" {
				w.t.Errorf("%v: %s", c.command, out)
			}
		}
	})
}

// waitsForReader tells whether a process, or a child of it, opens a FIFO that nobody reads.
func waitsForReader(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		at, _ := os.ReadFile(task + "/wchan")
		if strings.Contains(string(at), "wait_for_partner") { // fs/pipe.c
			return true
		}
		children, _ := os.ReadFile(task + "/children")
		for _, child := range strings.Fields(string(children)) {
			if id, err := strconv.Atoi(child); err == nil && waitsForReader(id) {
				return true
			}
		}
	}
	return false
}

// Who has read stderr, and is gone, does not take the network along.
func TestReaderGone(t *testing.T) {
	both(t, func(w *world) {
		gone := func() *os.File {
			w.t.Helper()
			r, f, err := os.Pipe()
			if err != nil {
				w.t.Fatal(err)
			}
			r.Close()
			w.t.Cleanup(func() { f.Close() })
			return f
		}
		flags := []string{"--allow", "11.22.0.10", "--allow", "example.com"}
		s := w.stuck(gone(), append(append(append([]string{"run"}, flags...), "--"), probing("denied", "5", "11.22.0.10:80")...)...)
		s.connects()
		s.endsSoon(0)
		// To the program, SIGPIPE means what it does without appfw.
		if r := w.run("--", "sh", "-c", "kill -PIPE $$"); r.code != 128+int(unix.SIGPIPE) {
			w.t.Errorf("%+v", r)
		}
		s = w.stuck(gone(), append([]string{"serve", "--listen", "127.0.0.1:1080"}, flags...)...)
		w.awaitServer("127.0.0.1:1080")
		w.curl("-x", "socks5h://127.0.0.1:1080", "http://11.22.0.20/")
		wants(w.t, w.ok(w.curl("-x", "socks5h://127.0.0.1:1080", "http://example.com/")), "hello from example.com")
		s.signal(unix.SIGTERM)
		s.endsSoon(0)
	})
}

// A terminal that stops who writes to it from the background (stty tostop) does not stop
// a program for what appfw writes, nor is appfw busy with it.
func TestBackground(t *testing.T) {
	both(t, func(w *world) {
		shell := w.Command(w.t.Context(), w.user, "bash", "--norc", "--noprofile", "-i")
		shell.Env = append(append(shell.Env, "PS1=$ ", "TERM=dumb", "APPFW="+program, "INPUTRC=/dev/null"), raceEnv...)
		s := newTerminal(w.t, shell)
		s.expect(`\$ $`)
		s.send("stty tostop; $APPFW run -- sh -c 'curl -s http://11.22.0.20; exit 3' &\n")
		s.expect(`appfw: denied tcp 11\.22\.0\.20:80: `)
		s.send("wait %1; echo code=$?\n")
		s.expect(`\ncode=3\r\n`)
		s.send("exit\n")
	})
}

func init() {
	// flooding DENIED EVERY URL connects to so many addresses, which has to fail, and
	// gets the URL each time that so many have; it says how often.
	probes["flooding"] = func(args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		every, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		var next, got atomic.Int64
		const workers = 8
		errs := make(chan error, workers)
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(100 + i>>16), byte(i >> 8), byte(i)}), 80)
					if c, err := net.Dial("tcp4", addr.String()); err == nil {
						errs <- fmt.Errorf("connected to %v", c.RemoteAddr())
						return
					}
					if i%every != 0 {
						continue
					}
					r, err := client.Get(args[2])
					if err != nil {
						errs <- err
						return
					}
					r.Body.Close()
					got.Add(1)
				}
			})
		}
		all.Wait()
		close(errs)
		fmt.Println("got", got.Load())
		return <-errs
	}
}

// A flood of denials hides nothing that is allowed, and each of them is accounted for.
func TestDeniedFlood(t *testing.T) {
	w := newWorld(t)
	const flood, every = 50_000, 250
	log := filepath.Join(w.user.Home, "log.json")
	r := w.run(append([]string{"--allow", "11.22.0.10", "--log", log, "--"}, probing("flooding", fmt.Sprint(flood), fmt.Sprint(every), "http://11.22.0.10/")...)...)
	wants(t, w.ok(r), fmt.Sprintf("got %d\n", flood/every))
	file, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	allowed, ended := make(map[uint64]bool), make(map[uint64]bool)
	records, denied, dropped := 0, 0, 0
	for lines := bufio.NewScanner(file); lines.Scan(); records++ {
		var rec journal.Record
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		switch rec.Event + " " + rec.Verdict {
		case "decision allow":
			allowed[rec.Flow] = true
		case "close allow":
			ended[rec.Flow] = true
		case "decision deny":
			denied += max(rec.Count, 1)
		case "dropped deny":
			dropped += rec.Count
		default:
			t.Errorf("odd record: %s", lines.Text())
		}
	}
	if len(allowed) != flood/every || len(ended) != flood/every {
		t.Errorf("%d flows were allowed, and %d ended, of %d", len(allowed), len(ended), flood/every)
	}
	if denied+dropped != flood {
		t.Errorf("%d denials and %d dropped, of %d", denied, dropped, flood)
	}
	if most := 2*flood/every + 2*flood; records > most {
		t.Errorf("%d records", records)
	}
	t.Logf("%v; %d records; %d denials, and %d dropped", r.took, records, denied, dropped)
	if n := strings.Count(r.stderr, "\n"); n > 4096+10 {
		t.Errorf("%d lines on stderr", n)
	}
}
