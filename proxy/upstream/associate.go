package upstream

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

	"golang.org/x/sys/unix"

	"appfw/netns/mmsg"
	"appfw/policy"
	"appfw/proxy/relay"
	"appfw/proxy/upstream/socks"
)

// Association carries the datagrams of one UDP flow by a SOCKS5 proxy (RFC 1928,
// 7). It ends with the connection that it was asked for on: UDP is closed then.
type Association struct {
	UDP    *net.UDPConn // to the proxy
	Header []byte       // goes before each datagram that is sent

	control net.Conn
	source  string // that the first datagram back had, address and port
}

// Associate makes the way for datagrams to host:port, as those of Dial are. Only a
// chain of one SOCKS proxy can have one; others, and proxies that carry TCP alone,
// are ErrNoUDP. local tells whether an address is this host's own, by its routes: a
// proxy elsewhere that relays at one is an error.
func (c *Chain) Associate(ctx context.Context, isolation, host string, port uint16, local func(netip.Addr) bool) (*Association, error) {
	if len(c.ways) == 0 {
		return nil, ErrNoUDP
	}
	return each(c, func(way []hop) (*Association, error) {
		if len(way) != 1 || way[0].kind != socks5 {
			return nil, ErrNoUDP
		}
		h := &way[0]
		return h.associate(ctx, c.credentials(h, isolation), host, port, local)
	})
}

// associate makes an association with the proxy.
func (h *hop) associate(ctx context.Context, user *url.Userinfo, host string, port uint16, local func(netip.Addr) bool) (*Association, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	control, err := h.reach(ctx)
	if err != nil {
		return nil, failed(ctx, h.text, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = control.SetDeadline(time.Unix(1, 0)) })
	at, err := associate(control, user, h.user != nil, local)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	var udp *net.UDPConn
	if err == nil {
		udp, err = mmsg.Dial(at)
	}
	if err != nil {
		control.Close()
		if errors.Is(err, ErrNoUDP) {
			return nil, err
		}
		if refused, ok := errors.AsType[*chainError](err); ok {
			refused.hop = h.text
			return nil, refused
		}
		return nil, failed(ctx, h.text, err)
	}
	a := &Association{UDP: udp, Header: socks.AppendAddress([]byte{0, 0, 0}, host, port), control: control}
	go a.watch()
	return a, nil
}

// watch ends the association when the proxy does, or when it is closed.
func (a *Association) watch() {
	_, _ = io.Copy(io.Discard, a.control)
	a.Close()
}

// Close ends the association.
func (a *Association) Close() {
	a.control.Close()
	a.UDP.Close()
}

// Receive is what a datagram of the proxy's carries from the destination; false
// if nothing. The proxy's port may be open to others: where the destination is a
// name, whoever answers first from its port is it.
func (a *Association) Receive(datagram []byte) ([]byte, bool) {
	source, data, ok := socks.Payload(datagram)
	if !ok || !bytes.HasSuffix(source, a.Header[len(a.Header)-2:]) {
		return nil, false
	}
	if a.Header[3] != socks.AddressName && (source[0] == socks.AddressName || addrOf(source) != addrOf(a.Header[3:])) {
		return nil, false
	}
	if a.source == "" {
		a.source = string(source)
	}
	return data, a.source == string(source)
}

// addrOf is the address in what socks.AppendAddress appends for one.
func addrOf(b []byte) netip.Addr {
	addr, _ := netip.AddrFromSlice(b[1 : len(b)-2])
	return addr.Unmap()
}

var errNoSOCKS5 = errors.New("it is no SOCKS5 proxy: it answers in another version, or protocol")

// associate asks for an association, and returns where datagrams are sent to. given
// tells that user is the URL's.
func associate(conn net.Conn, user *url.Userinfo, given bool, local func(netip.Addr) bool) (netip.AddrPort, error) {
	if err := enter(conn, user, given); err != nil {
		return netip.AddrPort{}, err
	}
	at, err := askUDP(conn)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := at.Addr()
	its := relay.AddrPort(conn.RemoteAddr()).Addr() // invalid: a socket of this host's
	switch {
	case addr.IsUnspecified() && its.IsValid():
		addr = its
	case its.IsValid() && !its.IsLoopback() && addr != its && (policy.Special(addr) != policy.Ordinary || local(addr)):
		// What the program sends must not go where the proxy's owner points it.
		return netip.AddrPort{}, fmt.Errorf("it relays at %v, which is not its own address", addr)
	}
	return netip.AddrPortFrom(addr, at.Port()), nil
}

// enter greets a SOCKS5 proxy (RFC 1928, 3; RFC 1929).
func enter(conn net.Conn, user *url.Userinfo, given bool) error {
	hello := []byte{socks.Version, 1, socks.MethodNone}
	if user != nil {
		hello = []byte{socks.Version, 2, socks.MethodNone, socks.MethodPassword}
	}
	answer := make([]byte, 2)
	if err := ask(conn, hello, answer); err != nil {
		return err
	}
	refused := &chainError{errno: unix.EACCES, err: errCredentials(given), own: true}
	switch {
	case answer[0] != socks.Version:
		return errNoSOCKS5
	case answer[1] == socks.MethodPassword && user != nil:
		password, _ := user.Password()
		name := user.Username()
		if len(name) > 255 || len(password) > 255 {
			return errors.New("the user or the password is longer than 255 bytes")
		}
		auth := append([]byte{1, byte(len(name))}, name...)
		auth = append(append(auth, byte(len(password))), password...)
		if err := ask(conn, auth, answer); err != nil {
			return err
		}
		if answer[1] != 0 {
			return refused
		}
	case answer[1] == socks.NoMethod, answer[1] == socks.MethodPassword:
		return refused
	case answer[1] != socks.MethodNone:
		return errors.New("it wants an authentication method that it was not offered")
	}
	return nil
}

// askUDP is a UDP ASSOCIATE (RFC 1928, 4 and 6). It returns where the proxy says
// that it relays.
func askUDP(conn net.Conn) (netip.AddrPort, error) {
	none := netip.AddrPort{}
	request := socks.AppendAddress([]byte{socks.Version, socks.CommandUDP, 0}, "0.0.0.0", 0)
	answer := make([]byte, 4)
	switch err := ask(conn, request, answer); {
	case err == io.EOF: // as sshd does
		return none, ErrNoUDP
	case err != nil:
		return none, err
	case answer[0] != socks.Version:
		return none, errNoSOCKS5
	case answer[1] != 0:
		return none, ErrNoUDP
	}
	size := map[byte]int{socks.AddressIPv4: 4, socks.AddressIPv6: 16}[answer[3]]
	if size == 0 {
		return none, fmt.Errorf("it relays at an address of type %d", answer[3])
	}
	where := make([]byte, size+2)
	if _, err := io.ReadFull(conn, where); err != nil {
		return none, err
	}
	addr, _ := netip.AddrFromSlice(where[:size])
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(where[size:])), nil
}

// ask writes and then reads what fills answer.
func ask(conn net.Conn, request, answer []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answer)
	return err
}
