package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"
)

func init() {
	probes["http3"] = probeHTTP3
	probes["datagram"] = probeDatagram
}

// probeHTTP3 goes through args: words that set something for the URLs after
// them, and URLs to get, each by a connection of its own. It prints the answers
// and errors.
func probeHTTP3(args []string) error {
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	c := http3Client{network: "udp", tickets: tickets{tls.NewLRUClientSessionCache(0), make(chan bool, 99)}}
	c.versions = []quic.Version{quic.Version1}
	var failed error
	for _, arg := range args {
		switch word, value, _ := strings.Cut(arg, "="); word {
		case "udp4", "udp6":
			c.network = word
		case "v1":
		case "v2":
			c.versions = []quic.Version{quic.Version2}
		case "v2,v1":
			c.versions = []quic.Version{quic.Version2, quic.Version1}
		case "small": // a ClientHello that fits into one datagram
			c.curves = []tls.CurveID{tls.X25519, tls.CurveP384}
		case "to": // all of them, whatever the URL says
			c.to = value
		case "0-RTT":
			c.early = true
		case "same": // one socket
			c.keep = true
		case "new":
			c.socket = nil
		case "upload": // as many bytes, which come back
			fmt.Sscan(value, &c.upload)
		case "or-tcp":
			c.tcp = true
		default:
			text, err := c.get(arg)
			if err != nil {
				text, failed = err.Error()+"\n", errors.New("failed")
			}
			fmt.Print(text)
		}
	}
	return failed
}

// http3Client gets URLs.
type http3Client struct {
	network, to      string
	versions         []quic.Version
	curves           []tls.CurveID
	tickets          tickets
	early, keep, tcp bool
	upload           int
	socket           *quic.Transport // that is kept, or nil
}

// tickets keeps the last session, to resume it whatever the name is.
type tickets struct {
	cache tls.ClientSessionCache
	came  chan bool // gets one for each
}

func (t tickets) Get(string) (*tls.ClientSessionState, bool) { return t.cache.Get("") }

func (t tickets) Put(_ string, s *tls.ClientSessionState) {
	t.cache.Put("", s)
	if s != nil {
		t.came <- true
	}
}

func (c *http3Client) get(url string) (text string, err error) {
	var conn *quic.Conn
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{CurvePreferences: c.curves, ClientSessionCache: c.tickets},
		Dial: func(ctx context.Context, addr string, conf *tls.Config, _ *quic.Config) (*quic.Conn, error) {
			conn, err = c.dial(ctx, addr, conf)
			return conn, err
		},
	}
	defer transport.Close()
	request, _ := http.NewRequest(http.MethodGet, url, nil)
	body := make([]byte, c.upload)
	if c.early {
		request.Method = http3.MethodGet0RTT
	} else if _, _ = rand.Read(body); c.upload > 0 {
		request, _ = http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	}
	response, err := transport.RoundTrip(request)
	if err != nil && c.tcp {
		fmt.Println(err)
		conn = nil
		response, err = http.DefaultClient.Do(request)
	}
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil || c.tcp {
		return string(b), err
	}
	if c.upload > 0 {
		return fmt.Sprintf("the same: %t\n", bytes.Equal(b, body)), nil
	}
	if c.early {
		<-c.tickets.came
	}
	state := conn.ConnectionState()
	return fmt.Sprintf("%s by %s %s, %v, 0-RTT %t\n", bytes.TrimSpace(b), state.Version, response.Proto, state.TLS.CurveID, state.Used0RTT), nil
}

func (c *http3Client) dial(ctx context.Context, addr string, conf *tls.Config) (*quic.Conn, error) {
	if c.to != "" {
		addr = c.to
	}
	to, err := net.ResolveUDPAddr(c.network, addr)
	if err != nil {
		return nil, err
	}
	socket := c.socket
	if socket == nil {
		udp, err := net.ListenUDP(c.network, nil)
		if err != nil {
			return nil, err
		}
		socket = &quic.Transport{Conn: udp}
	}
	if c.keep {
		c.socket = socket
	}
	config := &quic.Config{Versions: c.versions}
	if c.early {
		return socket.DialEarly(ctx, to, conf, config)
	}
	return socket.Dial(ctx, to, conf, config)
}

