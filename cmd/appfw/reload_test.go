package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// A policy is read anew on SIGHUP; with a mistake in it, the old one stays.
func TestReload(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		log := filepath.Join(w.user.Home, "log.json")
		policy := w.write("a.policy", "allow example.com\n")
		s := w.session(append(flags, "--policy", policy, "--log", log, "--", "sh")...)
		wants(t, s.ok(getExample), "hello from example.com")
		if out, ok := s.run(getOther); ok {
			t.Errorf("before: %q", out)
		}

		w.write("a.policy", "allow example.com\nallow other.example\n")
		s.reload()
		wants(t, s.ok(getOther), "hello from other.example")
		wants(t, s.ok(getExample), "hello from example.com")

		w.write("a.policy", "allow example.com\n  alow other.example\n")
		s.signal(unix.SIGHUP)
		s.await(s.err, `appfw: the policy stays as it was: `+policy+`:2:3: "alow": unknown word \(did you mean allow\?\)\n`)
		w.write("a.policy", "alow example.com\nallow 10.0.0.1/8\n")
		s.signal(unix.SIGHUP)
		s.await(s.err, `appfw: the policy stays as it was: `+policy+`:1:1: "alow": unknown word \(did you mean allow\?\) \(and others\)\n`)
		w.write("a.policy", "deny @nosuch\n")
		s.signal(unix.SIGHUP)
		s.await(s.err, `appfw: the policy stays as it was: `+policy+`:1:6: "@nosuch": cannot open ".*/nosuch": no such file or directory\n`)
		wants(t, s.ok(getOther), "hello from other.example")
		w.write("a.policy", "deny other.example\n") // half a policy, perhaps
		s.signal(unix.SIGHUP)
		s.await(s.err, `appfw: the policy stays as it was: .*write default allow if that is meant\n`)
		w.make("rm", policy)
		s.signal(unix.SIGHUP)
		s.await(s.err, `appfw: the policy (stays as it was: .*a\.policy.*no such file or directory|was not read anew: .*a\.policy is not there)\n`)
		wants(t, s.ok(getOther), "hello from other.example")

		w.write("a.policy", "allow other.example:80\n")
		s.signal(unix.SIGHUP)
		s.until(getExample, notFound)
		wants(t, s.ok(getOther), "hello from other.example")
		if code := s.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		_, reloads := s.log(log)
		wants(t, strings.Join(reloads, "\n"), "the policy was read anew", "the policy stays as it was: "+policy+":2:3")
	})
}

// log reads the log, and what it says of reloads.
func (s *session) log(path string) (records []record, reloads []string) {
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

// Whatever the policy was read from is watched: itself, what it includes, its
// lists and hosts files; written in place, replaced, or gone for a while.
func TestReloadWatches(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	w.write("lists/ads", "ads.example.com\n")
	w.write("lists/names", "11.22.0.10 nas\n")
	w.write("lists/more", "allow example.com\n")
	policy := w.write("a.policy", "policy lists/more\ndeny @lists/ads\nhosts lists/names\nallow nas\n")
	s := w.session("--policy", policy, "--", "sh")
	wants(t, s.ok(getExample), "hello")
	const getNAS = "getent hosts nas"
	for i, c := range []struct {
		change       func()
		script, want string
	}{
		{func() { w.write("lists/more", "allow example.com\nallow www.example.com\n") }, "curl -sS http://www.example.com", "hello from www.example.com"},
		{func() { w.write("lists/ads", "www.example.com\n") }, "curl -sS http://www.example.com", notFound},
		{func() { w.write("lists/names", "11.22.0.20 nas\n") }, getNAS, "11.22.0.20"},
		{func() { w.make("mv", w.write("new", "allow other.example\n"), policy) }, getOther, "hello from other.example"},
		{func() {
			w.make("mv", policy, policy+".old")
			w.write("a.policy", "policy a.policy.old\nallow example.com\n")
		}, getExample, "hello"},
		{func() { w.write("a.policy.old", "deny example.com\n") }, getExample, notFound}, // included since
	} {
		c.change()
		if i == 0 {
			s.await(s.err, readAnew) // within seconds
			wants(t, s.ok(c.script), c.want)
		}
		s.until(c.script, c.want)
	}
	s.end()
	if strings.Contains(s.err.String(), "stays as it was") || strings.Contains(s.err.String(), "not read anew") {
		t.Errorf("stderr: %s", s.err)
	}
}

// What the host and the policy say of names is read anew, too, and nothing that
// was answered before is answered from the cache.
func TestReloadNames(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		first, second := w.NewZone(), w.NewZone()
		w.Host("11.22.0.61").ServeDNS(first)
		w.Host("11.22.0.62").ServeDNS(second)
		first.Set("who.example. 3600 A 11.33.0.1")
		second.Set("who.example. 3600 A 11.33.0.2")
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n11.22.0.10 nas\n")
		policy := w.write("a.policy", "dns 11.22.0.61\nallow who.example\nallow nas\n")
		s := w.session(append(flags, "--policy", policy, "--", "sh")...)
		if out := s.ok("dig +short who.example nas"); out != "11.33.0.1\n11.22.0.10\n" {
			t.Errorf("before: %q", out)
		}
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n11.22.0.20 nas\n")
		w.write("a.policy", "dns 11.22.0.62\nallow who.example\nallow nas\n")
		s.reload()
		if out := s.ok("dig +short who.example nas"); out != "11.33.0.2\n11.22.0.20\n" {
			t.Errorf("after: %q", out)
		}
		for _, q := range w.Zone().Queries() {
			t.Errorf("the host's resolver was asked %s", q)
		}
		w.write("a.policy", "dns 11.22.0.62\nallow who.example\nallow nas\nhosts names\n")
		w.write("names", "11.33.0.3 who.example nas\n")
		s.signal(unix.SIGHUP)
		s.until("dig +short who.example nas", "11.33.0.3\n11.33.0.3\n")
	})
}

