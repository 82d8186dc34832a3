package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"appfw/proxy/journal"
)

// readLog reads the objects of a log, and checks what all of them have.
func readLog(t *testing.T, text string) []journal.Record {
	t.Helper()
	var records []journal.Record
	for line := range strings.Lines(text) {
		var r journal.Record
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if time.Since(r.Time) > time.Minute || r.Direction != "out" || r.Reason == "" ||
			!slices.Contains([]string{"decision", "close", "dns"}, r.Event) || !slices.Contains([]string{"allow", "deny"}, r.Verdict) {
			t.Errorf("odd object: %s", line)
		}
		records = append(records, r)
	}
	return records
}

// find returns the one record of an event for a destination.
func find(t *testing.T, records []journal.Record, event, name string, port uint16) journal.Record {
	t.Helper()
	var found []journal.Record
	for _, r := range records {
		if r.Event == event && r.Name == name && r.Port == port {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d records of %s %s:%d in %+v", len(found), event, name, port, records)
	}
	return found[0]
}

func TestLog(t *testing.T) {
	both(t, func(w *world) {
		w.example.ServeTCP(7, func(c net.Conn) {
			b, _ := io.ReadAll(c)
			_, _ = c.Write(append(b, b...))
		})
		path := filepath.Join(w.user.Home, "log.json")
		command := []string{"--", "sh", "-c", `printf 12345 | ncat example.com 7; ncat 11.22.0.20 7; dig +short other.example`}
		r := w.run(append([]string{"--allow", "example.com:1-99/tcp", "--log", path}, command...)...)
		wants(t, r.stdout, "1234512345")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		records := readLog(t, string(text))

		d := find(t, records, "decision", "example.com", 7)
		if d.Verdict != "allow" || d.Proto != "tcp" || d.Rule != "--allow example.com:1-99/tcp (command line)" || !strings.Contains("11.22.0.10 2a0d:aaaa::10", d.Addr) {
			t.Errorf("decision: %+v", d)
		}
		c := find(t, records, "close", "example.com", 7)
		if c.Sent == nil || *c.Sent != 5 || c.Received == nil || *c.Received != 10 || c.Duration == nil {
			t.Errorf("close: %+v", c)
		}
		denied := find(t, records, "decision", "", 7)
		if denied.Verdict != "deny" || denied.Addr != "11.22.0.20" || denied.Rule != "" || denied.Reason != "no rule allows it" {
			t.Errorf("denied: %+v", denied)
		}
		if q := find(t, records, "dns", "other.example", 0); q.Verdict != "deny" || q.Type != "A" {
			t.Errorf("dns: %+v", q)
		}

		// On stderr, and added to a file that is there.
		r = w.run(append([]string{"--quiet", "--log", "-"}, command...)...)
		var objects strings.Builder
		for line := range strings.Lines(r.stderr) {
			if strings.HasPrefix(line, "{") { // the others are the programs' own
				objects.WriteString(line)
			}
		}
		if len(readLog(t, objects.String())) < 2 {
			t.Errorf("--log -: %s", r.stderr)
		}
		w.run(append([]string{"--log", path}, command...)...)
		if again, _ := os.ReadFile(path); !strings.HasPrefix(string(again), string(text)) || len(again) == len(text) {
			t.Error("the log was not added to")
		}
	})
}

// Denied destinations are printed once, --quiet prints none, and nothing the
// app chose reaches the terminal unescaped.
func TestDeniedLines(t *testing.T) {
	both(t, func(w *world) {
		twice := []string{"--", "sh", "-c", "for i in 1 2 3; do curl -s http://11.22.0.20; curl -s http://other.example; done; true"}
		r := w.run(twice...)
		if n := strings.Count(r.stderr, "appfw: denied"); n != 2 {
			t.Errorf("%d lines: %s", n, r.stderr)
		}
		if r := w.run(append([]string{"--quiet"}, twice...)...); r.stderr != "" {
			t.Errorf("not quiet: %s", r.stderr)
		}
		r = w.run("--allow", "example.com", "--log", "-", "--", "sh", "-c",
			`printf 'GET / HTTP/1.1\r\nHost: \033[31mevil\r\n\r\n' | ncat example.com 80; dig +short '\027[31mred.example' '\010appfw: all is well'`)
		for _, c := range r.stderr {
			if c < ' ' && c != '\n' || c == 0x7f {
				t.Errorf("control character %#x in %q", c, r.stderr)
			}
		}
		wants(t, r.stderr, `\027[31mred.example`)
	})
}

// Lines of a policy that do nothing where they are get a note, and hinder nothing.
func TestNotes(t *testing.T) {
	w := newWorld(t)
	file := w.write("some.policy", "allow-from 10.0.0.0/8\nisolate destination\n")
	clients, hidden := "appfw: note: allow-from and deny-from do nothing, as no port is published (--publish)\n", "appfw: note: allow-unix does nothing: only appfw run hides sockets\n"
	isolate := "appfw: note: isolate does nothing without an upstream\n"
	unused := "appfw: note: nothing goes out by the upstream office, as no allow says via=office\n"
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--policy", file}, clients + isolate},
		{[]string{"--policy", file, "--publish", "8080:80", "--upstream", "http://11.22.0.9:80"}, ""},
		{[]string{"--upstream", "office=http://11.22.0.9:80", "--allow", "example.com"}, unused},
		{[]string{"--upstream", "office=http://11.22.0.9:80", "--allow", "example.com via=office"}, ""},
		{[]string{"--quiet", "--policy", file}, ""},
	} {
		r := w.run(append(c.flags, "--", "echo", "hello")...)
		if w.ok(r) != "hello\n" || r.stderr != c.want {
			t.Errorf("%v: %q, not %q", c.flags, r.stderr, c.want)
		}
	}
	s := w.serve("--listen", "127.0.0.1:1080", "--policy", file, "--allow-unix", "/run/some")
	s.stop()
	if said := s.err.String(); !strings.HasPrefix(said, hidden+isolate) || strings.Contains(said, clients) {
		t.Errorf("serve: %q", said)
	}
}

// Each of many denied destinations is remembered, but not without bound.
func TestManyDenied(t *testing.T) {
	w := newWorld(t)
	r := w.run(append([]string{"--"}, probing("flood", fmt.Sprint(4096+500))...)...)
	w.ok(r)
	if n := strings.Count(r.stderr, "\n"); n > 4096+1 {
		t.Errorf("%d lines", n)
	}
	wants(t, r.stderr, "appfw: too many lines like these; no more are printed (--log has them all)\n")
}

func init() {
	probes["flood"] = func(args []string) error {
		var n int
		if _, err := fmt.Sscan(args[0], &n); err != nil {
			return err
		}
		for i := range n {
			c, err := net.Dial("tcp4", fmt.Sprintf("11.%d.%d.1:80", i/256, i%256))
			if err == nil {
				c.Close()
				return fmt.Errorf("connected to %v", c.RemoteAddr())
			}
		}
		return nil
	}
}
