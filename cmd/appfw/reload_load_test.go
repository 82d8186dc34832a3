package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