func init() {
	probes["talk"] = probeTalk
}

// probeTalk does what it is told line by line, and answers each by a line:
//
//	open ID tcp|udp|tls ADDRESS [NAME]   connects; NAME is shown in TLS
//	say ID WORD                          sends a line, and waits for one
//	get ID HOST                          sends an HTTP request, and waits for the answer
//	hear ID                              waits for whatever comes
func probeTalk([]string) error {
	type conn struct {
		net.Conn
		*bufio.Reader
	}
	conns := make(map[string]conn)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var said string
		words := strings.Fields(in.Text())
		c := conns[words[1]]
		if c.Conn != nil {
			_ = c.SetDeadline(time.Now().Add(patience))
		}
		err := func() (err error) {
			switch words[0] {
			case "open":
				network, tlsName := words[2], ""
				if network == "tls" {
					network, tlsName = "tcp", words[4]
				}
				if c.Conn, err = net.DialTimeout(network, words[3], patience/2); err != nil {
					return err
				}
				if tlsName != "" {
					secured := tls.Client(c.Conn, &tls.Config{ServerName: tlsName})
					c.Conn = secured
					if err := secured.Handshake(); err != nil {
						return err
					}
				}
				c.Reader = bufio.NewReader(c.Conn)
				conns[words[1]] = c
				said = "open"
			case "say":
				if _, err := fmt.Fprintln(c.Conn, words[2]); err != nil {
					return err
				}
				said, err = c.ReadString('\n')
			case "get":
				if _, err := fmt.Fprintf(c.Conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", words[2]); err != nil {
					return err
				}
				response, err := http.ReadResponse(c.Reader, nil)
				if err != nil {
					return err
				}
				b, err := io.ReadAll(response.Body)
				said = string(b)
				return err
			case "hear":
				said, err = c.ReadString('\n')
			}
			return err
		}()
		for _, known := range []unix.Errno{unix.ECONNRESET, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.EACCES} {
			if errors.Is(err, known) {
				err = errors.New(unix.ErrnoName(known))
			}
		}
		if err != nil {
			said = err.Error()
		}
		fmt.Println(strings.TrimSpace(said))
	}
	return nil
}

