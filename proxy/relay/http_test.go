package relay

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"appfw/proxy/conntest"
	"appfw/proxy/sniff"
)

// conversation is what client (>) and server (<) say in turn; each part is
// received on the other side before the next is said. A part that starts with !
// is the client's and is to be cut: nothing of it arrives. One with + is held,
// until a part with = says that it arrives. What the server says with ^ may be
// lost in the end of the connection.
type conversation []string

func (c conversation) run(t *testing.T, what string) {
	t.Helper()
	x := start(t, "a.example")
	for _, part := range c {
		switch text := part[1:]; part[0] {
		case '>':
			send(t, x.client, text)
			receive(t, x.server, text)
		case '<':
			send(t, x.server, text)
			receive(t, x.client, text)
		case '+':
			send(t, x.client, text)
		case '^':
			send(t, x.server, text)
		case '=':
			receive(t, x.server, text)
		case '!':
			_, _ = io.WriteString(x.client, text) // cut already, perhaps
			if rest, err := io.ReadAll(x.server); len(rest) > 0 || !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%s: %.40q was to be cut, %q passed, %v", what, text, rest, err)
			}
		}
		if t.Failed() {
			t.Fatalf("%s: at %.60q", what, part)
		}
	}
	if last := c[len(c)-1]; last[0] != '!' {
		x.client.CloseWrite()
		receiveEnd(t, x.server, io.EOF)
		x.server.CloseWrite()
		receiveEnd(t, x.client, io.EOF)
	}
	<-x.ended
}

