package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/netns/supervise"
	"appfw/testdata/internet"
)

// endMargin is what a loaded machine adds to the time in which something ends.
const endMargin = 1500 * time.Millisecond

// awaitEnd waits until a command has ended, and returns how. It fails the test if that
// takes longer than appfw may take, and kills it then.
func awaitEnd(t *testing.T, c *internet.Cmd) supervise.Ending {
	t.Helper()
	done := make(chan struct{})
	began := time.Now()
	go func() { _ = c.Wait(); close(done) }()
	select {
	case <-done:
		if took := time.Since(began); took > supervise.EndTime+endMargin {
			t.Errorf("it took %v to end", took)
		}
	case <-time.After(patience):
		t.Errorf("it does not end")
		_ = c.Process.Kill()
		<-done
	}
	return supervise.EndingOf(c.ProcessState.Sys().(syscall.WaitStatus))
}

// appfw ends as the program would without it.
func TestEndsAsTheProgram(t *testing.T) {
	both(t, func(w *world) {
		for _, script := range []string{
			"exit 0", "exit 3", "exit 130", "kill -INT $$", "kill -TERM $$", "kill -KILL $$", "kill -HUP $$", "kill -USR1 $$",
			"ulimit -c unlimited; kill -SEGV $$", "kill -ABRT $$", "kill -34 $$", "kill -64 $$",
		} {
			how := func(args ...string) supervise.Ending {
				c := w.Command(t.Context(), w.user, args[0], args[1:]...)
				c.Dir = w.user.Home
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				return awaitEnd(t, c)
			}
			bare, under := how("sh", "-c", script), how(program, "run", "--", "sh", "-c", script)
			if bare != under {
				t.Errorf("%s: %+v, and %+v without appfw", script, under, bare)
			}
		}
	})
}

// A loop in a shell stops at Ctrl-C, as without appfw.
func TestCtrlCEndsLoops(t *testing.T) {
	both(t, func(w *world) {
		for _, prefix := range []string{"", "$APPFW run -- "} {
			shell := w.Command(t.Context(), w.user, "bash", "--norc", "--noprofile", "-i")
			shell.Env = append(shell.Env, "PS1=$ ", "TERM=dumb", "APPFW="+program)
			s := newTerminal(t, shell)
			s.expect(`\$ $`)
			s.send("for i in 1 2 3; do " + prefix + "sh -c 'echo up; exec sleep 100'; echo went on; done\n")
			s.expect(`\nup\r\n`)
			s.send(ctrlC)
			s.expect(`\$ $`)
			s.send("echo code=$?\n")
			s.expect(`^echo code=\$\?\r\ncode=130\r\n\$ $`)
		}
	})
}

// What the caller ignores and blocks, the program ignores and blocks, and nothing else.
func TestDispositions(t *testing.T) {
	both(t, func(w *world) {
		const show = `grep -E "Sig(Blk|Ign)" /proc/self/status`
		for _, before := range []string{
			"", "trap '' TERM;", "trap '' PIPE;", "trap '' HUP INT QUIT USR1 USR2 ALRM TSTP TTIN TTOU WINCH;", "trap '' 34 64 XFSZ;",
		} {
			how := func(run string) string {
				return w.ok(w.finish(w.Command(t.Context(), w.user, "bash", "-c", before+" exec "+run, program)))
			}
			if bare, under := how(show), how(`"$0" run -- `+show); bare != under {
				t.Errorf("%q: %q, and without appfw %q", before, under, bare)
			}
		}
		const block = `import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD])
signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])`
		how := func(args ...string) string {
			return w.ok(w.finish(w.Command(t.Context(), w.user, "env", append([]string{"python3", "-c", block}, args...)...)))
		}
		if bare, under := how("/bin/sh", "-c", show), how(program, "run", "--", "/bin/sh", "-c", show); bare != under {
			t.Errorf("blocked: %q, and without appfw %q", under, bare)
		}
		// One that is ignored does not end appfw, either.
		c := w.Command(t.Context(), w.user, "sh", "-c", `trap '' TERM; exec "$0" run -- sh -c 'echo up; read x; exit 4'`, program)
		stdin, _ := c.StdinPipe()
		stdout, _ := c.StdoutPipe()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = stdout.Read(make([]byte, 3))
		_ = c.Process.Signal(unix.SIGTERM)
		time.Sleep(100 * time.Millisecond)
		stdin.Close()
		if e := awaitEnd(t, c); e != (supervise.Ending{Code: 4}) {
			t.Errorf("%+v", e)
		}
	})
}