// echo answers what it hears.
func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// What the new policy denies is cut, at once and on both sides; what it allows
// goes on.
func TestReloadCuts(t *testing.T) {
	asAnother(t, func(w *world, flags []string) {
		cut := make(chan error, 10)
		byAddress := w.Host("11.22.0.30")
		_, _, cert := w.Certificate("example.com", "shared.example")
		w.example.ServeTCP(8443, func(c net.Conn) {
			echo(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
		})
		w.other.ServeTCP(7, func(c net.Conn) {
			_, err := io.Copy(c, c)
			cut <- err
		})
		w.other.ServeTCP(9, func(c net.Conn) {
			for _, err := c.Write(make([]byte, 1<<20)); err == nil; {
				_, err = c.Write(make([]byte, 1<<20))
			}
		})
		loopback, err := w.ListenOnHost("tcp", "127.0.0.1:5432")
		if err != nil {
			w.t.Fatal(err)
		}
		go func() {
			if c, err := loopback.Accept(); err == nil {
				echo(c)
			}
		}()
		byAddress.ServeTCP(7, echo)
		for _, h := range []*internet.Host{w.other, byAddress} {
			h.ServeUDP(7, func(c net.PacketConn, from net.Addr, b []byte) { _, _ = c.WriteTo(b, from) })
		}
		log := filepath.Join(w.user.Home, "log.json")
		policy := w.write("a.policy", "allow example.com\nallow shared.example\nallow other.example\nallow 11.22.0.30\nallow localhost:5432\n")
		s := w.session(append(append(flags, "--policy", policy, "--log", log, "--"), probing("talk")...)...)
		wants(t, s.ask("open nobody tls shared.example:8443 shared.example"), "open") // so that example.com is not the only name there
		flows := []struct {
			id, open, say, said string
			cut                 string // what is heard of it; "" if it goes on
		}{
			{"tcp", "tcp 11.22.0.20:7", "say tcp word", "word", "ECONNRESET"},
			{"tcp6", "tcp [2a0d:aaaa::20]:7", "say tcp6 word", "word", "ECONNRESET"},
			{"idle", "tcp other.example:7", "", "", "ECONNRESET"}, // it never said anything
			{"bulk", "tcp 11.22.0.20:9", "", "", "ECONNRESET"},
			{"loopback", "tcp 127.0.0.1:5432", "say loopback word", "word", "ECONNRESET"},
			{"udp", "udp 11.22.0.20:7", "say udp word", "word", "EHOSTUNREACH"},
			{"udp6", "udp [2a0d:aaaa::20]:7", "say udp6 word", "word", "EACCES"},
			{"tls", "tls example.com:8443 example.com", "say tls word", "word", "ECONNRESET"},
			{"http", "tcp example.com:80", "get http example.com", "hello from example.com", "ECONNRESET"},

			{"tls-on", "tls shared.example:8443 shared.example", "say tls-on word", "word", ""},
			{"http-on", "tcp example.com:80", "get http-on shared.example", "hello from shared.example", ""},
			{"silent-on", "tls example.com:8443 shared.example", "", "", ""},
			{"tcp-on", "tcp 11.22.0.30:7", "say tcp-on word", "word", ""},
			{"udp-on", "udp 11.22.0.30:7", "say udp-on word", "word", ""},
		}
		s.ask("open first tcp other.example:7")                    // looks it up
		wants(t, s.ask("open nobody tcp example.com:443"), "open") // likewise
		for _, f := range flows {
			if got := s.ask("open " + f.id + " " + f.open); got != "open" {
				t.Fatalf("open %s: %s", f.id, got)
			}
			if f.say != "" {
				if got := s.ask(f.say); got != f.said {
					t.Fatalf("%s: %q", f.say, got)
				}
			}
		}

		w.write("a.policy", "allow shared.example\nallow 11.22.0.30\n")
		s.reload()
		for _, f := range flows {
			switch {
			case f.cut != "":
				if got := s.ask("hear " + f.id); got != f.cut {
					t.Errorf("%s: %q, not %s", f.id, got, f.cut)
				}
			case f.say != "":
				if got := s.ask(f.say); got != f.said {
					t.Errorf("%s after: %q", f.say, got)
				}
			}
		}
		for range 4 { // and the first one
			select {
			case err := <-cut:
				if !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("the destination saw %v, not a reset", err)
				}
			case <-time.After(patience):
				t.Fatal("a connection was not cut at the destination")
			}
		}

		// What was looked up before is judged by the new rules, too.
		for address, want := range map[string]string{"11.22.0.20:7": "ECONNREFUSED", "[2a0d:aaaa::20]:7": "ECONNREFUSED", "11.22.0.10:80": "open", "11.22.0.30:7": "open"} {
			if got := s.ask("open again tcp " + address); got != want {
				t.Errorf("%s: %s, not %s", address, got, want)
			}
		}
		w.write("a.policy", "allow other.example\n")
		s.signal(unix.SIGHUP)
		wants(t, s.ask("hear tls-on"), "ECONNRESET")
		if got := s.ask("open again tcp 11.22.0.20:7"); got != "open" { // it was given out for that name
			t.Errorf("allowed again: %s", got)
		}
		s.end()

		records, _ := s.log(log)
		count := func(event, verdict, proto, name, addr string, port uint16) (n int) {
			for _, r := range records {
				if r.Event == event && r.Verdict == verdict && r.Proto == proto && r.Name == name && r.Addr == addr && r.Port == port {
					n++
				}
			}
			return n
		}
		for _, c := range []struct {
			proto, name, addr string
			port              uint16
			cut, refused      int
		}{
			{"udp", "other.example", "11.22.0.20", 7, 1, 0},
			{"udp", "other.example", "2a0d:aaaa::20", 7, 1, 0},
			{"tcp", "other.example", "2a0d:aaaa::20", 7, 1, 1},
		} {
			if n := count("decision", "deny", c.proto, c.name, c.addr, c.port); n < c.cut+c.refused || c.proto == "udp" && n != c.cut {
				t.Errorf("%+v: %d denials", c, n)
			}
			if n, allowed := count("close", "allow", c.proto, c.name, c.addr, c.port), count("decision", "allow", c.proto, c.name, c.addr, c.port); n == 0 || n != allowed {
				t.Errorf("%+v: %d ends of %d", c, n, allowed)
			}
		}
		s.says("appfw: denied tcp other.example:7: no rule allows it (to allow: --allow other.example:7)",
			"appfw: denied udp other.example:7: no rule allows it", "appfw: denied tcp example.com:8443: no rule allows it", "appfw: denied tcp example.com:80: no rule allows it")
	})
}

