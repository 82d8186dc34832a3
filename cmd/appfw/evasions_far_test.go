package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"
)

// farSide is a world of which it is watched what arrives where.
type farSide struct {
	*world
	hellos  *sync.Map             // of QUIC: how many had a server name, *atomic.Int64
	sockets map[string]func() int // of the host, and what came to them
}

// newFarSide adds to a world what attempts need beside its two web servers.
func newFarSide(w *world) *farSide {
	f := &farSide{w, new(sync.Map), map[string]func() int{}}
	_, _, cert := w.Certificate("example.com", "shared.example")

	for _, c := range w.example.ListenUDP(443) {
		server := http3.Server{TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{cert}, NextProtos: []string{http3.NextProtoH3},
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				f.hellosOf(hello.ServerName).Add(1)
				return nil, nil
			},
		}}
		go func() { _ = server.Serve(c) }() // until the cleanup
		w.t.Cleanup(func() { _ = server.Close() })
	}
	// A TLS server that asks for another ClientHello: clients send no key of that curve at first.
	w.example.ServeTCP(444, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, CurvePreferences: []tls.CurveID{tls.CurveP384}})
		_, _ = io.Copy(io.Discard, s)
	})
	// One that agrees to every other protocol.
	w.example.ServeTCP(81, func(c net.Conn) {
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			answer := "HTTP/1.1 101 Switching Protocols\r\n\r\n"
			if strings.HasPrefix(string(b[:n]), http.MethodConnect) {
				answer = "HTTP/1.1 200 OK\r\n\r\n"
			}
			_, _ = io.WriteString(c, answer)
		}
	})
	// Sockets in /run of the simulated host are to be its own. Its resolv.conf may be a link to there.
	f.onHost("sh", "-c", `text=$(cat /etc/resolv.conf) && file=$(readlink -f /etc/resolv.conf) && mount -t tmpfs tmpfs /run &&
		{ test -e /etc/resolv.conf || { mkdir -p "${file%/*}" && printf '%s\n' "$text" > "$file"; }; }`)
	return f
}

// in is the far side for a test within the test.
func (f *farSide) in(t *testing.T) *farSide {
	w := *f.world
	w.t = t
	return &farSide{&w, f.hellos, f.sockets}
}

func (f *farSide) hellosOf(name string) *atomic.Int64 {
	n, _ := f.hellos.LoadOrStore(name, new(atomic.Int64))
	return n.(*atomic.Int64)
}

// watches are those that the row has.
func (f *farSide) watches(e *evasion) (watches []*watch) {
	f.setZone(e) // they may be of hosts there
	for _, what := range e.words["watch"] {
		total, err := f.watch(strings.Fields(what))
		if err != nil {
			f.t.Fatalf("watch %s: %v", what, err)
		}
		watches = append(watches, &watch{what: what, total: total})
	}
	return watches
}

// setZone sets the records that the row has, instead of all that these names had.
func (f *farSide) setZone(e *evasion) {
	z := f.Zone()
	cleared, turns := map[string]bool{}, map[string][]dns.RR{}
	for _, word := range []string{"zone", "turns", "forged"} {
		for _, line := range e.words[word] {
			how := ""
			if word == "forged" {
				how, line, _ = strings.Cut(line, " ")
			}
			rr, err := dns.NewRR(line)
			if err != nil || rr == nil || how != "" && forgeries[how] == nil {
				f.t.Fatalf("%s %s %s: %v", word, how, line, err)
			}
			name := rr.Header().Name
			if !cleared[name] {
				z.Clear(name)
				f.t.Cleanup(func() { z.Clear(name) })
				cleared[name] = true
			}
			switch word {
			case "zone":
				z.Set(line)
			case "turns":
				turns[name] = append(turns[name], rr)
			case "forged":
				z.Handle(name, func(rw dns.ResponseWriter, q *dns.Msg) { _ = rw.WriteMsg(forge(rw, z.Answer(q), how, rr)) })
			}
		}
	}
	for name, rrs := range turns {
		var next atomic.Int64
		z.Handle(name, func(rw dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			if q.Question[0].Qtype == rrs[0].Header().Rrtype {
				m.Answer = []dns.RR{rrs[min(int(next.Add(1)), len(rrs))-1]}
			}
			_ = rw.WriteMsg(m) // the client is gone
		})
	}
}

// forgeries make an answer one that is not to be believed.
var forgeries = map[string]func(m *dns.Msg, rr dns.RR){
	"ID":       func(m *dns.Msg, _ dns.RR) { m.Id++ },
	"question": func(m *dns.Msg, _ dns.RR) { m.Question[0].Name = "x." + m.Question[0].Name },
	"owner":    func(_ *dns.Msg, rr dns.RR) { rr.Header().Name = "x." + rr.Header().Name },
}

