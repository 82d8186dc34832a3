package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/journal"
	"appfw/testdata/internet"
)

// session is an app under appfw that is told line by line what to do.
type session struct {
	*world
	cmd      *internet.Cmd
	in       io.Writer
	out, err *output
}

// session starts an app: flags, "--", command.
func (w *world) session(args ...string) *session {
	w.t.Helper()
	return w.start(append([]string{"run"}, args...)...)
}

// start starts the program with args.
func (w *world) start(args ...string) *session {
	w.t.Helper()
	return w.talk(program, args...)
}

// talk starts a command on the host.
func (w *world) talk(name string, args ...string) *session {
	w.t.Helper()
	s := &session{world: w, cmd: w.Command(w.t.Context(), w.user, name, args...), out: newOutput(), err: newOutput()}
	s.cmd.Env = append(s.cmd.Env, raceEnv...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.err
	in, err := s.cmd.StdinPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	s.in = in
	w.t.Cleanup(func() { s.end() }) // before what is left is killed
	return s
}

// run has the app, a shell, run a script, and returns all its output.
func (s *session) run(script string) (out string, ok bool) {
	s.t.Helper()
	s.tell("{ " + script + "\n} 2>&1; echo \"END $?\"")
	found := s.await(s.out, `(?s)^(.*?)END (\d+)\n`)
	return found[1], found[2] == "0"
}

func (s *session) ok(script string) string {
	s.t.Helper()
	out, ok := s.run(script)
	if !ok {
		s.t.Fatalf("%s: %s\nstderr: %s", script, out, s.err)
	}
	return out
}

// until has a script run until it prints want.
func (s *session) until(script, want string) {
	s.t.Helper()
	for started := time.Now(); ; {
		out, _ := s.run(script)
		if strings.Contains(out, want) {
			return
		}
		if time.Since(started) > patience {
			s.t.Fatalf("%s: %q, and not %q\nstderr: %s", script, out, want, s.err)
		}
	}
}

// patience is how long anything may take.
const patience = 10 * time.Second

func (s *session) tell(line string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, line); err != nil {
		s.t.Fatal(err)
	}
}

// ask tells the app something, and returns the line that it answers.
func (s *session) ask(line string) string {
	s.t.Helper()
	s.tell(line)
	return s.await(s.out, `^(.*)\n`)[1]
}

// answer is ask, of an app to which no answer is wrong.
func (s *session) answer(line string) (answer string, ok bool) {
	s.t.Helper()
	return s.ask(line), true
}

func (s *session) signal(sig unix.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// end ends the app's input, and returns the exit code.
func (s *session) end() int {
	s.in.(io.Closer).Close()
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}

// await waits until what was written matches, and forgets it up to there.
func (s *session) await(o *output, pattern string) []string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	timer := time.AfterFunc(patience, o.expire)
	defer timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.expired = false; ; o.more.Wait() {
		if at := re.FindSubmatchIndex(o.text[o.read:]); at != nil {
			found := re.FindStringSubmatch(string(o.text[o.read:]))
			o.read += at[1]
			return found
		}
		if o.expired {
			rest := string(o.text[o.read:])
			o.mu.Unlock()
			defer o.mu.Lock()
			s.t.Fatalf("no %q in %q\nstderr: %s", pattern, rest, s.err)
		}
	}
}

// says waits until all of parts stand on stderr, in any order: what a program has
// written is read by and by.
func (s *session) says(parts ...string) {
	s.t.Helper()
	timer := time.AfterFunc(patience, s.err.expire)
	defer timer.Stop()
	s.err.mu.Lock()
	defer s.err.mu.Unlock()
	s.err.expired = false
	for _, part := range parts {
		for !strings.Contains(string(s.err.text), part) {
			if s.err.expired {
				s.t.Errorf("no %q on stderr: %s", part, s.err.text)
				return
			}
			s.err.more.Wait()
		}
	}
}

// output is what a program wrote.
type output struct {
	mu      sync.Mutex
	more    *sync.Cond
	text    []byte
	read    int // of text
	expired bool
}

func newOutput() *output {
	o := new(output)
	o.more = sync.NewCond(&o.mu)
	return o
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	o.more.Broadcast()
	return len(b), nil
}

func (o *output) expire() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expired = true
	o.more.Broadcast()
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

const readAnew = `appfw: the policy was read anew\n`

// reload has appfw read its policy anew by a signal.
func (s *session) reload() {
	s.t.Helper()
	s.signal(unix.SIGHUP)
	s.await(s.err, readAnew)
}

// asAnother runs a test in the two ways in which the app is somebody who cannot
// change what root wrote; flags are those it takes.
func asAnother(t *testing.T, test func(w *world, flags []string)) {
	t.Run("ordinary", func(t *testing.T) {
		w := newWorld(t)
		w.user = w.Ordinary()
		test(w, nil)
	})
	t.Run("sudo", func(t *testing.T) {
		w := newWorld(t)
		test(w, []string{"--user", w.Ordinary().Name})
	})
}

const (
	getExample = "curl -sS -m 5 http://example.com"
	getOther   = "curl -sS -m 5 http://other.example"
	notFound   = "Could not resolve host"
)

// log reads the log, and what it says of reloads.
func (s *session) log(path string) (records []journal.Record, reloads []string) {
	s.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	var others strings.Builder
	for line := range strings.Lines(string(text)) {
		if _, reason, ok := strings.Cut(line, `"event":"reload","reason":"`); ok {
			reloads = append(reloads, strings.TrimSuffix(reason, "\"}\n"))
		} else {
			others.WriteString(line)
		}
	}
	return readLog(s.t, others.String()), reloads
}