// A flow that was not looked at may have shown any name: it is cut if names
// matter by now, and only then.
func TestReloadUnseenName(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	w.example.ServeTCP(7, echo)
	policy := w.write("a.policy", "allow 11.22.0.10\n")
	s := w.session(append([]string{"--policy", policy, "--"}, probing("talk")...)...)
	wants(t, s.ask("open c tcp 11.22.0.10:7"), "open")
	w.write("a.policy", "allow 11.22.0.10\nallow www.example.com\n")
	s.reload()
	wants(t, s.ask("say c word"), "word")
	w.write("a.policy", "allow 11.22.0.10\ndeny shared.example\n")
	s.signal(unix.SIGHUP)
	wants(t, s.ask("hear c"), "ECONNRESET")
	s.await(s.err, `appfw: denied tcp 11.22.0.10:7: the policy has changed, and .* the flow has shown`)
	wants(t, s.ask("open c tcp 11.22.0.10:7"), "open")
	wants(t, s.ask("say c word"), "word")
}

// A long download does not notice any number of reloads, and they leave nothing.
func TestReloadOften(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	const size, pieces = 48 << 20, 4
	next := make(chan struct{})
	w.example.ServeHTTP(8080, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Length", fmt.Sprint(size))
		for range pieces {
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			_, _ = rw.Write(make([]byte, size/pieces))
			rw.(http.Flusher).Flush()
		}
	}))
	policy := w.write("a.policy", "allow example.com\n")
	s := w.session("--policy", policy, "--", "sh")
	s.ok(getExample)
	gateway := child(t, s.cmd.Process.Pid)
	before := descriptors(t, gateway)
	s.tell("{ curl -sS http://example.com:8080 | sha256sum; dig +short example.com; } 2>&1; echo END 0")
	for i := range pieces {
		select {
		case next <- struct{}{}:
		case <-time.After(patience):
			t.Fatalf("after %d of %d pieces: %s\nstderr: %s", i, pieces, s.out, s.err)
		}
		w.write("a.policy", fmt.Sprintf("allow example.com\ndeny 11.22.%d.1\n", i+100))
		for range 5 {
			s.signal(unix.SIGHUP)
		}
		s.reload()
	}
	if out := s.await(s.out, `(?s)^(.*?)END 0\n`)[1]; out != fmt.Sprintf("%x  -\n11.22.0.10\n", sha256.Sum256(make([]byte, size))) {
		t.Errorf("%q", out)
	}
	for started := time.Now(); descriptors(t, gateway) > before+5; {
		if time.Since(started) > patience {
			t.Fatalf("%d descriptors, after %d before", descriptors(t, gateway), before)
		}
	}
}

