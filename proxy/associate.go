package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"time"

	"appfw/policy"
)

// Of SOCKS5 (RFC 1928).
const (
	socksVersion   = 5
	methodNone     = 0
	methodPassword = 2
	commandUDP     = 3
	addressIPv4    = 1
	addressName    = 3
	addressIPv6    = 4
	noMethod       = 0xff
)

// association carries the datagrams of one UDP flow by a SOCKS5 proxy (RFC 1928,
// 7). It ends with the connection that it was asked for on.
type association struct {
	control net.Conn
	udp     *net.UDPConn // to the proxy
	header  []byte       // before each datagram that is sent
	source  string       // that the first datagram back had, address and port
}

var errNoUDP = errors.New("the upstream carries no UDP")

// Associate makes the way for datagrams to host:port. Only a chain of one SOCKS
// proxy can have one; others, and proxies that carry TCP alone, are errNoUDP.
func (c *Chain) Associate(ctx context.Context, isolation, host string, port uint16) (*association, error) {
	if len(c.hops) != 1 || !c.hops[0].socks {
		return nil, errNoUDP
	}
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	h := &c.hops[0]
	control, err := h.reach(ctx)
	if err != nil {
		return nil, upstreamFailed(ctx, h.text, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = control.SetDeadline(time.Unix(1, 0)) })
	relay, err := associate(control, c.credentials(h, isolation), h.user != nil)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	var udp *net.UDPConn
	if err == nil {
		udp, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	}
	if err != nil {
		control.Close()
		if errors.Is(err, errNoUDP) {
			return nil, err
		}
		return nil, upstreamFailed(ctx, h.text, err)
	}
	a := &association{control: control, udp: udp, header: appendAddress([]byte{0, 0, 0}, host, port)}
	go a.watch()
	return a, nil
}

// watch ends the association when the proxy does, or when it is closed.
func (a *association) watch() {
	_, _ = io.Copy(io.Discard, a.control)
	a.close()
}

// associate asks for an association, and returns where datagrams are sent to. given
// tells that user is the URL's.
func associate(conn net.Conn, user *url.Userinfo, given bool) (netip.AddrPort, error) {
	none := netip.AddrPort{}
	hello := []byte{socksVersion, 1, methodNone}
	if user != nil {
		hello = []byte{socksVersion, 2, methodNone, methodPassword}
	}
	answer := make([]byte, 4)
	if err := ask(conn, hello, answer[:2]); err != nil {
		return none, err
	}
	switch {
	case answer[0] != socksVersion:
		return none, errors.New("it is no SOCKS5 proxy")
	case answer[1] == methodPassword && user != nil:
		password, _ := user.Password()
		name := user.Username()
		if len(name) > 255 || len(password) > 255 {
			return none, errors.New("the user or the password is longer than 255 bytes")
		}
		auth := append([]byte{1, byte(len(name))}, name...)
		auth = append(append(auth, byte(len(password))), password...)
		if err := ask(conn, auth, answer[:2]); err != nil {
			return none, err
		}
		if answer[1] != 0 {
			return none, errCredentials(given)
		}
	case answer[1] != methodNone:
		return none, errCredentials(given)
	}
	request := appendAddress([]byte{socksVersion, commandUDP, 0}, "0.0.0.0", 0)
	switch err := ask(conn, request, answer); {
	case err == io.EOF: // as sshd does
		return none, errNoUDP
	case err != nil:
		return none, err
	case answer[0] != socksVersion:
		return none, errors.New("it is no SOCKS5 proxy")
	case answer[1] != 0:
		return none, errNoUDP
	}
	size := map[byte]int{addressIPv4: 4, addressIPv6: 16}[answer[3]]
	if size == 0 {
		return none, fmt.Errorf("it relays at an address of type %d", answer[3])
	}
	where := make([]byte, size+2)
	if _, err := io.ReadFull(conn, where); err != nil {
		return none, err
	}
	addr, _ := netip.AddrFromSlice(where[:size])
	addr = addr.Unmap()
	its := addrPort(conn.RemoteAddr()).Addr() // invalid: a socket of this host's
	switch {
	case addr.IsUnspecified() && its.IsValid():
		addr = its
	case its.IsValid() && !its.IsLoopback() && addr != its && (policy.Special(addr) != "" || onThisHost(addr)):
		// What the program sends must not go where the proxy's owner points it.
		return none, fmt.Errorf("it relays at %v, which is not its own address", addr)
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(where[size:])), nil
}

// ask writes and then reads what fills answer.
func ask(conn net.Conn, request, answer []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answer)
	return err
}

// appendAddress appends an address type, the address and the port.
func appendAddress(b []byte, host string, port uint16) []byte {
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		b = append(b, map[bool]byte{true: addressIPv4, false: addressIPv6}[a.Is4()])
		b = append(b, a.AsSlice()...)
	} else {
		b = append(append(b, addressName, byte(len(host))), host...)
	}
	return binary.BigEndian.AppendUint16(b, port)
}

// receive is what a datagram of the proxy's carries from the destination; false
// if nothing. The proxy's port may be open to others: where the destination is a
// name, whoever answers first from its port is it.
func (a *association) receive(datagram []byte) ([]byte, bool) {
	source, data, ok := payload(datagram)
	if !ok || !bytes.HasSuffix(source, a.header[len(a.header)-2:]) {
		return nil, false
	}
	if a.header[3] != addressName && (source[0] == addressName || hostOf(source) != hostOf(a.header[3:])) {
		return nil, false
	}
	if a.source == "" {
		a.source = string(source)
	}
	return data, a.source == string(source)
}

// hostOf is the address in what appendAddress appends for one.
func hostOf(b []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(b[1 : len(b)-2])
	return addr.Unmap()
}

// payload takes the source, as appendAddress has it, and the data out of a datagram
// of the proxy's; false if it has none. Fragments (RFC 1928, 7) are not put
// together: no proxy makes them.
func payload(datagram []byte) (source, data []byte, ok bool) {
	if len(datagram) < 5 || datagram[2] != 0 {
		return nil, nil, false
	}
	size := map[byte]int{addressIPv4: 4 + 4 + 2, addressIPv6: 4 + 16 + 2, addressName: 4 + 1 + int(datagram[4]) + 2}[datagram[3]]
	if size == 0 || len(datagram) < size {
		return nil, nil, false
	}
	return datagram[3:size], datagram[size:], true
}

func (a *association) close() {
	a.control.Close()
	a.udp.Close()
}