// Ports of serveHTTP3.
const (
	h3Plain = 443 + iota
	h3Retry // proves that the client has its address, by a Retry
	h3P384  // asks for another key by a HelloRetryRequest
	h3V1    // answers others by Version Negotiation
)

// serveHTTP3 makes example serve HTTP/3 as it does HTTPS, and echo uploads.
func (w *world) serveHTTP3() {
	w.t.Helper()
	hello := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, _ := io.ReadAll(r.Body)
			_, _ = rw.Write(b)
			return
		}
		fmt.Fprintf(rw, "hello from %s", r.Host)
	})
	for port, tune := range map[int]func(*quic.Transport, *http3.Server){
		h3Plain: nil,
		h3Retry: func(t *quic.Transport, _ *http3.Server) {
			t.VerifySourceAddress = func(net.Addr) bool { return true }
		},
		h3P384: func(_ *quic.Transport, s *http3.Server) { s.TLSConfig.CurvePreferences = []tls.CurveID{tls.CurveP384} },
		h3V1:   func(_ *quic.Transport, s *http3.Server) { s.QUICConfig.Versions = []quic.Version{quic.Version1} },
	} {
		w.example.ServeHTTP3(port, hello, tune, "example.com", "shared.example")
	}
}

// http3Datagrams is how many came for HTTP/3.
func (w *world) http3Datagrams() (n int) {
	w.t.Helper()
	for port := h3Plain; port <= h3V1; port++ {
		n += w.PacketsTo(w.example.Addr4(), unix.IPPROTO_UDP, uint16(port)) + w.PacketsTo(w.example.Addr6(), unix.IPPROTO_UDP, uint16(port))
	}
	return n
}

// handshakes are those that a server can want.
var handshakes = []struct {
	port  int
	words string
	want  string
}{
	{h3Plain, "", "v1 HTTP/3.0, X25519MLKEM768"},
	{h3Plain, "small", "v1 HTTP/3.0, X25519"},
	{h3Plain, "v2", "v2 HTTP/3.0, X25519MLKEM768"},
	{h3Plain, "v2 small", "v2 HTTP/3.0, X25519"},
	{h3Retry, "", "v1 HTTP/3.0, X25519MLKEM768"},
	{h3Retry, "v2 small", "v2 HTTP/3.0, X25519"},
	{h3P384, "", "v1 HTTP/3.0, CurveP384"},
	{h3P384, "v2 small", "v2 HTTP/3.0, CurveP384"},
	{h3V1, "v2,v1", "v1 HTTP/3.0, X25519MLKEM768"},
}

// HTTP/3 is judged by the name it shows, in whatever way the handshake goes:
// of two names on a server, the allowed one is reached, and of the other the
// server gets no datagram.
func TestQUIC(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		run := func(network string, port int, words, url string) result {
			args := append([]string{network, fmt.Sprintf("to=example.com:%d", port)}, strings.Fields(words)...)
			return w.run(append([]string{"--allow", "example.com", "--"}, probing("http3", append(args, url)...)...)...)
		}
		for _, network := range []string{"udp4", "udp6"} {
			for _, h := range handshakes {
				r := run(network, h.port, h.words, "https://shared.example")
				w.denied(r, fmt.Sprintf("appfw: denied udp shared.example:%d: no rule allows it (to allow: --allow shared.example:%[1]d/udp)\n", h.port))
				wants(t, r.stdout, "CONNECTION_REFUSED (remote): appfw: no rule allows it")
			}
		}
		if n := w.http3Datagrams(); n != 0 {
			t.Errorf("%d datagrams came for a name that is not allowed", n)
		}
		for _, network := range []string{"udp4", "udp6"} {
			for _, h := range handshakes {
				r := run(network, h.port, h.words, "https://example.com")
				if out, want := w.ok(r), "hello from example.com by "+h.want+", 0-RTT false\n"; out != want || r.stderr != "" {
					t.Errorf("%s %d %s: %q, not %q; stderr: %s", network, h.port, h.words, out, want, r.stderr)
				}
			}
			if out := w.ok(run(network, h3Plain, "upload=1048576", "https://example.com")); out != "the same: true\n" {
				t.Errorf("upload: %q", out)
			}
		}
	})
}

