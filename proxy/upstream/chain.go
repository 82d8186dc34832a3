// Package upstream connects by proxies that a policy names: chains of SOCKS5 and
// HTTP proxies, Tor's among them, by TCP, TLS or a socket of AF_UNIX. Names and
// addresses beyond the end of a chain are the last proxy's to make sense of: nothing
// is resolved or judged here, and there is no way around a chain that fails.
//
//	chain := upstream.New()
//	if err := chain.Append("socks5h://127.0.0.1:9050"); err != nil {
//		return err
//	}
//	conn, err := chain.Dial(ctx, "", "example.com", 443)
//	if said := upstream.Failure(err); said != "" {
//		log.Print(said) // it is the chain that failed
//	}
package upstream

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/relay"
)

// Chain is a row of proxies that connections go out by, each reached through
// those before it. The zero value has none, and connects to nothing; make others
// with New. It may be used by several goroutines once nothing more is appended.
type Chain struct {
	hops   []hop
	secret [16]byte // of which credentials are made
}

const (
	// chainTime is how long a chain may take to connect. Tor builds circuits and
	// looks for onion services within less (SocksTimeout of tor(1)).
	chainTime = 2 * time.Minute
	// greetTime is how long a proxy may take for what needs nobody else: to
	// accept, to greet, for the handshake of TLS.
	greetTime = 10 * time.Second
)

// New makes a chain without proxies, which connects to nothing.
func New() *Chain {
	c := new(Chain)
	_, _ = rand.Read(c.secret[:]) // never fails
	return c
}

// Append adds a proxy at the end, as --upstream gives it: a socks5://, socks5h://,
// http:// or https:// URL, with user and password if need be, and unix: before a
// path for a socket (socks5h://unix:/run/tor/socks); or "tor". No error shows the
// password.
func (c *Chain) Append(upstream string) error {
	h, err := parseHop(upstream)
	if err != nil {
		return err
	}
	if h.path != "" && len(c.hops) > 0 {
		return errors.New("a socket is on this host: it can only be the first of a chain")
	}
	c.hops = append(c.hops, h)
	return nil
}

// String is how people know the chain, without passwords.
func (c *Chain) String() string {
	var texts []string
	for _, h := range c.hops {
		texts = append(texts, h.text)
	}
	return strings.Join(texts, " → ")
}

// First are the addresses at which the first proxy may be, as far as its URL
// says them.
func (c *Chain) First() (addrs []netip.AddrPort) {
	if len(c.hops) == 0 {
		return nil
	}
	where := []string{c.hops[0].addr}
	if c.hops[0].addr == "" && c.hops[0].path == "" {
		where = localTor
	}
	for _, s := range where {
		host, text, _ := net.SplitHostPort(s) // "" for a socket
		n, _ := strconv.ParseUint(text, 10, 16)
		port := uint16(n)
		if a, err := netip.ParseAddr(host); err == nil {
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), port))
		} else if host == "localhost" {
			addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), netip.AddrPortFrom(netip.IPv6Loopback(), port))
		}
	}
	return addrs
}

// Dial connects to host:port beyond the end of the chain; host is a name or an
// address. Connections that are to share no circuit of Tor's differ in isolation.
// Errors wrap the errno that the app is to see; Failure says whose they are.
func (c *Chain) Dial(ctx context.Context, isolation, host string, port uint16) (relay.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	if len(c.hops) == 0 {
		return nil, &chainError{hop: "there is none", errno: unix.ENETUNREACH, own: true}
	}
	conn, err := c.hops[0].reach(ctx)
	if err != nil {
		return nil, failed(ctx, c.hops[0].text, err)
	}
	for i, h := range c.hops {
		next := net.JoinHostPort(host, strconv.Itoa(int(port)))
		if i+1 < len(c.hops) {
			next = c.hops[i+1].listens()
		}
		further, err := h.connect(ctx, conn, next, c.credentials(&h, isolation))
		if err != nil {
			conn.Close()
			return nil, c.failedAt(ctx, i, err)
		}
		conn = further
	}
	s, err := asStream(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// failedAt is the error of a chain whose hop i did not connect to what is next.
func (c *Chain) failedAt(ctx context.Context, i int, err error) error {
	refused, ok := errors.AsType[*chainError](err)
	if !ok {
		return failed(ctx, c.hops[i].text, err)
	}
	refused.hop = c.hops[i].text
	if i+1 < len(c.hops) && !refused.own { // the next proxy is not there
		refused.err = fmt.Errorf("it cannot reach %s: %s", c.hops[i+1].text, refused.cause())
		refused.errno, refused.own = unix.ENETUNREACH, true
	}
	return refused
}

// credentials are those that the URL has. Without any, a SOCKS proxy gets some
// made up for this run and the isolation: Tor puts no two streams with different
// ones on one circuit (IsolateSOCKSAuth of tor(1)); others take no notice.
func (c *Chain) credentials(h *hop, isolation string) *url.Userinfo {
	if h.user != nil || !h.isolate {
		return h.user
	}
	mac := hmac.New(sha256.New, c.secret[:])
	_, _ = io.WriteString(mac, isolation)
	sum := hex.EncodeToString(mac.Sum(nil))
	return url.UserPassword("appfw-"+sum[:16], sum[16:48])
}