// forge makes of an answer over UDP such a one, with the record.
func forge(rw dns.ResponseWriter, m *dns.Msg, how string, rr dns.RR) *dns.Msg {
	if _, udp := rw.RemoteAddr().(*net.UDPAddr); udp && m.Question[0].Qtype == rr.Header().Rrtype {
		m.Answer = []dns.RR{dns.Copy(rr)}
		forgeries[how](m, m.Answer[0])
	}
	return m
}

// watch counts what arrives somewhere.
type watch struct {
	what   string
	total  func() int
	before int
}

func (x *watch) arrived() int { return x.total() - x.before }

// rebase has all of them begin at zero.
func rebase(watches []*watch) {
	for _, x := range watches {
		x.before = x.total()
	}
}

// watch is what the words after watch stand for.
func (f *farSide) watch(words []string) (total func() int, err error) {
	switch {
	case len(words) == 2 && words[0] == "packets":
		addrs := f.addrs(words[1])
		return func() int { return sum(addrs, f.Packets) }, nil
	case len(words) >= 2 && words[0] == "payload":
		addrs, text := f.addrs(words[1]), []byte(strings.Join(words[2:], " "))
		for _, a := range addrs {
			f.Overhear(a)
		}
		return func() int {
			return sum(addrs, func(a netip.Addr) int {
				if len(text) == 0 {
					return len(f.Heard(a))
				}
				return bytes.Count(f.Heard(a), text)
			})
		}, nil
	case len(words) >= 2 && words[0] == "question":
		text := strings.Join(words[1:], " ")
		return func() int { return strings.Count(strings.Join(f.Zone().Queries(), "\n"), text) }, nil
	case len(words) == 2 && words[0] == "quic":
		return func() int { return int(f.hellosOf(words[1]).Load()) }, nil
	case len(words) == 3 && words[0] == "host":
		return f.watchHost(words[1], words[2])
	case len(words) == 2 && words[0] == "app":
		return f.watchApp(words[1])
	}
	return nil, errors.New("not understood")
}

func sum(addrs []netip.Addr, f func(netip.Addr) int) (n int) {
	for _, a := range addrs {
		n += f(a)
	}
	return n
}

// addrs are those of a host: one, or all that a name has.
func (f *farSide) addrs(host string) (addrs []netip.Addr) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, rr := range f.Zone().Answer(new(dns.Msg).SetQuestion(dns.Fqdn(host), kind)).Answer {
			switch rr := rr.(type) {
			case *dns.A:
				addrs = append(addrs, netip.AddrFrom4([4]byte(rr.A.To4())))
			case *dns.AAAA:
				addrs = append(addrs, netip.AddrFrom16([16]byte(rr.AAAA)))
			}
		}
	}
	if addrs == nil {
		f.t.Fatalf("no host %q", host)
	}
	return addrs
}

// watchHost counts what comes to a socket of the simulated host's. Nobody answers.
func (f *farSide) watchHost(network, address string) (total func() int, err error) {
	if rest, ok := strings.CutPrefix(address, "~"); ok {
		address = f.user.Home + rest
	}
	if total := f.sockets[network+address]; total != nil {
		return total, nil
	}
	var socket any
	path := network == "unix" && address[0] == '/'
	switch {
	case network == "udp":
		socket, err = f.ListenPacketOnHost(network, address)
	case path:
		f.onHost("mkdir", "-p", filepath.Dir(address))
		fallthrough
	default:
		socket, err = f.ListenOnHost(network, address)
	}
	if err != nil {
		return nil, err
	}
	raw, err := socket.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	n := 0
	total = func() int {
		_ = raw.Control(func(fd uintptr) {
			for take(int(fd), network == "udp") {
				n++
			}
		})
		return n
	}
	if !path {
		f.sockets[network+address] = total
		return total, nil
	}
	f.onHost("chmod", "0777", address)
	// Go would do that to what has the name elsewhere; and other programs are not to find it.
	socket.(*net.UnixListener).SetUnlinkOnClose(false)
	f.t.Cleanup(func() { f.onHost("rm", address) })
	return total, nil
}

// take takes a connection or a datagram from a socket; false if there is none.
func take(fd int, datagrams bool) bool {
	if datagrams {
		_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT)
		return err == nil
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC) // Go's sockets do not block
	if err != nil {
		return false
	}
	_ = unix.Close(conn)
	return true
}

// onHost runs a command in the simulated host, as root.
func (f *farSide) onHost(name string, args ...string) {
	f.t.Helper()
	if out, err := f.Command(context.Background(), f.Root(), name, args...).CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// watchApp counts the connections to a port of the app of another run of appfw.
func (f *farSide) watchApp(port string) (total func() int, err error) {
	c := f.Command(context.Background(), f.user, program, append([]string{"run", "--allow", "any", "--"}, probing("listen", ":"+port)...)...)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() {
		_ = c.Process.Signal(unix.SIGTERM)
		_ = c.Wait() // that ended it
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return nil, errors.New("the other app does not listen")
	}
	var n atomic.Int64
	go func() {
		for lines.Scan() {
			n.Add(1)
		}
	}()
	return func() int { return int(n.Load()) }, nil
}