// A policy that the program could have changed itself is not read anew.
func TestReloadRefused(t *testing.T) {
	const first, second = "allow example.com\n", "allow example.com\nallow other.example\n"
	w := newWorld(t)
	ordinary, nobody := w.Ordinary(), internet.User{Name: "nobody", UID: 65534, GID: 65534}
	asRoot := []string{"--user", ordinary.Name}
	cases := []struct {
		name string
		user internet.User
		// prepare is a script that makes the policy of first, where root owns
		// everything but own/, which is the user's.
		prepare string
		flags   []string // DIR is where that ran; they stand in own/
		file    string   // where the new policy is written
		could   string   // what the program could change; "" is nothing
	}{
		{"own file", ordinary, "cp first a; chown 20001 a", []string{"--policy", "DIR/a"}, "a", "/a"},
		{"own read-only file", ordinary, "cp first a; chown 20001 a; chmod 400 a", []string{"--policy", "DIR/a"}, "a", "/a"},
		{"everybody's file", ordinary, "cp first a; chmod 666 a", []string{"--policy", "DIR/a"}, "a", "/a"},
		{"his group's file", ordinary, "cp first a; chgrp 20001 a; chmod 664 a", []string{"--policy", "DIR/a"}, "a", "/a"},
		{"root's file in own directory", ordinary, "cp first own/a", []string{"--policy", "a"}, "own/a", "/own"},
		{"root's directory in own directory", ordinary, "mkdir own/etc; cp first own/etc/a", []string{"--policy", "etc/a"}, "own/etc/a", "/own"},
		{"root's file in everybody's directory", ordinary, "mkdir -m 777 all; cp first all/a", []string{"--policy", "DIR/all/a"}, "all/a", "/all"},
		{"link in own directory", ordinary, "cp first a; ln -s ../a own/link", []string{"--policy", "link"}, "a", "/own"},
		{"link to own directory", ordinary, "cp first own/a; ln -s own/a link", []string{"--policy", "DIR/link"}, "own/a", "/own"},
		{"by way of a link to own directory", ordinary, "cp first own/a; ln -s own link", []string{"--policy", "DIR/link/a"}, "own/a", "/own"},
		{"dots after a link", ordinary, "mkdir own/etc; cp first own/a; cp first a; ln -s own/etc link", []string{"--policy", "DIR/link/../a"}, "own/a", "/own"},
		{"link with dots after a link", ordinary, "mkdir own/etc; cp first own/a; cp first a; ln -s own/etc link; ln -s link/../a policy", []string{"--policy", "DIR/policy"}, "own/a", "/own"},
		{"own link in a sticky directory", ordinary, "mkdir -m 1777 tmp; cp first a; ln -s ../a tmp/link; chown -h 20001 tmp/link", []string{"--policy", "DIR/tmp/link"}, "a", "/tmp/link"},
		{"own file in a sticky directory", ordinary, "mkdir -m 1777 tmp; cp first tmp/a; chown 20001 tmp/a", []string{"--policy", "DIR/tmp/a"}, "tmp/a", "/tmp/a"},
		{"own list", ordinary, "cp first a; echo ads.example > own/list", []string{"--policy", "DIR/a", "--deny", "@list"}, "a", "/own"},
		{"own hosts file", ordinary, "echo hosts own/names | cat - first > a; : > own/names", []string{"--policy", "DIR/a"}, "a", "/own"},
		{"own included file", ordinary, "echo policy own/more > a; cp first own/more", []string{"--policy", "DIR/a"}, "a", "/own"},

		{"root's file", ordinary, "cp first a", []string{"--policy", "DIR/a"}, "a", ""},
		{"root's file that only root reads", w.Root(), "mkdir -m 700 etc; cp first etc/a; chmod 600 etc/a", append(asRoot, "--policy", "DIR/etc/a"), "etc/a", ""},
		{"root's file in a sticky directory", ordinary, "mkdir -m 1777 tmp; cp first tmp/a", []string{"--policy", "DIR/tmp/a"}, "tmp/a", ""},
		{"somebody else's file", ordinary, "cp first a; chown 20002 a", []string{"--policy", "DIR/a"}, "a", ""},
		{"links of root's", ordinary, "mkdir etc; cp first etc/a; ln -s etc c; ln -s c/../etc/a link", []string{"--policy", "DIR/link"}, "etc/a", ""},
		{"root as root", w.Root(), "cp first a", []string{"--policy", "DIR/a"}, "a", "/"},
		{"root as the file's owner", w.Root(), "cp first a; chown 20001 a", append(asRoot, "--policy", "DIR/a"), "a", "/a"},
		{"nobody", nobody, "cp first a", []string{"--policy", "DIR/a"}, "a", ""},
		{"nobody's file", nobody, "cp first a; chown 65534 a", []string{"--policy", "DIR/a"}, "a", "/a"},
	}
	sessions := make([]*session, len(cases))
	dir := func(i int) string { return filepath.Join(w.Dir(), fmt.Sprint("case", i)) }
	for i, c := range cases {
		w.write(fmt.Sprintf("case%d/first", i), first)
		w.make("sh", "-ec", fmt.Sprintf("cd %s; mkdir own; %s; chown %d own", dir(i), c.prepare, c.user.UID))
		w.user = c.user
		w.user.Home = dir(i) + "/own"
		flags := strings.ReplaceAll(strings.Join(c.flags, " "), "DIR", dir(i))
		sessions[i] = w.session(append(strings.Fields(flags), "--", "sh")...)
	}
	for i, c := range cases {
		wants(t, sessions[i].ok(getExample), "hello")
		w.write(fmt.Sprintf("case%d/%s", i, c.file), second)
		sessions[i].signal(unix.SIGHUP)
	}
	for i, c := range cases {
		s := sessions[i]
		said := s.await(s.err, `appfw: the policy .*`)[0]
		want := "read anew"
		if c.could != "" {
			want = "not read anew: the program itself could change " + dir(i) + c.could
		}
		if c.user.UID == 0 && c.could == "/" { // the first directory that leads there is root's, too
			want = "not read anew: the program itself could change /"
		}
		if said != "appfw: the policy was "+want {
			t.Errorf("%s: %q", c.name, said)
		}
		if out, ok := s.run(getOther); ok != (c.could == "") {
			t.Errorf("%s: %q", c.name, out)
		}
		wants(t, s.ok(getExample), "hello")
	}
}

