package supervise

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// role tells this executable which of the three processes it is in a test.
const role = "APPFW_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "supervisor":
		os.Exit(beSupervisor())
	case "gateway":
		os.Exit(beGateway())
	}
	os.Exit(m.Run())
}

// beSupervisor passes its descriptors 3, 4 and 5, and says on stderr what went wrong.
func beSupervisor() int {
	for fd := 3; fd <= 5; fd++ {
		unix.CloseOnExec(fd) // as what this process opened itself
	}
	s, err := NewSupervisor()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	var passed Passed
	passed.Add(Port, os.NewFile(3, ""))
	passed.Add(Log, os.NewFile(4, ""))
	passed.Add(Port, os.NewFile(5, ""))
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), role+"=gateway")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err = s.Start(cmd, passed); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 124
	}
	ending, err := s.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	ending.Exit()
	return 120
}

// beGateway writes into what was passed, and starts a shell with its last argument.
func beGateway() int {
	g, err := Inherit()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 123
	}
	log, first, second := g.File(Log, "log"), g.File(Port, "first"), g.File(Port, "second")
	fmt.Fprintln(log, "log")
	fmt.Fprintln(first, "first")
	fmt.Fprintln(second, "second")
	if g.File(Port, "third") != nil || g.File(Log, "another") != nil {
		fmt.Fprintln(log, "there are more")
	}
	if _, err := second.WriteString(""); err != nil || second.Name() != "second" {
		fmt.Fprintln(log, second.Name(), err)
	}
	script := os.Args[len(os.Args)-1]
	if script == slowStart {
		fmt.Println("starting")
		time.Sleep(time.Minute)
	}
	attr := &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, PidFD: new(int)}, // this thread stays
	}
	program, err := g.Start(func(begun func()) (Child, error) {
		begun()
		if script == noStart {
			return Child{}, errors.New("no program")
		}
		pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, attr)
		return Child{pid, os.NewFile(uintptr(*attr.Sys.PidFD), "program")}, err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 122
	}
	go func() {
		for range g.Reload {
			fmt.Println("reload")
		}
	}()
	ending, err := program.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 121
	}
	switch {
	case strings.HasSuffix(script, slowEnd):
		<-program.Hurry
		fmt.Println("hurried")
		time.Sleep(time.Minute)
	case strings.HasSuffix(script, steadyEnd):
		for range 10 {
			time.Sleep(EndTime / 4)
			program.Delivering()
		}
	}
	_ = ending // the supervisor has been told
	return 119
}

// What the gateway does when it starts, and when it ends, if the script ends in one.
const (
	slowStart = "# slow start"
	noStart   = "# no start"
	slowEnd   = "# slow end"
	steadyEnd = "# steady end"
)

// trio is a supervisor with a gateway and a program.
type trio struct {
	*exec.Cmd
	t      *testing.T
	out    *bufio.Reader
	stderr strings.Builder
	passed []*os.File // what the gateway writes into 3, 4 and 5
}

func start(t *testing.T, script string) *trio {
	t.Helper()
	s := &trio{Cmd: exec.Command("/proc/self/exe", script), t: t}
	s.Env = append(os.Environ(), role+"=supervisor")
	s.Stderr = &s.stderr
	s.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals are for the supervisor alone
	pipe, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(pipe)
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		s.ExtraFiles = append(s.ExtraFiles, w)
		s.passed = append(s.passed, r)
		t.Cleanup(func() { r.Close() })
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for _, w := range s.ExtraFiles {
		w.Close()
	}
	t.Cleanup(func() { _ = unix.Kill(-s.Process.Pid, unix.SIGKILL) })
	return s
}

// says waits for the next line of standard output.
func (s *trio) says(want string) {
	s.t.Helper()
	if got, err := s.out.ReadString('\n'); got != want+"\n" {
		s.t.Errorf("it said %q (%v), not %q", got, err, want)
	}
}

