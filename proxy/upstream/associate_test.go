package upstream

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/upstream/socks"
)

// nobody has no address of this host.
func nobody(netip.Addr) bool { return false }

// What a SOCKS server answers to a request for an association.
func TestAssociateAnswers(t *testing.T) {
	noLeak(t)
	const down = true
	for _, tt := range []struct {
		about   string
		answers []string
		noUDP   bool // it carries none
		down    bool
		text    string
	}{
		{"success", []string{"\x05\x00", reply(0)}, false, false, ""},
		{"with a password", []string{"\x05\x02", "\x01\x00", reply(0)}, false, false, ""},
		{"at IPv6", []string{"\x05\x00", "\x05\x00\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50"}, false, false, ""},
		{"unknown command", []string{"\x05\x00", reply(7)}, true, false, ""},
		{"not allowed", []string{"\x05\x00", reply(2)}, true, false, ""},
		{"closed, as by sshd", []string{"\x05\x00", ""}, true, false, ""},
		{"wrong password", []string{"\x05\x02", "\x01\x01"}, false, down, "does not take the user and password"},
		{"no method", []string{"\x05\xff"}, false, down, "does not take the user and password"},
		{"SOCKS4", []string{"\x04\x5a"}, false, down, "no SOCKS5"},
		{"SOCKS4 later", []string{"\x05\x00", "\x04\x00\x00\x01\x01\x02\x03\x04\x00\x50"}, false, down, "no SOCKS5"},
		{"at a name", []string{"\x05\x00", "\x05\x00\x00\x03\x01a\x00\x50"}, false, down, "address of type 3"},
		{"short address", []string{"\x05\x00", "\x05\x00\x00\x01\x01\x02"}, false, down, "EOF"},
		{"short method", []string{"\x05"}, false, down, "EOF"},
		{"nothing", nil, false, down, ""},
	} {
		t.Run(tt.about, func(t *testing.T) {
			c := chainOf(t, "socks5h://me:geheim@"+server(t, script(tt.answers...)))
			a, err := c.Associate(t.Context(), "", "a.example", 53, nobody)
			if err == nil {
				a.Close()
			}
			if (err == nil) == (tt.noUDP || tt.down) || errors.Is(err, ErrNoUDP) != tt.noUDP || (Failure(err) != "") != tt.down {
				t.Fatal(err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "geheim")) {
				t.Error(err)
			}
		})
	}
	for _, chain := range []*Chain{chainOf(t, "http://127.0.0.1:1"), chainOf(t, "socks5h://127.0.0.1:1", "socks5h://127.0.0.1:1"), New()} {
		if _, err := chain.Associate(t.Context(), "", "a.example", 53, nobody); !errors.Is(err, ErrNoUDP) {
			t.Errorf("%v: %v", chain, err)
		}
	}
	if _, err := chainOf(t, "socks5h://"+closedPort(t)).Associate(t.Context(), "", "a.example", 53, nobody); !errors.Is(err, unix.ENETUNREACH) || Failure(err) == "" {
		t.Error(err)
	}
}

// Datagrams go with a header, to where the proxy said, or to the proxy itself if it
// said no address; and the association ends with its connection.
func TestAssociation(t *testing.T) {
	noLeak(t)
	relay, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	_ = relay.SetDeadline(time.Now().Add(10 * time.Second))
	port := relay.LocalAddr().(*net.UDPAddr).Port
	end := make(chan struct{})
	c := chainOf(t, "socks5h://"+server(t, func(c net.Conn) {
		script("\x05\x00", "\x05\x00\x00\x01\x00\x00\x00\x00"+string([]byte{byte(port >> 8), byte(port)}))(c)
		<-end
	}))
	a, err := c.Associate(t.Context(), "", "a.example", 53, nobody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.UDP.Write(append(slices.Clip(a.Header), "ping"...)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := relay.ReadFrom(b)
	if want := "\x00\x00\x00\x03\x09a.example\x00\x35ping"; err != nil || string(b[:n]) != want {
		t.Errorf("%q, %v", b[:n], err)
	}
	if _, err := relay.WriteTo([]byte("\x00\x00\x00\x01\x01\x02\x03\x04\x00\x35pong"), from); err != nil {
		t.Fatal(err)
	}
	n, err = a.UDP.Read(b)
	if data, ok := a.Receive(b[:n]); err != nil || !ok || string(data) != "pong" {
		t.Errorf("%q, %v", b[:n], err)
	}
	close(end)
	_ = a.UDP.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := a.UDP.Read(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the association did not end: %v", err)
	}
}

// Only what the destination sends is for the app; the port of a proxy may be open
// to others.
func TestAssociationSource(t *testing.T) {
	from := func(host string, port uint16) []byte {
		return append(socks.AppendAddress([]byte{0, 0, 0}, host, port), "data"...)
	}
	for _, tt := range []struct {
		about     string
		to        string
		datagrams [][]byte
		ok        []bool
	}{
		{"an address", "1.2.3.4", [][]byte{from("1.2.3.5", 53), from("1.2.3.4", 54), from("a.example", 53), from("1.2.3.4", 53), from("1.2.3.5", 53)}, []bool{false, false, false, true, false}},
		{"an address in IPv6", "1.2.3.4", [][]byte{from("::ffff:1.2.3.4", 53)}, []bool{true}},
		{"an IPv6 address", "2001:db8::1", [][]byte{from("2001:db8::2", 53), from("2001:db8::1", 53)}, []bool{false, true}},
		{"a name", "a.example", [][]byte{from("1.2.3.4", 54), from("1.2.3.4", 53), from("1.2.3.5", 53), from("1.2.3.4", 53)}, []bool{false, true, false, true}},
		{"a name, by name", "a.example", [][]byte{from("a.example", 53), from("1.2.3.4", 53)}, []bool{true, false}},
		{"no header", "a.example", [][]byte{nil, []byte("data"), {0, 0, 1, 1, 1, 2, 3, 4, 0, 53}}, []bool{false, false, false}},
	} {
		a := &Association{Header: socks.AppendAddress([]byte{0, 0, 0}, tt.to, 53)}
		for i, d := range tt.datagrams {
			if data, ok := a.Receive(d); ok != tt.ok[i] || ok && string(data) != "data" {
				t.Errorf("%s, datagram %d: %q, %v", tt.about, i, data, ok)
			}
		}
	}
}

// said is a connection to a server that has said all it will.
type said struct {
	net.Conn
	io.Reader
	from string // "": the loopback
}

func (s said) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s said) Write(b []byte) (int, error)      { return len(b), nil }
func (s said) SetDeadline(time.Time) error      { return nil }
func (s said) SetWriteDeadline(time.Time) error { return nil }
func (s said) RemoteAddr() net.Addr {
	if s.from != "" {
		return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s.from))
	}
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:1080"))
}