// Nor is such a policy read when it changes; that is said once.
func TestReloadNotWatched(t *testing.T) {
	w := newWorld(t)
	policy := w.write("a.policy", "allow example.com\n")
	w.make("chown", fmt.Sprint(w.Ordinary().UID), policy)
	asNobody := w.session("--user", "nobody", "--policy", policy, "--", "sh") // who cannot change it
	asNobody.ok(getExample)
	w.user = w.Ordinary()
	s := w.session("--policy", policy, "--", "sh")
	s.ok(getExample)
	for range 2 { // it is looked at every second, and both began at the same time
		w.write("a.policy", "allow other.example\n")
		asNobody.until(getOther, "hello")
		w.write("a.policy", "allow example.com\n")
		asNobody.until(getExample, "hello")
	}
	if out, ok := s.run(getOther); ok {
		t.Errorf("the app's own policy is in force: %s", out)
	}
	if n := strings.Count(s.err.String(), "appfw: the policy was not read anew: the program itself could change "+policy); n != 1 || strings.Count(s.err.String(), "the policy") != 1 {
		t.Errorf("stderr: %s", s.err)
	}
}

// A file that changes while the policy is being read is read again.
func TestReloadMissesNothing(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	fifo := filepath.Join(w.Dir(), "list") // it is read after the policy, and for as long as it is open
	w.make("mkfifo", "-m", "644", fifo)
	open := func() *os.File {
		opened := make(chan *os.File, 1)
		go func() {
			f, _ := os.OpenFile(fifo, os.O_WRONLY, 0)
			opened <- f
		}()
		select {
		case f := <-opened:
			return f
		case <-time.After(patience):
			t.Error("the policy is not read again")
			f, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			(<-opened).Close()
			t.FailNow()
			return nil
		}
	}
	policy := w.write("a.policy", "allow example.com\ndeny @list\n")
	s := w.session("--policy", policy, "--", "sh")
	for _, text := range []string{"allow other.example\nallow example.com\ndeny @list\n", "allow www.example.com\nallow example.com\n"} {
		reading := open()
		w.write("a.policy", text)
		reading.Close()
		s.ok(getExample) // it has started
	}
	s.until("curl -sS http://www.example.com", "hello")
}