// ends waits for the supervisor, and compares how it ended and what it said.
func (s *trio) ends(how Ending, says string) {
	s.t.Helper()
	_ = s.Wait()
	if got := EndingOf(s.ProcessState.Sys().(syscall.WaitStatus)); got != how || s.stderr.String() != says {
		s.t.Errorf("%+v, want %+v; stderr %q", got, how, s.stderr.String())
	}
}

// The supervisor ends as the program did.
func TestEndings(t *testing.T) {
	for script, how := range map[string]Ending{
		"exit 0": {}, "exit 7": {Code: 7}, "exit 255": {Code: 255}, "exit 143": {Code: 143},
		"kill -TERM $$": {Signal: unix.SIGTERM}, "kill -INT $$": {Signal: unix.SIGINT}, "kill -KILL $$": {Signal: unix.SIGKILL},
		"kill -SEGV $$": {Signal: unix.SIGSEGV}, "kill -64 $$": {Signal: 64},
	} {
		start(t, script).ends(how, "")
	}
}

// A program that does not run after all leaves the exit code to the gateway.
func TestNoStart(t *testing.T) { start(t, noStart).ends(Ending{Code: 122}, "no program\n") }

// took compares how long something took.
func took(t *testing.T, since time.Time, least, most time.Duration) {
	t.Helper()
	if d := time.Since(since); d < least || d > most+time.Second {
		t.Errorf("it took %v", d)
	}
}

// A gateway that does not end once the program has is killed, sooner if the supervisor is
// told to end; but not while it says that it gets on.
func TestLate(t *testing.T) {
	began := time.Now()
	start(t, "exit 3 "+slowEnd).ends(Ending{Code: 3}, "")
	took(t, began, EndTime, EndTime)

	began = time.Now()
	s := start(t, "echo ready; exit 3 "+slowEnd)
	s.says("ready")
	time.Sleep(EndTime / 8)
	_ = s.Process.Signal(unix.SIGTERM)
	s.says("hurried")
	s.ends(Ending{Code: 3}, "")
	took(t, began, 0, EndTime/8+hurryTime)

	began = time.Now()
	start(t, "exit 3 "+steadyEnd).ends(Ending{Code: 3}, "")
	took(t, began, EndTime*10/4, EndTime*10/4)
}

// What ends programs ends the run before the program runs.
func TestEarly(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGUSR1} {
		s := start(t, slowStart)
		s.says("starting")
		began := time.Now()
		_ = s.Process.Signal(unix.SIGWINCH)
		_ = s.Process.Signal(sig)
		s.ends(Ending{Signal: sig}, "")
		took(t, began, 0, 0)

		s = start(t, slowStart) // a terminal tells all
		s.says("starting")
		_ = unix.Kill(-s.Process.Pid, sig)
		s.ends(Ending{Signal: sig}, "")
	}
}

// A gateway that was stopped goes on.
func TestGatewayStopped(t *testing.T) {
	s := start(t, `kill -STOP $PPID; sleep 0.2; grep State /proc/$PPID/status | cut -c 8-9 | grep -v T; kill -STOP $PPID; exit 4`)
	if line, err := s.out.ReadString('\n'); err != nil {
		t.Errorf("it stays stopped: %q, %v", line, err)
	}
	s.ends(Ending{Code: 4}, "")
}

// What is passed comes to the gateway by role, in order, and the program has none of it.
func TestPassed(t *testing.T) {
	s := start(t, "for fd in 3 4 5 6 7 8; do if (: >&$fd) 2>/dev/null; then echo has $fd; fi; done; echo end")
	s.says("end")
	s.ends(Ending{}, "")
	for i, want := range []string{"first\n", "log\n", "second\n"} {
		if got, err := io.ReadAll(s.passed[i]); string(got) != want || err != nil {
			t.Errorf("descriptor %d got %q, %v; want %q", 3+i, got, err, want)
		}
	}
}

