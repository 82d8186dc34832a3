package explicit

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/upstream/socks"
)

// onLoopback is one end of a pair of sockets that says it is one of TCP. Real ones
// would use up the ports.
type onLoopback struct{ *net.UnixConn }

func (onLoopback) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:1080"))
}
func (onLoopback) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:9"))
}

// unixPair is the two ends of a pair of sockets.
func unixPair(t testing.TB) (ends [2]*net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	return ends
}

// fuzzPort is what stands for the port of the destinations in what is fuzzed.
const fuzzPort = 4567

// fuzzed is a service whose policy allows one server. Another one is at the same
// port of 127.0.0.2.
type fuzzed struct {
	*tenant
	service *Service
	port    uint16

	seen      sync.Mutex
	forbidden int      // connections to the other server
	hosts     []string // that requests to the server named
}

func newFuzzed(f *testing.F) *fuzzed {
	x := new(fuzzed)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	x.port = at.Port()
	serve(f, l, func(c net.Conn) { // of HTTP, but it answers anything
		_ = c.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(c)
		for {
			request, err := http.ReadRequest(r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if err != nil {
				return
			}
			x.seen.Lock()
			x.hosts = append(x.hosts, request.Host)
			x.seen.Unlock()
			if _, err := io.Copy(io.Discard, request.Body); err != nil {
				return
			}
		}
	})
	other, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), x.port).String())
	if err != nil {
		f.Fatal(err)
	}
	serve(f, other, func(net.Conn) {
		x.seen.Lock()
		defer x.seen.Unlock()
		x.forbidden++
	})
	x.tenant = newTenant(f, "allow "+at.String()+"\nallow a.example:"+strconv.Itoa(int(x.port)))
	x.service = New(Config{Proxy: x.Proxy})
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { x.service.Run(ctx) })
	f.Cleanup(func() {
		cancel()
		work.Wait()
	})
	return x
}

// converse has a client say b and leave. It asserts that this ends, and that what
// was allowed was what the policy allows. It returns what the client heard, and
// what hosts the server was asked for.
func (x *fuzzed) converse(t *testing.T, b []byte) (heard []byte, hosts []string) {
	t.Helper()
	b = bytes.ReplaceAll(b, []byte(strconv.Itoa(fuzzPort)), []byte(strconv.Itoa(int(x.port))))
	b = bytes.ReplaceAll(b, []byte{fuzzPort >> 8, fuzzPort & 0xff}, []byte{byte(x.port >> 8), byte(x.port)})
	x.Forget()
	x.seen.Lock()
	x.hosts = nil
	x.seen.Unlock()
	ends := unixPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		x.service.Serve(t.Context(), onLoopback{ends[1]}, proxy.Subject{Client: "127.0.0.1:9"}, listenBeside)
	}()
	_ = ends[0].SetDeadline(time.Now().Add(patience))
	go func() {
		_, _ = ends[0].Write(b)
		_ = ends[0].CloseWrite()
	}()
	heard, err := io.ReadAll(ends[0])
	if os.IsTimeout(err) {
		t.Fatalf("%q: no end", b)
	}
	ends[0].Close()
	within(t, "the client", func() { <-served })
	x.AllEnded(t)
	for _, e := range x.All() {
		if e.Verdict.Allowed() && e.Proto != "dns" && e.Dst != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), x.port) {
			t.Fatalf("%q: allowed %+v", b, e)
		}
	}
	x.seen.Lock()
	defer x.seen.Unlock()
	if x.forbidden > 0 {
		t.Fatalf("%q reaches what is denied", b)
	}
	return heard, x.hosts
}

// FuzzServeSOCKS: whatever a client says, it is served to an end, and reaches only
// what is allowed.
func FuzzServeSOCKS(f *testing.F) {
	const port = "\x11\xd7"
	for _, s := range []string{
		hello5 + socksTo(1, "127.0.0.1", port) + "data", hello5 + socksTo(1, "a.example", port) + "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"\x05\x01\x02\x01\x01u\x01p" + socksTo(1, "127.0.0.2", port), hello5 + socksTo(1, "::ffff:127.0.0.2", port), hello5 + socksTo(1, "far.example", port),
		hello5 + socksTo(3, "0.0.0.0", "\x00\x00"), hello5 + socksTo(0xf0, "a.example", port), hello5 + socksTo(0xf1, "127.0.0.1", port), hello5 + socksTo(2, "127.0.0.1", port),
		"\x04\x01" + port + "\x7f\x00\x00\x01u\x00data", "\x04\x01" + port + "\x00\x00\x00\x01u\x00a.example\x00data", "\x04\x01" + port + "\x7f\x00\x00\x02\x00",
	} {
		f.Add([]byte(s))
	}
	x := newFuzzed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] != socks.Version && b[0] != socks4Version {
			return // for HTTP
		}
		heard, _ := x.converse(t, b)
		if len(heard) > 0 && heard[0] != 5 && heard[0] != 0 {
			t.Fatalf("%q: heard %q", b, heard)
		}
	})
}

// FuzzServeHTTP: as FuzzServeSOCKS, and a server is asked for no other host than
// the one that it was reached as.
func FuzzServeHTTP(f *testing.F) {
	for _, s := range []string{
		"GET http://127.0.0.1:4567/ HTTP/1.1\r\nHost: denied.example\r\n\r\nGET http://127.0.0.2:4567/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://a.example:4567/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET http://a.example:4567/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST http://a.example:4567/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nTrailer: T\r\n\r\n3;x\r\nabc\r\n0\r\nT: y\r\n\r\n",
		"GET http://a.example@127.0.0.2:4567/ HTTP/1.0\r\nConnection: Host, close\r\n\r\n", "GET http://far.example:4567/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT a.example:4567 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "CONNECT 127.0.0.2:4567 HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
		"GET http://a.example:4567/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\ndata", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	x := newFuzzed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] == socks.Version || b[0] == socks4Version {
			return
		}
		_, hosts := x.converse(t, b)
		if bytes.Contains(b, []byte("CONNECT")) {
			return // what is in a tunnel is judged by others
		}
		for _, s := range hosts {
			host, port, err := policy.SplitHostPort(s)
			addr, _ := netip.ParseAddr(host)
			name, _ := policy.ParseName(host)
			if err != nil || port != x.port || name != "a.example" && !dnsguard.Localhost(name) && addr.Unmap() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
				t.Fatalf("%q asks the server for %q", b, s)
			}
		}
	})
}