// A change is told once, whether a signal or its time brought it first.
func TestReloadOnce(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	policy, clock := w.write("a.policy", "allow example.com\n"), w.write("clock.policy", "allow example.com\n")
	watching := w.session("--policy", policy, "--policy", clock, "--", "sh")
	s := w.session("--policy", policy, "--", "sh")
	watching.ok(getExample)
	s.ok(getExample)
	w.write("a.policy", "allow other.example\n")
	s.reload()
	watching.await(watching.err, readAnew)
	w.write("clock.policy", "allow shared.example\n")
	watching.await(watching.err, readAnew) // another second later
	if n := strings.Count(s.err.String(), "read anew"); n != 1 {
		t.Errorf("%d lines for one change: %s", n, s.err)
	}
}

// A connection that is still being made is denied as one that is open is: no
// more goes to its destination.
func TestReloadCutsConnecting(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	h := w.Host("11.22.0.30").Name("dark.example")
	h.Blackhole()
	policy := w.write("a.policy", "allow dark.example\n")
	s := w.session(append([]string{"--policy", policy, "--"}, probing("talk")...)...)
	s.tell("open c tcp dark.example:80")
	for started := time.Now(); w.PacketsTo(h.Addr4(), unix.IPPROTO_TCP, 80) == 0; {
		if time.Since(started) > patience {
			t.Fatal("it does not connect")
		}
	}
	w.write("a.policy", "allow example.com\n")
	s.reload()
	if got := s.await(s.out, `^(.*)\n`)[1]; got != "ECONNREFUSED" {
		t.Errorf("%s", got)
	}
}