// A proxy elsewhere cannot have what the program sends delivered to this host or its
// neighbours.
func TestAssociateRelay(t *testing.T) {
	local := func(a netip.Addr) bool { return a == netip.MustParseAddr("11.0.0.9") }
	for _, tt := range []struct {
		from, relay string
		ok          bool
	}{
		{"11.0.0.2:1080", "0.0.0.0", true},
		{"11.0.0.2:1080", "11.0.0.2", true},
		{"11.0.0.2:1080", "11.0.0.3", true},
		{"10.0.0.2:1080", "10.0.0.2", true},
		{"11.0.0.2:1080", "127.0.0.1", false},
		{"11.0.0.2:1080", "127.9.9.9", false},
		{"11.0.0.2:1080", "10.0.0.2", false},
		{"10.0.0.2:1080", "10.0.0.3", false},
		{"11.0.0.2:1080", "169.254.169.254", false},
		{"127.0.0.1:1080", "127.0.0.1", true},
		{"11.0.0.2:1080", "11.0.0.9", false}, // local
		{"11.0.0.9:1080", "11.0.0.9", true},
		{"127.0.0.1:1080", "11.0.0.9", true},
	} {
		relay := netip.MustParseAddr(tt.relay)
		answer := "\x05\x00\x05\x00\x00\x01" + string(relay.AsSlice()) + "\x12\x34"
		at, err := associate(said{Reader: strings.NewReader(answer), from: tt.from}, nil, false, local)
		want := relay
		if relay.IsUnspecified() {
			want = netip.MustParseAddrPort(tt.from).Addr()
		}
		if (err == nil) != tt.ok || tt.ok && at != netip.AddrPortFrom(want, 0x1234) {
			t.Errorf("%s relays at %s: %v, %v", tt.from, tt.relay, at, err)
		}
	}
}

// FuzzProxyAnswers: whatever a proxy says is understood or an error with an errno,
// and what follows its answer is left.
func FuzzProxyAnswers(f *testing.F) {
	for _, s := range []string{
		"\x05\x00" + reply(0) + "data", "\x05\x02\x01\x00" + reply(0), "\x05\x02\x01\x01", "\x05\xff", "\x05\x00" + reply(5), "\x05\x00\x05\x00\x00\x03\x03abc\x00\x50data",
		"HTTP/1.1 200 OK\r\n\r\ndata", "HTTP/1.0 407 x\r\nX: y\r\n\r\n", "HTTP/1.1 2\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	user := chainOf(f, "socks5h://me:geheim@h:1").ways[0][0].user
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		conn := said{Reader: r}
		err := connectSOCKS5(context.Background(), conn, "a.example", 80, user, true)
		if err == nil {
			used := b[:len(b)-r.Len()]
			if len(used) < 2+4+1+2 || used[0] != socks.Version || !bytes.Contains(used[2:], []byte{socks.Version, 0, 0}) {
				t.Fatalf("taken for an answer: %s", hex.EncodeToString(used))
			}
		} else if up, ok := errors.AsType[*chainError](err); ok && up.errno == 0 {
			t.Fatal(err)
		}
		r.Reset(b)
		if at, err := associate(conn, user, true, nobody); err == nil && !at.IsValid() {
			t.Fatal(at)
		}
		r.Reset(b)
		if err := connectHTTP(context.Background(), conn, "a.example:80", user, func(context.Context) error { return nil }); err == nil {
			used := b[:len(b)-r.Len()]
			if !bytes.HasSuffix(used, []byte("\n")) || !bytes.HasPrefix(used, []byte("HTTP/1.")) {
				t.Fatalf("taken for an answer: %q", used)
			}
		}
	})
}