// Limits and other things that a process inherits are as without appfw.
func TestInheritedLimits(t *testing.T) {
	both(t, func(w *world) {
		const show = `bash -c "ulimit -Sa; ulimit -Ha; umask; nice; cat /proc/self/oom_score_adj /proc/self/timerslack_ns"`
		for _, before := range []string{"", "ulimit -Sn 777;", "ulimit -n 500; ulimit -Sc 0; ulimit -f 1000; umask 027; renice 5 $$ >/dev/null;"} {
			how := func(run string) string {
				return w.ok(w.finish(w.Command(t.Context(), w.user, "bash", "-c", before+" exec "+run, program)))
			}
			if bare, under := how(show), how(`"$0" run -- `+show); bare != under {
				t.Errorf("%q: %q, and without appfw %q", before, under, bare)
			}
		}
	})
}

// Nobody reads what appfw says: that is no reason to end, as it is none for the program.
func TestStderrClosed(t *testing.T) {
	both(t, func(w *world) {
		c := w.Command(t.Context(), w.user, program, "run", "--", "sh", "-c", "curl -s http://1.2.3.4; curl -s http://1.2.3.5; exit 6")
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		read.Close()
		c.Stderr = write
		err = c.Start()
		write.Close()
		if err != nil {
			t.Fatal(err)
		}
		if e := awaitEnd(t, c); e != (supervise.Ending{Code: 6}) {
			t.Errorf("%+v", e)
		}
	})
}

// The program ends with appfw, however that ends, and whoever reads from it notices. The
// exit code does not say that nothing was run.
func TestKilled(t *testing.T) {
	both(t, func(w *world) {
		for _, victims := range []string{"supervisor", "gateway", "both"} {
			c := w.Command(t.Context(), w.user, program, "run", "--", "sh", "-c", "echo $$; exec sleep 1000")
			stdout, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			stderr := newOutput()
			c.Stderr = stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 20)
			if n, _ := stdout.Read(b); n == 0 {
				t.Fatal("it does not run")
			}
			gateway := child(t, c.Process.Pid)
			if victims != "supervisor" {
				_ = unix.Kill(gateway, unix.SIGKILL)
			}
			if victims != "gateway" {
				_ = c.Process.Kill()
			}
			ended := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, stdout); close(ended) }()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Errorf("%s killed: the program goes on", victims)
			}
			if e := awaitEnd(t, c); e != (supervise.Ending{Signal: unix.SIGKILL}) {
				t.Errorf("%s killed: %+v", victims, e)
			}
			if victims == "gateway" && !strings.Contains(stderr.String(), "appfw: the gateway was ended by killed, and sh with it\n") {
				t.Errorf("%s", stderr)
			}
		}
	})
}