// A program that changes its policy, or everything that it can get at, and has
// appfw read it anew gains nothing.
func TestReloadHostile(t *testing.T) {
	both(t, func(w *world) {
		home := w.user.Home
		policy := home + "/a.policy"
		if err := os.WriteFile(policy, []byte("allow example.com\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		w.make("chown", fmt.Sprint(w.user.UID), policy)
		s := w.session("--policy", policy, "--", "sh")
		const hup = `gateway=$PPID; appfw=$(sed -n 's/^PPid:\t//p' /proc/$gateway/status); kill -HUP $gateway $appfw`
		for _, attack := range []string{
			"echo 'allow any' > " + policy,
			"rm " + policy + "; echo 'default allow' > x; ln -s x " + policy,
			"rm " + policy + "; mkfifo " + policy,
			"rm " + policy,
		} {
			s.ok(attack + "; " + hup)
			s.await(s.err, `appfw: the policy was not read anew: the program itself could change .*\n`)
			if out, ok := s.run(getOther); ok {
				t.Fatalf("%s: %s", attack, out)
			}
		}
		wants(t, s.ok(getExample), "hello from example.com")
		w.untouched(w.other)
	})
	// Of a policy that is root's, it can change nothing.
	asAnother(t, func(w *world, flags []string) {
		policy := w.write("etc/a.policy", "allow example.com\n")
		s := w.session(append(flags, "--policy", policy, "--", "sh")...)
		out, _ := s.run(fmt.Sprintf(`cd %s; echo 'allow any' > a.policy; echo 'allow any' >> a.policy; rm -f a.policy; mv a.policy b; ln -sf /dev/null a.policy; chmod 777 a.policy; mv ../etc ../x
			mount -t tmpfs none . ; mount --bind %s %[1]s; kill -HUP $PPID $(sed -n 's/^PPid:\t//p' /proc/$PPID/status); true`, filepath.Dir(policy), w.Ordinary().Home))
		if flags == nil {
			s.await(s.err, readAnew) // the same; the signal of another user would not come
		}
		if o, ok := s.run(getOther); ok {
			t.Errorf("%s: %s", out, o)
		}
		wants(t, s.ok(getExample), "hello")
		if b, err := os.ReadFile(policy); string(b) != "allow example.com\n" {
			t.Errorf("the policy is %q, %v", b, err)
		}
		w.untouched(w.other)
	})
}

// Where there is no file to read, a signal says so, and ends nothing.
func TestReloadWithoutFile(t *testing.T) {
	both(t, func(w *world) {
		s := w.session("--allow", "example.com", "--", "sh")
		s.ok("trap 'echo the app got it' HUP")
		for range 2 {
			s.signal(unix.SIGHUP)
			s.await(s.err, `appfw: there is no file to read the policy anew from; it is all on the command line\n`)
		}
		if out := s.ok(getExample); out != "hello from example.com\n" {
			t.Errorf("%q", out)
		}
		if code := s.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// hangUp does what closing the terminal does.
func (s *terminal) hangUp() {
	s.t.Helper()
	tty, err := unix.IoctlRetInt(int(s.ptmx.Fd()), unix.TIOCGPTPEER) // 0 is O_RDONLY
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Close(tty)
	if err := unix.IoctlSetInt(tty, unix.TIOCVHANGUP, 0); err != nil {
		s.t.Fatal(err)
	}
}

// When its terminal is gone, a program ends as without appfw, whoever leads the
// session; appfw's SIGHUP does not swallow the app's.
func TestHangup(t *testing.T) {
	both(t, func(w *world) {
		policy := w.write("a.policy", "allow example.com\n")
		for _, c := range []struct {
			name string
			app  string
			code int
		}{
			{"handled", `trap "echo got > hangup; exit 3" HUP; echo up; while :; do sleep 0.05; done`, 3},
			{"not handled", `echo up; exec sleep 1000`, 129},
		} {
			for _, leader := range [][]string{
				nil, // for comparison
				{program, "run", "--"},
				{program, "run", "--policy", policy, "--"},
			} {
				args := append(slices.Clone(leader), "sh", "-c", c.app)
				cmd := w.Command(t.Context(), w.user, args[0], args[1:]...)
				s := newTerminal(t, cmd)
				s.expect(`up\r\n`)
				s.hangUp()
				ended := make(chan struct{})
				go func() { _ = cmd.Wait(); close(ended) }()
				select {
				case <-ended:
				case <-time.After(patience):
					t.Errorf("%s, session leader %q: it lives on", c.name, leader)
					_ = cmd.Process.Kill()
					<-ended
					continue
				}
				code := cmd.ProcessState.ExitCode()
				if status := cmd.ProcessState.Sys().(interface{ Signaled() bool }); status.Signaled() {
					code = 129
				}
				if code != c.code {
					t.Errorf("%s, session leader %q: exit code %d, not %d", c.name, leader, code, c.code)
				}
			}
		}
		// As long as it is there, SIGHUP is for appfw, leader or not.
		cmd := w.Command(t.Context(), w.user, program, "run", "--policy", w.write("etc/a.policy", "allow example.com\n"), "--", "sh", "-c", "echo up; read x; echo got $x")
		s := newTerminal(t, cmd)
		s.expect(`up\r\n`)
		if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.expect(`appfw: the policy was [^\n]*read anew`)
		s.send("hello\n")
		s.expect(`got hello\r\n`)

		// Within a shell with job control, the shell tells its jobs.
		shell := w.Command(t.Context(), w.user, "bash", "--norc", "--noprofile", "-i")
		shell.Env = append(shell.Env, "PS1=$ ", "TERM=dumb", "APPFW="+program)
		s = newTerminal(t, shell)
		s.expect(`\$ $`)
		s.send(`rm -f hangup; $APPFW run -- sh -c 'trap "echo got > hangup; exit 3" HUP; echo up; while :; do sleep 0.05; done'` + "\n")
		s.expect(`\nup\r\n`)
		s.hangUp()
		for started := time.Now(); ; {
			if b, _ := os.ReadFile(w.user.Home + "/hangup"); string(b) == "got\n" {
				break
			}
			if time.Since(started) > patience {
				t.Fatal("the app in a shell was not told")
			}
		}
	})
}