// A signal that only the supervisor got reaches the program; SIGHUP asks for a reload.
func TestSignals(t *testing.T) {
	s := start(t, `trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.01; done`)
	s.says("ready")
	for _, want := range []struct {
		signal unix.Signal
		says   string
	}{{unix.SIGUSR1, "usr1"}, {unix.SIGHUP, "reload"}, {unix.SIGHUP, "reload"}, {unix.SIGTERM, "term"}} {
		if err := s.Process.Signal(want.signal); err != nil {
			t.Fatal(err)
		}
		s.says(want.says)
	}
	s.ends(Ending{Code: 9}, "")
}

// The supervisor stops with the program, and both go on.
func TestStops(t *testing.T) {
	s := start(t, "kill -STOP $$; echo on; exit 3")
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(s.Process.Pid, &status, syscall.WUNTRACED, nil); err != syscall.EINTR {
			if err != nil || !status.Stopped() {
				t.Fatalf("%#x, %v", status, err)
			}
			break
		}
	}
	if err := s.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.says("on")
	s.ends(Ending{Code: 3}, "")
}

// Without its gateway the program ends, and the supervisor, as one that was killed.
func TestGatewayKilled(t *testing.T) {
	s := start(t, "echo ready; kill -KILL $PPID; sleep 0.1; echo on")
	s.says("ready")
	if rest, err := io.ReadAll(s.out); len(rest) > 0 || err != nil {
		t.Errorf("the program went on: %q, %v", rest, err)
	}
	s.ends(Ending{Signal: unix.SIGKILL}, "the gateway was ended by killed\n")
}

// Without its supervisor the gateway ends, and the program.
func TestSupervisorKilled(t *testing.T) {
	s := start(t, "echo ready; exec sleep 60")
	s.says("ready")
	if err := s.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.passed[1].SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(s.passed[1]); string(got) != "log\n" || err != nil { // the end of file: nobody has it open
		t.Errorf("%q, %v", got, err)
	}
	if rest, err := io.ReadAll(s.out); len(rest) > 0 || err != nil { // the end of file: the program has it open
		t.Errorf("%q, %v", rest, err)
	}
	_ = s.Wait()
}

func TestNoSupervisor(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	silent, other := os.NewFile(uintptr(pair[0]), ""), os.NewFile(uintptr(pair[1]), "")
	defer silent.Close()
	if err := send(other, askReload); err != nil { // not what comes first
		t.Fatal(err)
	}
	defer other.Close()
	defer null.Close()
	for name, files := range map[string][]*os.File{"none": nil, "a device": {null}, "a socket that says nothing": {other}, "another message": {silent}} {
		c := exec.Command("/proc/self/exe", "exit 0")
		c.Env = append(os.Environ(), role+"=gateway")
		c.ExtraFiles = files
		out, _ := c.CombinedOutput()
		if c.ProcessState.ExitCode() != 123 || string(out) != ErrNoSupervisor.Error()+"\n" {
			t.Errorf("%s: %v, %s", name, c.ProcessState, out)
		}
	}
}

func TestMessages(t *testing.T) {
	ours, theirs, err := openControl()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	for _, m := range []message{{passSignal, []byte{15}}, {askReload, nil}, {stopped, []byte{19}}, {started, nil}, {programEnded, []byte{1, 9}}, {ignoring, make([]byte, 8)}} {
		if err := send(ours, m.kind, m.body...); err != nil {
			t.Fatal(err)
		}
		if got, err := receive(int(theirs.Fd())); err != nil || got.kind != m.kind || string(got.body) != string(m.body) {
			t.Errorf("%v has become %v, %v", m, got, err)
		}
	}
	if send(ours, descriptors, make([]byte, maxMessage)...) == nil {
		t.Error("a message without end was sent")
	}
	ours.Close()
	if m, err := receive(int(theirs.Fd())); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, %v", m, err)
	}
	for _, m := range []message{{passSignal, nil}, {passSignal, []byte{0}}, {passSignal, []byte{65}}, {passSignal, []byte{1, 2}}} {
		if s := m.signal(); s != 0 {
			t.Errorf("%v names signal %d", m, s)
		}
	}
	for _, e := range []Ending{{}, {Code: 255}, {Signal: 1}, {Signal: 64}} {
		if got, ok := (message{programEnded, endingBody(e)}).ending(); got != e || !ok {
			t.Errorf("%+v has become %+v, %v", e, got, ok)
		}
	}
	for _, body := range [][]byte{nil, {0}, {1, 0}, {1, 65}, {2, 0}, {0, 0, 0}} {
		if e, ok := (message{programEnded, body}).ending(); ok {
			t.Errorf("%v tells %+v", body, e)
		}
	}
}