// Whatever is left behind when the program has ended, and whoever does not read, does not
// keep appfw.
func TestEndsInTime(t *testing.T) {
	both(t, func(w *world) {
		done := make(chan struct{})
		w.example.ServeTCP(7, func(net.Conn) { <-done }) // reads nothing
		w.t.Cleanup(func() { close(done) })
		const left = `(exec >/dev/null 2>&1 </dev/null; exec `
		probe := func(name string, args ...string) string {
			return left + strings.Join(probing(name, args...), " ") + `) & `
		}
		ready := filepath.Join(w.user.Home, "ready")
		wait := "while ! test -e " + ready + "; do sleep 0.05; done; exit 5"
		for what, script := range map[string]string{
			"a child that asks for names and never reads":         probe("unread", "192.0.0.1:53", ready, "dns") + wait,
			"a child that asks others for names and never reads":  probe("unread", "11.22.0.10:53", ready, "dns") + wait,
			"a child that asks the proxy and never reads":         probe("unread", "192.0.0.1:1080", ready, "http") + wait,
			"a child that sends to who does not read":             probe("unread", "11.22.0.10:7", ready, "text") + wait,
			"what it sends itself to who does not read":           strings.Join(probing("unread", "11.22.0.10:7", ready, "text", "exit"), " ") + "; exit 5",
			"a child that opens connections on and on":            probe("connects", "11.22.0.10:7", ready) + wait,
			"a child that asks for what is denied":                probe("connects", "11.22.0.20:7", ready) + wait,
			"a child that has standard output open":               "sleep 1000 & exit 5",
			"a gateway that was told to stop, which is forbidden": "kill -STOP $PPID; exit 5",
		} {
			_ = os.Remove(ready)
			c := w.Command(t.Context(), w.user, program, "run", "--quiet", "--allow", "11.22.0.10", "--allow", "example.com", "--log", filepath.Join(w.user.Home, "log.json"), "--", "sh", "-c", script)
			c.Stdout = os.Stderr // a file: to be read by nobody
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			w.awaitExit("sh -c", what)
			if e := awaitEnd(t, c); e != (supervise.Ending{Code: 5}) {
				t.Errorf("%s: %+v", what, e)
			}
			w.killLeft()
		}
	})
}

// awaitExit waits until the programs that begin like that have ended.
func (w *world) awaitExit(command, what string) {
	w.t.Helper()
	for began := time.Now(); slices.ContainsFunc(w.Processes(), func(p internet.Process) bool { return strings.HasPrefix(p.Command, command) }); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 3*patience {
			w.t.Fatalf("%s: the program does not end", what)
		}
	}
}

// killLeft kills what a run has left behind.
func (w *world) killLeft() {
	for _, p := range w.Processes() {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
}

// What the program has sent arrives, though it takes longer than appfw has otherwise; but
// not when it is told to end.
func TestDelivered(t *testing.T) {
	both(t, func(w *world) {
		const size = 6 << 20
		got := make(chan int64, 1)
		w.example.ServeTCP(7, func(c net.Conn) {
			total := int64(0)
			for {
				n, err := io.CopyN(io.Discard, c, size/24)
				if total += n; err != nil {
					break
				}
				time.Sleep(250 * time.Millisecond)
			}
			got <- total
		})
		send := fmt.Sprintf("import socket; s = socket.create_connection(('11.22.0.10', 7)); s.sendall(b'x' * %d)", size)
		for _, told := range []bool{false, true} {
			c := w.Command(t.Context(), w.user, program, "run", "--allow", "11.22.0.10", "--", "python3", "-c", send)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			w.awaitExit("python3", "a program that sends")
			began := time.Now()
			if told {
				_ = c.Process.Signal(unix.SIGTERM)
			}
			_ = c.Wait()
			took, n := time.Since(began), <-got
			if e := supervise.EndingOf(c.ProcessState.Sys().(syscall.WaitStatus)); e != (supervise.Ending{}) {
				t.Errorf("%+v", e)
			}
			if !told && n != size || told && took > supervise.EndTime+endMargin {
				t.Errorf("told to end %v: %d of %d arrived in %v", told, n, size, took)
			}
			t.Logf("%d of %d arrived in %v", n, size, took)
		}
	})
}

// A terminal whose output is stopped keeps nobody.
func TestStoppedTerminal(t *testing.T) {
	both(t, func(w *world) {
		const stop = `import os, termios, sys
termios.tcflow(1, termios.TCOOFF)
for i in range(int(sys.argv[1])): os.system("curl -s -m 1 http://1.2.3.%d" % i)
sys.exit(5)`
		for _, denied := range []string{"0", "5"} {
			cmd := w.Command(t.Context(), w.user, program, "run", "--", "python3", "-c", stop, denied)
			newTerminal(t, cmd)
			w.awaitExit("python3", "a stopped terminal")
			if e := awaitEnd(t, cmd); e != (supervise.Ending{Code: 5}) {
				t.Errorf("%s denials: %+v", denied, e)
			}
		}
	})
}

// TERM and INT end a run whose program has ended, or does not run yet, at once.
func TestToldToEnd(t *testing.T) {
	both(t, func(w *world) {
		fifo := filepath.Join(w.user.Home, "fifo")
		if err := unix.Mkfifo(fifo, 0o666); err != nil {
			t.Fatal(err)
		}
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
			for _, args := range [][]string{
				{"run", "--policy", fifo, "--", "true"},
				{"serve", "--listen", "127.0.0.1:1080", "--policy", fifo},
				{"attach", "--netns", "/nowhere", "--policy", fifo},
			} {
				if args[0] == "attach" && w.user.UID != 0 {
					continue // which is looked for first
				}
				c := w.Command(t.Context(), w.user, program, args...)
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(300 * time.Millisecond)
				if err := c.Process.Signal(sig); err != nil {
					t.Errorf("%q has ended: %v", args, err)
				}
				if e := awaitEnd(t, c); e.Signal != sig {
					t.Errorf("%q, %v: %+v", args, sig, e)
				}
			}
		}
	})
}

