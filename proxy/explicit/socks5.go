package explicit

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/things-go/go-socks5/statute"
	"golang.org/x/sys/unix"

	"appfw/dnsguard"
	"appfw/netns"
	"appfw/policy"
	"appfw/proxy"
	"appfw/proxy/upstream/socks"
)

const (
	socks5Version = 5

	// Tor's extensions (its socks-extensions).
	commandResolve = 0xf0 // a name to an address
	commandReverse = 0xf1 // an address to a name
)

// socks5 serves a client of SOCKS5 (RFC 1928).
func (c *client) socks5(ctx context.Context) {
	if !c.greet5() {
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
		c.connectSOCKS(ctx, host, port,
			func() error { return c.reply(statute.RepSuccess, "", 0) },
			func(err error) { _ = c.reply(socksReply(err), "", 0) })
	case statute.CommandAssociate:
		c.associate(ctx, host, port)
	case commandResolve:
		c.resolveName(ctx, host)
	case commandReverse:
		a, _ := netip.ParseAddr(host)
		if name := c.by.NameOf(a.Unmap()); name != "" {
			_ = c.reply(statute.RepSuccess, name, 0)
		} else {
			_ = c.reply(statute.RepHostUnreachable, "", 0)
		}
	default:
		_ = c.reply(statute.RepCommandNotSupported, "", 0)
	}
}

// greet5 agrees on a method of SOCKS5 (RFC 1928, 3); false if there is none.
func (c *client) greet5() bool {
	methods, err := statute.ParseMethodRequest(c)
	if err != nil {
		return false
	}
	say := func(version, code byte) bool {
		_, err := c.Write([]byte{version, code})
		return err == nil
	}
	offers := func(method byte) bool { return slices.Contains(methods.Methods, method) }
	switch {
	case offers(statute.MethodUserPassAuth) && !(offers(statute.MethodNoAuth) && c.service.Admit == nil && !c.service.tellsApart()):
		// Many who offer it ask people for a password then, or have none, and fail: not
		// where nothing depends on it.
		if !say(socks.Version, statute.MethodUserPassAuth) {
			return false
		}
		who, err := statute.ParseUserPassRequest(c)
		if err != nil {
			return false
		}
		if !c.enter(string(who.User), string(who.Pass)) {
			say(statute.UserPassAuthVersion, statute.AuthFailure)
			return false
		}
		return say(statute.UserPassAuthVersion, statute.AuthSuccess)
	case offers(statute.MethodNoAuth) && c.open():
		return say(socks.Version, statute.MethodNoAuth)
	}
	say(socks.Version, statute.MethodNoAcceptable)
	return false
}

// tellsApart tells whether credentials of clients matter though nobody needs them: flows
// with others share no circuit of Tor's.
func (s *Service) tellsApart() bool {
	p := s.Proxy
	for name := range p.Policy().Settings().Upstreams {
		if p.Chain != nil {
			if chain := p.Chain(name); chain != nil && chain.TellsApart() {
				return true
			}
		}
	}
	return false
}

// connectSOCKS serves a CONNECT of either version, for a client that may hang up
// meanwhile.
func (c *client) connectSOCKS(ctx context.Context, host string, port uint16, success func() error, failure func(error)) {
	stop := func() bool { return true } // if it is denied, nobody watches
	c.connect(ctx, host, port, answer{
		watch: func(ctx context.Context) context.Context {
			ctx, stop = c.there(ctx)
			return ctx
		},
		success: func() ([]byte, error) {
			if !stop() {
				return nil, proxy.ErrHungUp
			}
			return nil, success()
		},
		failure: func(err error) {
			stop()
			failure(err)
		},
	})
}

// reply answers a request of SOCKS5 (RFC 1928, 6).
func (c *client) reply(code byte, host string, port uint16) error {
	if host == "" {
		host = "0.0.0.0"
	}
	_, err := c.Write(socks.AppendAddress([]byte{socks.Version, code, 0}, host, port))
	return err
}

// socksReply is the reply code that says what an error does (RFC 1928, 6).
func socksReply(err error) byte {
	if _, denied := errors.AsType[*proxy.Denied](err); denied {
		return statute.RepRuleFailure
	}
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return statute.RepConnectionRefused
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM): // the host's firewall, or the upstream's rules
		return statute.RepRuleFailure
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return statute.RepNetworkUnreachable
	case netns.Shortage(err), errors.Is(err, context.Canceled):
		return statute.RepServerFailure
	}
	return statute.RepHostUnreachable
}

// resolveName answers Tor's RESOLVE. Where the addresses that one client resolves
// open nothing to it, it gets one that stands for the name.
func (c *client) resolveName(ctx context.Context, host string) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		if addr, err = c.resolveFor(ctx, host); err != nil {
			_ = c.reply(socksReply(err), "", 0)
			return
		}
	}
	_ = c.reply(statute.RepSuccess, addr.String(), 0)
}

// resolveFor is the address of a name that a client is given, of IPv4 if it has
// one: most that ask so know no other.
func (c *client) resolveFor(ctx context.Context, host string) (netip.Addr, error) {
	name, err := policy.ParseName(host)
	if err != nil {
		return netip.Addr{}, err
	}
	addrs, _, err := c.by.Guard.Resolve(ctx, name)
	if denied, ok := errors.AsType[*dnsguard.DeniedError](err); ok {
		return netip.Addr{}, &proxy.Denied{Verdict: denied.Verdict, What: "dns " + string(name)}
	}
	if err != nil {
		return netip.Addr{}, err
	}
	if c.by.Shared && !dnsguard.Localhost(name) {
		addr, _, err := c.by.Guard.Synthetic.For(name)
		return addr, err
	}
	if i := slices.IndexFunc(addrs, netip.Addr.Is4); i >= 0 {
		return addrs[i], nil
	}
	return addrs[0], nil
}