func TestCopies(t *testing.T) {
	var c copies
	now := time.Unix(1000, 0)
	c.note(unix.SIGINT, now)
	c.note(unix.SIGCONT, now)
	for _, tt := range []struct {
		signal syscall.Signal
		after  time.Duration
		want   bool
	}{
		{unix.SIGINT, 0, true}, {unix.SIGINT, sameSignal - 1, true}, {unix.SIGINT, sameSignal, false},
		{unix.SIGTERM, 0, false}, {unix.SIGCONT, 0, false},
	} {
		if got := c.has(tt.signal, now.Add(tt.after)); got != tt.want {
			t.Errorf("%v after %v: %v", tt.signal, tt.after, got)
		}
	}
}

func TestCheckInherited(t *testing.T) {
	socket := func(domain, kind int) *os.File {
		t.Helper()
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "it")
		t.Cleanup(func() { f.Close() })
		return f
	}
	pair := func(kind int) *os.File {
		t.Helper()
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "it")
		t.Cleanup(func() { f.Close(); unix.Close(fds[1]) })
		return f
	}
	open := func(name string) *os.File {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	closed := open(os.DevNull)
	closed.Close()
	for _, tt := range []struct {
		what string
		file *os.File
		want string
	}{
		{"a directory", open("/"), "/ is a directory"},
		{"TCP", socket(unix.AF_INET, unix.SOCK_STREAM), "it is a socket"},
		{"UDP", socket(unix.AF_INET, unix.SOCK_DGRAM), "it is a socket"},
		{"a stream that is not connected", socket(unix.AF_UNIX, unix.SOCK_STREAM), "it is a socket"},
		{"a pair of datagrams", pair(unix.SOCK_DGRAM), "it is a socket"},
		{"a pair of streams", pair(unix.SOCK_STREAM), "<nil>"},
		{"a device", open(os.DevNull), "<nil>"},
		{"closed", closed, "<nil>"},
	} {
		if got := fmt.Sprint(checkInherited(tt.file)); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
}

func TestProcess(t *testing.T) {
	cat := exec.Command("cat")
	stdin, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	open := func() (*Process, chan bool) {
		t.Helper()
		p, err := OpenProcess(cat.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan bool)
		go func() { ended <- p.Ended() }()
		return p, ended
	}
	forgotten, given := open()
	waited, ended := open()
	defer waited.Close()
	select {
	case <-ended:
		t.Error("it has ended")
	case <-time.After(10 * time.Millisecond):
	}
	if !waited.Lives() {
		t.Error("it does not live")
	}
	forgotten.Close()
	if <-given {
		t.Error("what was closed has ended")
	}
	stdin.Close()
	if !<-ended {
		t.Error("its end was not seen")
	}
	if waited.Lives() || forgotten.Lives() {
		t.Error("it lives on")
	}
	_ = cat.Wait()
	if _, err := OpenProcess(cat.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("one that is gone: %v", err)
	}
}

func TestFollow(t *testing.T) {
	c := exec.Command("sh", "-c", `trap 'exit 5' USR2; echo ready; while :; do sleep 0.01; done`)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = bufio.NewReader(out).ReadString('\n')
		_ = unix.Kill(os.Getpid(), unix.SIGUSR2)
	}()
	if e, err := Follow(c, unix.SIGUSR2); err != nil || e != (Ending{Code: 5}) {
		t.Error(e, err)
	}
	if e, err := Follow(exec.Command("sh", "-c", "kill -TERM $$")); err != nil || e != (Ending{Signal: unix.SIGTERM}) {
		t.Error(e, err)
	}
	if _, err := Follow(exec.Command("/nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