// Services end in time when they are told to, whatever their clients do, whoever reads
// what they say.
func TestServicesEnd(t *testing.T) {
	both(t, func(w *world) {
		done := make(chan struct{})
		w.example.ServeTCP(7, func(net.Conn) { <-done }) // reads nothing
		w.t.Cleanup(func() { close(done) })
		ready := filepath.Join(w.user.Home, "ready")
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
			for what, args := range map[string][]string{
				"asks for names and never reads":     {"192.0.0.1:53", ready, "dns"},
				"asks the proxy and never reads":     {"192.0.0.1:1080", ready, "http"},
				"sends to one who does not read":     {"11.22.0.10:7", ready, "text"},
				"asks somebody else and never reads": {"11.22.0.10:53", ready, "dns"},
				"opens connections, more and more":   nil,
			} {
				shell, pid := w.handmade()
				// Nobody takes the lock, or what once was it, from appfw.
				shell.ok(`python3 -c '
import fcntl, os, socket, time
s = socket.socket(socket.AF_UNIX); s.bind("\0appfw-gateway"); s.listen()
f = open("/proc/self/ns/net"); fcntl.flock(f, fcntl.LOCK_EX)
if os.fork() == 0: time.sleep(1000)' >/dev/null 2>&1 </dev/null`)
				_ = os.Remove(ready)
				a := w.start("attach", "--pid", pid, "--allow", "11.22.0.10", "--quiet", "--log", filepath.Join(w.user.Home, "log.json"))
				w.awaitLink(shell)
				probe := strings.Join(probing("unread", args...), " ")
				if args == nil {
					probe = strings.Join(probing("connects", "11.22.0.10:7", ready), " ")
				}
				shell.ok("(" + probe + " >/dev/null 2>&1 </dev/null &) ; for i in $(seq 200); do test -e " + ready + " && break; sleep 0.05; done; test -e " + ready)
				a.signal(sig)
				if e := awaitEnd(t, a.cmd); e != (supervise.Ending{}) {
					t.Errorf("%s, %v: attach ended by %+v, %s", what, sig, e, a.err)
				}
				w.killLeft()
			}
			for what, greet := range map[string]string{
				"a client who sends and never reads":           "CONNECT 11.22.0.10:7 HTTP/1.1\r\n\r\n" + strings.Repeat("x", 1<<24),
				"a client who asks for much and reads nothing": strings.Repeat("GET http://11.22.0.20/ HTTP/1.1\r\nHost: 11.22.0.20\r\n\r\n", 1<<17),
				"a client who says nothing":                    "",
			} {
				s := w.serve("--listen", "127.0.0.1:1080", "--allow", "11.22.0.10", "--grace", "100ms")
				c, err := w.DialFromHost("tcp", "127.0.0.1:1080")
				if err != nil {
					t.Fatal(err)
				}
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = io.WriteString(c, greet)
				s.signal(sig)
				if e := awaitEnd(t, s.cmd); e != (supervise.Ending{}) {
					t.Errorf("%s, %v: serve ended by %+v, %s", what, sig, e, s.err)
				}
				c.Close()
			}
			// On a terminal whose output is stopped.
			c := w.Command(t.Context(), w.user, "python3", "-c", `import os, sys, termios
termios.tcflow(1, termios.TCOOFF); os.execv(sys.argv[1], sys.argv[1:])`, program, "serve", "--listen", "127.0.0.1:1080")
			c.Path, c.Err = "/usr/bin/python3", nil
			newTerminal(t, c)
			time.Sleep(500 * time.Millisecond)
			_ = c.Process.Signal(sig)
			if e := awaitEnd(t, c); e != (supervise.Ending{}) {
				t.Errorf("a stopped terminal, %v: serve ended by %+v", sig, e)
			}
		}
	})
}

