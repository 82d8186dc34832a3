package explicit

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// raw is a server that shows the head of each request, and does what answer says with
// the rest.
func raw(t *testing.T, heads chan<- string, answer func(c net.Conn, r *bufio.Reader)) string {
	return server(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			head += line
		}
		heads <- head
		answer(c, r)
	})
}

// What is asked of a server is what the client has asked, byte for byte.
func TestForwardedTarget(t *testing.T) {
	noLeak(t)
	heads := make(chan string, 1)
	at := raw(t, heads, func(c net.Conn, _ *bufio.Reader) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
	})
	s := newService(t, newTenant(t, "allow 127.0.0.1").Proxy, nil)
	for target, want := range map[string]string{
		"/a%2Fb|c": "/a%2Fb|c", "/a/../b//c;d": "/a/../b//c;d", "/%7Euser?": "/%7Euser?", "?q=|\"<>": "/?q=|\"<>", "": "/", "/p?q#frag": "/p?q#frag",
		"//two": "http://" + at + "//two", "/a?b?c=%zz": "/a?b?c=%zz", "/\xe4\xc3\xa4": "/\xe4\xc3\xa4",
	} {
		c := s.dial(t)
		send(t, c, "GET http://"+at+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(target, err)
		}
		if response.StatusCode != 200 {
			b, _ := io.ReadAll(response.Body)
			t.Errorf("%q: %s %s", target, response.Status, b)
			continue
		}
		if line, _, _ := strings.Cut(<-heads, "\r\n"); line != "GET "+want+" HTTP/1.1" {
			t.Errorf("%q: %q", target, line)
		}
		if len(response.Header["Content-Type"]) > 0 || len(response.Header["Date"]) > 0 {
			t.Errorf("made up: %v", response.Header)
		}
		c.Close()
	}
	c := s.dial(t)
	send(t, c, "OPTIONS http://"+at+" HTTP/1.1\r\nHost: x\r\n\r\n")
	if got := <-heads; !strings.HasPrefix(got, "OPTIONS * HTTP/1.1\r\n") {
		t.Errorf("%q", got)
	}
}

// A client that waits to be told to send its body hears what the server says of it.
func TestForwardedExpect(t *testing.T) {
	noLeak(t)
	s := newService(t, newTenant(t, "allow 127.0.0.1").Proxy, nil)
	heads := make(chan string, 1)
	for want, answer := range map[string]string{
		"HTTP/1.1 417 Expectation Failed\r\n": "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 401 Unauthorized\r\n":       "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n":           "HTTP/1.1 100 Continue\r\n\r\n",
	} {
		at := raw(t, heads, func(c net.Conn, r *bufio.Reader) {
			_, _ = io.WriteString(c, answer)
			if strings.Contains(answer, " 100 ") {
				_, _ = io.CopyN(io.Discard, r, 3)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		c := s.dial(t)
		send(t, c, "PUT http://"+at+"/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
		r := bufio.NewReader(c)
		if got, err := r.ReadString('\n'); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		if head := <-heads; !strings.Contains(head, "Expect: 100-continue\r\n") {
			t.Errorf("%q", head)
		}
		if strings.Contains(answer, " 100 ") {
			_, _ = r.ReadString('\n')
			send(t, c, "abc")
			if got, err := r.ReadString('\n'); got != "HTTP/1.1 200 OK\r\n" || err != nil {
				t.Errorf("after the body: %q, %v", got, err)
			}
		}
		c.Close()
	}
}

// A request that cannot be made again does not go by a connection that the server has
// closed.
func TestForwardedKept(t *testing.T) {
	noLeak(t)
	heads := make(chan string, 1)
	at := raw(t, heads, func(c net.Conn, r *bufio.Reader) { // and hangs up
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if b, _ := r.Peek(1); len(b) > 0 {
			_, _ = io.CopyN(io.Discard, r, 3)
		}
	})
	s := newService(t, newTenant(t, "allow 127.0.0.1").Proxy, nil)
	c := s.dial(t)
	r := bufio.NewReader(c)
	for range 20 {
		for _, request := range []string{"GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n", "POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"} {
			send(t, c, fmt.Sprintf(request, at))
			if status, body := hear1(t, r); status != 200 || body != "ok" {
				t.Errorf("%d %q", status, body)
			}
			<-heads
		}
	}
}

// Who has sent a whole request may end that side, and gets the answer; a body that is cut
// off stays so, both ways.
func TestForwardedEnds(t *testing.T) {
	noLeak(t)
	heads, free := make(chan string, 1), make(chan struct{})
	at := raw(t, heads, func(c net.Conn, r *bufio.Reader) {
		<-free
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	s := newService(t, newTenant(t, "allow 127.0.0.1").Proxy, nil)
	c := s.dial(t)
	send(t, c, "GET http://"+at+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = c.CloseWrite()
	<-heads
	close(free)
	if status, body := hear1(t, bufio.NewReader(c)); status != 200 || body != "ok" {
		t.Errorf("%d %q", status, body)
	}
	short := raw(t, heads, func(c net.Conn, _ *bufio.Reader) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
	})
	c = s.dial(t)
	send(t, c, "GET http://"+short+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(response.Body); err == nil || string(b) != "ok" {
		t.Errorf("%q, %v", b, err)
	}
	<-heads
}
