package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/upstream/socks"
)

// greeting has what reads from conn wait for greetTime at most, as what a proxy says to
// it needs nobody else. The time begins anew with ctx's own end when it is over.
func greeting(ctx context.Context, conn net.Conn, greet func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	late := time.AfterFunc(greetTime, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := greet()
	if !late.Stop() && errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return errSilentSOCKS
	}
	if !stop() && err == nil {
		return context.Cause(ctx)
	}
	return err
}

// connectSOCKS5 is CONNECT of SOCKS5 (RFC 1928, 4). given tells that user is the URL's.
func connectSOCKS5(ctx context.Context, conn net.Conn, host string, port uint16, user *url.Userinfo, given bool) error {
	if len(host) > 255 {
		return &chainError{errno: unix.EHOSTUNREACH, err: errors.New("the name is longer than 255 bytes")}
	}
	if err := greeting(ctx, conn, func() error { return enter(conn, user, given) }); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(socks.AppendAddress([]byte{socks.Version, socks.CommandConnect, 0}, host, port)); err != nil {
		return err
	}
	var answer [4]byte
	if n, err := io.ReadFull(conn, answer[:]); err != nil && (n < 2 || answer[1] == 0) {
		return err
	}
	if answer[0] != socks.Version {
		return errNoSOCKS5
	}
	switch answer[1] {
	case 0:
		return skipAddress(conn, answer[3])
	case 2: // not allowed by the ruleset
		return &chainError{errno: unix.EACCES}
	case 3:
		return &chainError{errno: unix.ENETUNREACH}
	case 5:
		return &chainError{errno: unix.ECONNREFUSED}
	}
	return &chainError{errno: unix.EHOSTUNREACH}
}

// skipAddress reads the address of the proxy's own side, which nobody needs.
func skipAddress(conn net.Conn, kind byte) error {
	var rest [257]byte
	n := map[byte]int{socks.AddressIPv4: 4 + 2, socks.AddressIPv6: 16 + 2}[kind]
	if kind == socks.AddressName {
		if _, err := io.ReadFull(conn, rest[:1]); err != nil {
			return err
		}
		n = int(rest[0]) + 2
	}
	if n == 0 {
		return errors.New("its answer has an unknown address type")
	}
	_, err := io.ReadFull(conn, rest[:n])
	return err
}

// Of SOCKS4 (its authors' memo, and the one on 4A).
const (
	socks4Version = 4
	socks4Connect = 1
	socks4Granted = 90
	socks4Ident   = 92 // and 93: it asks the host of the client who its user is
)

// connectSOCKS4 is CONNECT of SOCKS4, and of 4A for names.
func connectSOCKS4(ctx context.Context, conn net.Conn, host string, port uint16, user *url.Userinfo) error {
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	at := [4]byte{0, 0, 0, 1} // a name follows
	addr, err := netip.ParseAddr(host)
	switch addr = addr.Unmap(); {
	case err == nil && !addr.Is4():
		return &chainError{errno: unix.ENETUNREACH, err: errors.New("SOCKS4 carries no IPv6")}
	case err == nil && addr.As4()[0] == 0:
		return &chainError{errno: unix.ENETUNREACH, err: errors.New("SOCKS4 has other meanings for the address")}
	case err == nil:
		at = addr.As4()
	}
	request := append([]byte{socks4Version, socks4Connect, byte(port >> 8), byte(port)}, at[:]...)
	if user != nil {
		request = append(request, user.Username()...)
	}
	request = append(request, 0)
	if err != nil {
		request = append(append(request, host...), 0)
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	var answer [8]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	switch {
	case answer[0] != 0 && answer[0] != socks4Version:
		return errors.New("it is no SOCKS4 proxy")
	case answer[1] == socks4Granted:
		return nil
	case answer[1] == socks4Ident, answer[1] == socks4Ident+1:
		return &chainError{errno: unix.EACCES, err: errors.New("it does not take the user"), own: true}
	}
	return &chainError{errno: unix.ECONNREFUSED, err: errors.New("it refuses, or cannot connect")}
}