// A session that is resumed shows its name ahead of what it sends at once.
func TestQUICEarlyData(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		for _, version := range []string{"v1 small", "v2"} {
			words := append(strings.Fields(version), "0-RTT", "https://example.com", "https://example.com", "to=example.com:444", "https://shared.example")
			r := w.run(append([]string{"--allow", "example.com", "--"}, probing("http3", words...)...)...)
			w.denied(r, "appfw: denied udp shared.example:444: no rule allows it")
			wants(t, r.stdout, "0-RTT false\nhello from example.com by ", "0-RTT true\n", "CONNECTION_REFUSED (remote): appfw: ")
		}
		if n := w.PacketsTo(w.example.Addr4(), unix.IPPROTO_UDP, 444) + w.PacketsTo(w.example.Addr6(), unix.IPPROTO_UDP, 444); n != 0 {
			t.Errorf("%d datagrams came for a name that is not allowed", n)
		}
	})
}

// What shares a socket is judged, too.
func TestQUICOneSocket(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		r := w.run(append([]string{"--allow", "example.com", "--"},
			probing("http3", "to=example.com:443", "same", "https://example.com", "https://shared.example", "new", "https://example.com")...)...)
		w.denied(r, "appfw: denied udp shared.example:443: no rule allows it")
		lines := strings.SplitAfter(r.stdout, "\n")
		if len(lines) < 3 || !strings.HasPrefix(lines[0], "hello") || !strings.Contains(lines[1], "CONNECTION_REFUSED") || !strings.HasPrefix(lines[2], "hello") {
			t.Errorf("answers: %q", lines)
		}
	})
}

// Where a name cannot matter, it is not looked at.
func TestQUICPolicies(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		get := func(to, name string, flags ...string) result {
			return w.run(append(append(flags, "--"), probing("http3", "to="+to, "https://"+name)...)...)
		}
		for _, to := range []string{"11.22.0.10:443", "[2a0d:aaaa::10]:443"} {
			wants(t, w.ok(get(to, "shared.example", "--allow", to)), "hello from shared.example")
			wants(t, w.ok(get(to, "shared.example", "--allow", to, "--allow", "example.com")), "hello from shared.example")
			wants(t, w.ok(get(to, "shared.example", "--deny", "other.example")), "hello from shared.example")
			before := w.http3Datagrams()
			w.denied(get(to, "shared.example", "--deny", "shared.example"), "denied udp shared.example:443: the rule --deny shared.example (command line) denies it")
			w.denied(get(to, "shared.example", "--allow", to, "--deny", ".example"), "denied udp shared.example:443: the rule --deny .example (command line) denies it")
			if n := w.http3Datagrams() - before; n != 0 {
				t.Errorf("%d datagrams came for a denied name", n)
			}
		}
	})
}

// Without UDP a client goes on by TCP, and at once.
func TestQUICFallback(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		for _, flags := range [][]string{
			{"--allow", "example.com", "--deny", "any/udp"}, {"--allow", "example.com:443/tcp"}, {"--deny", "example.com:443/udp"},
		} {
			for _, network := range []string{"udp4", "udp6"} {
				r := w.run(append(append(flags, "--"), probing("http3", network, "or-tcp", "https://example.com")...)...)
				wants(t, w.ok(r), "CONNECTION_REFUSED (remote): appfw: ", "hello from example.com")
				wants(t, r.stderr, "appfw: denied udp example.com:443: ")
				if r.took > failFast {
					t.Errorf("%v: it took %v", flags, r.took)
				}
			}
		}
		if n := w.http3Datagrams(); n != 0 {
			t.Errorf("%d datagrams came", n)
		}
	})
}