func TestRelayHTTP(t *testing.T) {
	head := func(host string, fields string) string {
		return "POST /x HTTP/1.1\r\nHost: " + host + "\r\n" + fields + "\r\n"
	}
	good, evil := head("a.example", ""), head("b.example", "")
	upgrade := head("a.example", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	const webSocket = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" // RFC 6455, 1.3
	connect := "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	chunked := "Transfer-Encoding: chunked\r\n"
	large := strings.Repeat("GET / HTTP/1.1\r\nHost: b.example\r\n\r\n", 20000)
	for what, c := range map[string]conversation{
		"keep-alive":                  {">" + good, "<" + ok, ">" + good, "<" + ok},
		"second request":              {">" + good, "<" + ok, "!" + evil},
		"pipelined":                   {">" + good, "!" + evil},
		"second request, no host":     {">" + good, "<" + ok, "!GET b.example HTTP/1.1\r\n\r\n"},
		"second request, garbage":     {">" + good, "<" + ok, ">\x16\x03\x01\x00\x05hello\r\n\r\n", "!" + evil},
		"second request, any method":  {">" + good, "<" + ok, "!\xff / HTTP/1.1\r\n"},
		"second request, bare CR":     {">" + good, "<" + ok, ">GET / HTTP/1.1\rHost", "!: b.example\r\r"},
		"body":                        {">" + head("a.example", "Content-Length: 5\r\n") + "hello", "<" + ok, "!" + evil},
		"body like a request":         {">" + head("a.example", "Content-Length: 80\r\n") + (evil + strings.Repeat(".", 80))[:80], "<" + ok, ">" + good},
		"large body":                  {">" + head("a.example", "Content-Length: 700000\r\n"), ">" + large[:700000], "<" + ok, ">" + good, "!" + evil},
		"body that trickles":          {">" + head("a.example", "Content-Length: 5\r\n"), ">h", ">e", ">llo", "!" + evil},
		"no length":                   {">" + good, ">body\r\n", ">OggS\x00\x02//\x00\n//", ">\nX http:/", "!/b.example/\r\n"},
		"no length, good":             {">" + good, ">body\r\n", "!" + good}, // nobody knows what it belongs to
		"no length, HTTP/2":           {">" + good, ">body\r\n", "!PRI * HTTP/2.0\r\n\r\n"},
		"no length, upgrade":          {">" + good, ">body\r\nGET / HTTP/1.1\r\n", "!Upgrade: h2c\r\n"},
		"no length, CONNECT":          {">" + good, ">body\r\nCONNECT ", "!b.example:80\r\n"},
		"chunked":                     {">" + head("a.example", chunked) + "5;x=y\r\nhello\r\n", ">3\r\nabc\r\n0\r\n\r\n", "<" + ok, ">" + good, "!" + evil},
		"chunked, in pieces":          {">" + head("a.example", chunked) + "5\r\nhe", ">llo\r", ">\n", ">0", ">\r\nX: y\r\n", ">\r\n", ">" + good, "!" + evil},
		"large chunk":                 {">" + head("a.example", chunked) + "Aae60\r\n", ">" + large[:0xaae60], ">\r\n0\r\n\r\n", "!" + evil},
		"chunk of negative size":      {">" + head("a.example", chunked), "!-1\r\n"},
		"chunk size too large":        {">" + head("a.example", chunked), "!8000000000000000\r\n"},
		"chunk size wraps":            {">" + head("a.example", chunked), "!10000000000000001\r\n"},
		"chunk size 0x":               {">" + head("a.example", chunked), "!0x5\r\n"},
		"chunk size, blank":           {">" + head("a.example", chunked), "!5 \r\n"},
		"chunk, bare LF":              {">" + head("a.example", chunked), "!5\nhello\r\n"},
		"chunk, bare CR":              {">" + head("a.example", chunked), "!5;a\rb\r\nhello\r\n"},
		"chunk, LF after it":          {">" + head("a.example", chunked) + "5\r\nhello", "!\n0\r\n\r\n"},
		"chunk line without end":      {">" + head("a.example", chunked), "!5;" + strings.Repeat("x", 5000) + "\r\n"},
		"trailer, folded":             {">" + head("a.example", chunked) + "0\r\n", "! X\r\n\r\n"},
		"length and chunked":          {"!" + head("a.example", "Content-Length: 5\r\n"+chunked)},
		"two lengths":                 {"!" + head("a.example", "Content-Length: 5\r\nContent-Length: 6\r\n")},
		"one length twice":            {">" + head("a.example", "Content-Length: 5\r\nContent-Length: 5\r\n") + "hello", "!" + evil},
		"chunk extension, blank":      {">" + head("a.example", chunked) + "5 ; x = y\r\nhello\r\n0\r\n\r\n", "!" + evil},
		"trailer with a Host":         {">" + head("a.example", chunked) + "0\r\n", "!Host: a.example\r\n\r\n"},
		"trailer with a length":       {">" + head("a.example", chunked) + "0\r\n", "!Content-Length: 5\r\n\r\n"},
		"a page that says 101":        {">" + upgrade, "<HTTP/1.1 101 x\r\n\r\n", "!" + evil},
		"a page that names WebSocket": {">" + upgrade, "<HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "!" + evil},
		"101 for another protocol":    {">" + upgrade, "<HTTP/1.1 101 x\r\nUpgrade: tcp\r\n\r\n", "!" + evil},
		"101 for a raw stream":        {">" + head("a.example", "Upgrade: tcp\r\n"), "<HTTP/1.1 101 x\r\nUpgrade: tcp\r\n\r\n", ">anything\n", ">else", "!\n" + evil},
		"101, and on":                 {">" + head("a.example", "Upgrade: tcp\r\n"), "<HTTP/1.1 101 x\r\nUpgrade: tcp\r\n\r\n", ">" + good, "!" + evil},
		"length list":                 {"!" + head("a.example", "Content-Length: 5, 5\r\n")},
		"length +5":                   {"!" + head("a.example", "Content-Length: +5\r\n")},
		"length empty":                {"!" + head("a.example", "Content-Length:\r\n")},
		"length too large":            {"!" + head("a.example", "Content-Length: 9223372036854775808\r\n")},
		"other coding":                {"!" + head("a.example", "Transfer-Encoding: gzip, chunked\r\n")},
		"coding twice":                {"!" + head("a.example", chunked+chunked)},
		"coding with a tab":           {"!" + head("a.example", "Transfer-Encoding: \x0bchunked\r\n")},
		"HTTP/1.0 chunked":            {"!POST / HTTP/1.0\r\nHost: a.example\r\n" + chunked + "\r\n"},
		"CONNECT with a body":         {"!CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n"},
		"WebSocket":                   {">" + upgrade, "<" + webSocket, "<\x81\x02hi", ">\x81\x82mask\x05\x08", ">" + evil},
		"WebSocket, refused":          {">" + upgrade, "<" + ok, ">" + good, "<" + ok, "!" + evil},
		"WebSocket, refused, frame":   {">" + upgrade, "<" + ok, ">\x81\x82mask\x05\x08", "!\n" + evil},
		"WebSocket, too early":        {">" + upgrade, "+\x81\x82", "<" + webSocket, "=\x81\x82"},
		"WebSocket, later":            {">" + good, "<" + ok, ">" + upgrade, "<" + webSocket, ">\x81\x82mask\x05\x08"},
		"WebSocket, after others":     {">" + good, ">HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n", ">" + upgrade, "<" + ok, "<HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "<" + webSocket, ">\x81\x80mask"},
		"a body that says 101":        {">" + good, ">" + upgrade, "<HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n....", "<" + ok, "!" + evil},
		"chunks that say 101":         {">" + good, ">" + upgrade, "<HTTP/1.1 200 OK\r\n" + chunked + "\r\n10\r\nHTTP/1.1 101 x\r\n\r\n0\r\n\r\n", "<" + ok, "!" + evil},
		"no body that says 101":       {">HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n", ">" + upgrade, "<HTTP/1.1 200 OK\r\n\r\n", "<HTTP/1.1 304 x\r\nContent-Length: 3\r\n\r\n", "!" + evil},
		"continue":                    {">" + head("a.example", "Expect: 100-continue\r\nContent-Length: 2\r\n"), "<HTTP/1.1 100 Continue\r\n\r\n", ">hi", "<" + ok, ">" + upgrade, "<HTTP/1.1 103 x\r\nLink: y\r\n\r\n", "<" + webSocket, ">\x81\x80mask"},
		"answers not understood":      {">" + good, "<ICY 200 OK\r\n\r\n", ">" + good, "!" + upgrade},
		"the server spoke first":      {"<HTTP/1.1 101 x\r\n\r\n", ">" + good, "!" + upgrade},
		"101 to another request":      {">" + good, ">" + upgrade, "^HTTP/1.1 101 x\r\n\r\n", "!"},
		"h2c":                         {">" + head("a.example", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"), "<HTTP/1.1 101 x\r\n\r\n", "!PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		"h2c, refused":                {">" + head("a.example", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"), "<" + ok, ">" + head("a.example", "Upgrade: h2c\r\n"), "<" + ok, "!" + evil},
		"upgrade to lines":            {">" + upgrade, "<HTTP/1.1 101 x\r\n\r\n", ">GET 0\n", ">PRIM\n", "!Host: a.example\n"},
		"upgrade, then nothing":       {">" + upgrade, "<" + webSocket, "<hello"},
		"upgrade to TLS":              {">" + upgrade, "<HTTP/1.1 101 x\r\n\r\n", "!" + string(conntest.ClientHello(t, &tls.Config{ServerName: "b.example"}))},
		"upgrade to HTTP/2":           {">" + upgrade, "<HTTP/1.1 101 x\r\n\r\n", ">P", ">RI", "! * HTTP/2.0\r\n\r\n"},
		"CONNECT":                     {">" + connect, "<HTTP/1.1 200 OK\r\n\r\n", ">" + string(conntest.ClientHello(t, &tls.Config{ServerName: "a.example"})), "<\x16\x03\x03\x00\x02hi"},
		"CONNECT, other name within":  {">" + connect, "<HTTP/1.1 200 OK\r\n\r\n", "!" + string(conntest.ClientHello(t, &tls.Config{ServerName: "b.example"}))},
		"CONNECT, other host within":  {">" + connect, "<HTTP/1.1 200 OK\r\n\r\n", ">" + good, "!" + evil},
		"CONNECT, refused":            {">" + connect, "<HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", ">" + good, "!" + evil},
		"the server ends the request": {">" + upgrade, "<HTTP/1.1 500 x\r\n\r\nand so on"},
		"server-sent events":          {">" + good, "<HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", "<data: 1\n\n", "<data: 2\n\n"},
	} {
		t.Run(what, func(t *testing.T) { c.run(t, what) })
	}
}

// An app that leaves while a server does not say whether it agrees is noticed.
func TestRelayAwaits(t *testing.T) {
	const upgrade = "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	const agreed = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	for what, leave := range map[string]func(x *running){
		"reset":            func(x *running) { Reset(x.client) },
		"reset, with more": func(x *running) { send(t, x.client, "\x81\x80mask"); Reset(x.client) },
	} {
		x := start(t, "a.example")
		send(t, x.client, upgrade)
		receive(t, x.server, upgrade)
		leave(x)
		receiveEnd(t, x.server, unix.ECONNRESET)
		if err := <-x.ended; unreadable(err) {
			t.Errorf("%s: reported as denied: %v", what, err)
		}
	}
	x := start(t, "a.example")
	send(t, x.client, upgrade)
	x.client.CloseWrite()
	receive(t, x.server, upgrade)
	receiveEnd(t, x.server, io.EOF)
	send(t, x.server, "HTTP/1.1 101 x\r\n\r\nhello")
	x.server.CloseWrite()
	receive(t, x.client, "HTTP/1.1 101 x\r\n\r\nhello")
	receiveEnd(t, x.client, io.EOF)
	<-x.ended
	// More than is read meanwhile waits, and is not lost.
	x = start(t, "a.example")
	send(t, x.client, upgrade)
	receive(t, x.server, upgrade)
	more := "\x81" + strings.Repeat("x", 3*sniff.MaxHead)
	go func() { _, _ = io.WriteString(x.client, more) }()
	send(t, x.server, agreed)
	receive(t, x.server, more)
}

// FuzzRelayHTTP: of what passes, net/http makes no request for another host.
func FuzzRelayHTTP(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.0\r\nHost: b.example\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: x\r\n\r\nGET http://b.example/ HTTP/1.1\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: a.example\r\n\r\nx\r\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, state, err := sniff.Identify(b, true); err != nil || state != sniff.Named || len(b) > 1<<16 {
			return
		}
		x := start(t, "a.example")
		go func() { _, _ = x.client.Write(b); _ = x.client.CloseWrite() }()
		x.server.CloseWrite() // agrees to nothing
		passed, _ := io.ReadAll(x.server)
		Reset(x.client) // leaves no port in TIME_WAIT
		Reset(x.server)
		<-x.ended
		if !bytes.HasPrefix(b, passed) {
			t.Fatalf("%q became %q", b, passed)
		}
		for r := bufio.NewReader(bytes.NewReader(passed)); ; {
			for next, err := r.Peek(1); err == nil && (next[0] == '\r' || next[0] == '\n'); next, err = r.Peek(1) {
				_, _ = r.Discard(1)
			}
			served, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if name, _, err := sniff.HostName(served.Host); err == nil && name != "" && name != "a.example" {
				t.Fatalf("%q: a request for %q passed", passed, name)
			}
			if _, err := io.Copy(io.Discard, served.Body); err != nil {
				return
			}
		}
	})
}