// awaitLink waits until a namespace is served.
func (w *world) awaitLink(shell *session) {
	w.t.Helper()
	shell.until("cat /proc/net/dev; cat /proc/net/route", "eth0\t00000000")
}

// As process 1, it reaps what the program leaves behind.
func TestProcessOne(t *testing.T) {
	w := newWorld(t)
	leave := `for i in 1 2 3; do (sh -c 'sleep 0.2 & exit' &); done; sleep 1; grep -c '^State:.Z' /proc/[0-9]*/status | grep -v :0; exit 7`
	c := w.Command(t.Context(), w.user, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", program, "run", "--", "sh", "-c", leave)
	if r := w.finish(c); r.code != 7 || r.stdout != "" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	for script, code := range map[string]int{"kill -TERM $$": 143, "kill -KILL $$": 137, "exit 3": 3} {
		c := w.Command(t.Context(), w.user, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", program, "run", "--", "sh", "-c", script)
		if r := w.finish(c); r.code != code {
			t.Errorf("%s: %+v", script, r)
		}
	}
}

func init() {
	probes["unread"] = probeUnread
	probes["connects"] = probeConnects
}

// probeUnread sends to an address and reads nothing, until it cannot send any more; then
// it makes a file, and ends or stays. args: the address, the file, what it sends, "exit".
func probeUnread(args []string) error {
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	text := strings.Repeat("x", 1<<16)
	switch args[2] {
	case "dns":
		text = strings.Repeat("\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01", 100)
	case "http":
		text = strings.Repeat("GET http://1.2.3.4/ HTTP/1.1\r\nHost: 1.2.3.4\r\n\r\n", 100)
	}
	for {
		_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := io.WriteString(c, text); err != nil {
			break
		}
	}
	if err := os.WriteFile(args[1], nil, 0o666); err != nil || len(args) > 3 {
		return err
	}
	_ = c.SetWriteDeadline(time.Time{})
	_, _ = io.WriteString(c, text)
	time.Sleep(time.Hour)
	return nil
}

// probeConnects connects to an address on and on, and makes a file. args: both.
func probeConnects(args []string) error {
	for range 8 {
		go func() {
			for {
				if c, err := net.Dial("tcp", args[0]); err == nil {
					fmt.Fprintln(c, "text")
					c.Close()
				}
			}
		}()
	}
	time.Sleep(100 * time.Millisecond)
	err := os.WriteFile(args[1], nil, 0o666)
	time.Sleep(time.Hour)
	return err
}