// A client that asks the DNS is not sent to HTTP/3 where that is denied.
func TestQUICAdvertised(t *testing.T) {
	w := newWorld(t)
	w.Zone().Set("example.com. 300 IN HTTPS 1 . alpn=h3,h2", "www.example.com. 300 IN HTTPS 1 . alpn=h3-29,h3 port=8443", "shared.example. 300 IN HTTPS 1 . alpn=h3 no-default-alpn")
	const script = "for n in example.com www.example.com shared.example; do dig +short $n HTTPS; done"
	for _, c := range []struct {
		rules, want string
	}{
		{"--allow example.com --allow www.example.com --allow shared.example", "1 . alpn=\"h3,h2\"\n1 . alpn=\"h3-29,h3\" port=8443\n1 . alpn=\"h3\" no-default-alpn\n"},
		{"--deny any/udp", "1 . alpn=\"h2\"\n1 . port=8443\n"},
		{"--deny any:443/udp", "1 . alpn=\"h2\"\n1 . alpn=\"h3-29,h3\" port=8443\n"},
		{"--allow example.com/tcp --allow www.example.com:443 --allow shared.example:443", "1 . alpn=\"h2\"\n1 . port=8443\n1 . alpn=\"h3\" no-default-alpn\n"},
	} {
		out := w.ok(w.run(append(strings.Fields(c.rules), "--", "sh", "-c", script)...))
		if out != c.want {
			t.Errorf("%s: %q, not %q", c.rules, out, c.want)
		}
	}
}

// probeDatagram sends a datagram like the first of a QUIC connection, of the
// version args[1], and returns the socket's error.
func probeDatagram(args []string) error {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	var version uint32
	if _, err := fmt.Sscan(args[1], &version); err != nil {
		return err
	}
	datagram := append(binary.BigEndian.AppendUint32([]byte{0xc0}, version), "\x08destinat\x06source"...)
	if _, err := c.Write(append(datagram, make([]byte, 1200)...)); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for err == nil {
		_, err = c.Read(make([]byte, 1500))
	}
	return err
}

// A version that appfw does not read is refused where a name matters.
func TestQUICUnknownVersion(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		for _, to := range []string{"11.22.0.10:443", "[2a0d:aaaa::10]:443"} {
			for _, version := range []string{"0x1a2a3a4a", "0xff00001d", "0x51303433"} {
				r := w.run(append([]string{"--deny", "shared.example", "--"}, probing("datagram", to, version)...)...)
				w.denied(r, "appfw: denied udp "+to+": the version of QUIC is not one that is read: "+version+"\n")
				if !strings.Contains(r.stdout, unix.EHOSTUNREACH.Error()) && !strings.Contains(r.stdout, unix.EACCES.Error()) {
					t.Errorf("the socket's error: %s", r.stdout)
				}
			}
		}
		if n := w.http3Datagrams(); n != 0 {
			t.Errorf("%d datagrams came", n)
		}
	})
}

// Another client's QUIC, ngtcp2 with GnuTLS. It never hears of ICMP errors, and
// exits with 0 whatever happens; its --sni does nothing.
func TestNgtcp2(t *testing.T) {
	both(t, func(w *world) {
		w.serveHTTP3()
		const shared = "shared.example"
		for _, c := range []struct {
			flags, options, name, want string
		}{
			{"--allow example.com", "", "example.com", "|hello from examp|"},
			{"--allow example.com", "--groups=-GROUP-ALL:+GROUP-SECP384R1", "example.com", "|hello from examp|"},
			{"--allow example.com", "--scid=", "example.com", "|hello from examp|"},
			{"--allow example.com", "--change-local-addr=50ms --nat-rebinding --delay-stream=100ms", "example.com", "|hello from examp|"},
			{"--deny other.example", "", shared, "|hello from share|"},
			{"--deny " + shared + ":443/udp", "--scid=", shared, "error_code=CONNECTION_REFUSED(0x2) frame_type=0 reason_len=70 reason=[appfw: the rule --deny shared.example:443/udp (command line) denies it]"},
			{"--allow example.com --deny any/udp", "", "example.com", "reason=[appfw: the rule --deny any/udp (command line) denies it]"},
			{"--allow example.com", "--version=0x1a2a3a4a --preferred-versions=v1", "example.com", "|hello from examp|"},
			{"--allow example.com", "--version=v2draft", "example.com", "ERR_RECV_VERSION_NEGOTIATION"},
		} {
			// example.com has the address, too, so that the hello decides.
			script := "getent ahosts example.com >/dev/null; gtlsclient --no-quic-dump --exit-on-first-stream-close " + c.options + " " + c.name + " 443 https://" + c.name
			r := w.run(append(append(strings.Fields(c.flags), "--default", "allow", "--"), "sh", "-c", script)...)
			if all := r.stdout + r.stderr; !strings.Contains(all, c.want) || r.took > failFast {
				t.Errorf("%s, %s: after %v no %s in:\n%s", c.flags, script, r.took, c.want, all)
			}
		}
	})
}
