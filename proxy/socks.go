package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"

	"github.com/things-go/go-socks5/statute"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/policy"
)

// Of SOCKS4 (its authors' memo, and the one on 4A), and Tor's extensions to
// SOCKS (its socks-extensions).
const (
	socks4Version = 4
	socks4Granted = 90
	socks4Refused = 91

	commandResolve = 0xf0 // a name to an address
	commandReverse = 0xf1 // an address to a name
)

// socks5 serves a client of SOCKS5 (RFC 1928).
func (c *client) socks5() {
	methods, err := statute.ParseMethodRequest(c)
	if err != nil {
		return
	}
	switch {
	case slices.Contains(methods.Methods, statute.MethodUserPassAuth):
		// Rather than none where both are offered: credentials isolate.
		if _, err := c.Write([]byte{socksVersion, statute.MethodUserPassAuth}); err != nil {
			return
		}
		who, err := statute.ParseUserPassRequest(c)
		if err != nil {
			return
		}
		if !c.enter(string(who.User), string(who.Pass)) {
			_, _ = c.Write([]byte{statute.UserPassAuthVersion, statute.AuthFailure})
			return
		}
		if _, err := c.Write([]byte{statute.UserPassAuthVersion, statute.AuthSuccess}); err != nil {
			return
		}
	case slices.Contains(methods.Methods, statute.MethodNoAuth) && c.open():
		if _, err := c.Write([]byte{socksVersion, statute.MethodNoAuth}); err != nil {
			return
		}
	default:
		_, _ = c.Write([]byte{socksVersion, statute.MethodNoAcceptable})
		return
	}
	request, err := statute.ParseRequest(c)
	if err == statute.ErrUnrecognizedAddrType {
		c.reply(statute.RepAddrTypeNotSupported, "", 0)
	}
	if err != nil {
		return
	}
	c.greeted()
	host, port := request.DstAddr.FQDN, uint16(request.DstAddr.Port)
	if request.DstAddr.AddrType != statute.ATYPDomain {
		host = request.DstAddr.IP.String()
	}
	switch request.Command {
	case statute.CommandConnect:
		to, err := c.reachWhileThere(host, port)
		if err != nil {
			c.reply(socksReply(err), "", 0)
			return
		}
		if !c.reply(statute.RepSuccess, "", 0) {
			to.Close()
			return
		}
		c.pass(to, nil)
	case statute.CommandAssociate:
		c.associate(host, port)
	case commandResolve:
		c.resolveName(host)
	case commandReverse:
		a, _ := netip.ParseAddr(host)
		if name := c.nameOf(a.Unmap()); name != "" {
			c.reply(statute.RepSuccess, name, 0)
		} else {
			c.reply(statute.RepHostUnreachable, "", 0)
		}
	default:
		c.reply(statute.RepCommandNotSupported, "", 0)
	}
}

// reachWhileThere is reach for a client that may hang up meanwhile.
func (c *client) reachWhileThere(host string, port uint16) (*reached, error) {
	ctx, stop := c.there()
	defer stop()
	return c.reach(ctx, host, port)
}

// reply answers a request of SOCKS5 (RFC 1928, 6); false if the client is gone.
func (c *client) reply(code byte, host string, port uint16) bool {
	if host == "" {
		host = "0.0.0.0"
	}
	_, err := c.Write(appendAddress([]byte{socksVersion, code, 0}, host, port))
	return err == nil
}

// socksReply is the reply code that says what an error does (RFC 1928, 6).
func socksReply(err error) byte {
	if _, denied := errors.AsType[*refused](err); denied {
		return statute.RepRuleFailure
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return statute.RepConnectionRefused
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM): // the host's firewall, or the upstream's rules
		return statute.RepRuleFailure
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return statute.RepNetworkUnreachable
	case shortage(err), errors.Is(err, context.Canceled):
		return statute.RepServerFailure
	}
	return statute.RepHostUnreachable
}

// resolveName answers Tor's RESOLVE. Where the addresses that one client resolves
// open nothing to it, it gets one that stands for the name.
func (c *client) resolveName(host string) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		if addr, err = c.resolveFor(host); err != nil {
			c.reply(socksReply(err), "", 0)
			return
		}
	}
	c.reply(statute.RepSuccess, addr.String(), 0)
}

// resolveFor is the address of a name that a client is given, of IPv4 if it has
// one: most that ask so know no other.
func (c *client) resolveFor(host string) (netip.Addr, error) {
	name, err := policy.ParseName(host)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, _, err := c.Guard.Resolve(c.ctx, name)
	if denied, ok := errors.AsType[*dnsguard.DeniedError](err); ok {
		return netip.Addr{}, &refused{"dns " + string(name), denied.Verdict}
	}
	if err != nil {
		return netip.Addr{}, err
	}
	if c.Shared && !dnsguard.Localhost(name) {
		addr, _, err := c.Guard.Synthetic.For(name)
		return addr, err
	}
	if i := slices.IndexFunc(addrs, netip.Addr.Is4); i >= 0 {
		return addrs[i], nil
	}
	return addrs[0], nil
}

// socks4 serves a client of SOCKS4 or 4a. It has a user, but no password.
func (c *client) socks4() {
	host, port, user, err := readSOCKS4(c)
	if err != nil || host == "" {
		if err == nil {
			c.reply4(socks4Refused)
		}
		return
	}
	c.greeted()
	if !c.open() {
		c.reply4(socks4Refused)
		return
	}
	c.credentials = user
	to, err := c.reachWhileThere(host, port)
	if err != nil {
		c.reply4(socks4Refused)
		return
	}
	if !c.reply4(socks4Granted) {
		to.Close()
		return
	}
	c.pass(to, nil)
}

func (c *client) reply4(code byte) bool {
	_, err := c.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
	return err == nil
}

// readSOCKS4 reads a request of SOCKS4 or 4a, to its last byte and no further.
// host is empty if it is not for a connection.
func readSOCKS4(r io.Reader) (host string, port uint16, user string, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", 0, "", err
	}
	if user, err = readString(r); err != nil {
		return "", 0, "", err
	}
	addr := netip.AddrFrom4([4]byte(head[4:]))
	host, port = addr.String(), uint16(head[2])<<8|uint16(head[3])
	if [3]byte(head[4:7]) == [3]byte{} && head[7] != 0 { // 4a: a name follows
		if host, err = readString(r); err != nil {
			return "", 0, "", err
		}
	}
	if head[0] != socks4Version || head[1] != statute.CommandConnect {
		return "", 0, "", nil
	}
	return host, port, user, nil
}

var errLongString = errors.New("longer than 255 bytes")

// readString reads up to a zero byte.
func readString(r io.Reader) (string, error) {
	var s []byte
	for len(s) < 256 {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == 0 {
			return string(s), nil
		}
		s = append(s, b[0])
	}
	return "", errLongString
}

// localIP is the address of the host at which a client came; invalid if it came
// by a socket of AF_UNIX.
func (c *client) localIP() netip.Addr { return ip(c.LocalAddr()) }

func (c *client) remoteIP() netip.Addr { return ip(c.RemoteAddr()) }

func ip(a net.Addr) netip.Addr { return addrPort(a).Addr() }
