// Package upstream connects by proxies that a policy names: chains of SOCKS5 and
// HTTP proxies, Tor's among them, by TCP, TLS or a socket of AF_UNIX. Names and
// addresses beyond the end of a chain are the last proxy's to make sense of: nothing
// is resolved or judged here, and there is no way around a chain that fails.
//
//	chain := upstream.New()
//	if err := chain.Append("socks5h://127.0.0.1:9050"); err != nil {
//		return err
//	}
//	conn, err := chain.Dial(ctx, "", "example.com", 443, false)
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
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"appfw/proxy/relay"
)

// Chain is a row of proxies that connections go out by, each reached through
// those before it. Where others stand in for one that fails, there are several rows.
// The zero value has none, and connects to nothing; make others with New. It may be
// used by several goroutines once nothing more is appended.
type Chain struct {
	// Isolates has every SOCKS proxy without a user be taken for Tor: it gets credentials
	// that keep flows apart.
	Isolates bool

	texts  []string // of the proxies, as people know them
	ways   [][]hop  // in the order in which they are tried
	secret [16]byte // of which credentials are made

	mu    sync.Mutex
	best  int       // of ways: that went last
	since time.Time // when others before it had failed
}

// maxWays bounds the rows, which are as many as ways to choose one of each alternative.
const maxWays = 64

// retryTime is for how long a way that has failed is not tried first.
const retryTime = 30 * time.Second

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
// socks4a://, http:// or https:// URL, with user and password if need be, and unix:
// before a path for a socket (socks5h://unix:/run/tor/socks); or "tor". After " | ",
// there may be others, for when it fails. No error shows the password.
func (c *Chain) Append(upstream string) error {
	var texts []string
	ways := c.ways
	if len(ways) == 0 {
		ways = [][]hop{nil}
	}
	var longer [][]hop
	for alternative := range strings.SplitSeq(upstream, " | ") {
		h, err := parseHop(strings.TrimSpace(alternative))
		if err != nil {
			return err
		}
		if h.path != "" && len(c.texts) > 0 {
			return errors.New("a socket is on this host: it can only be the first of a chain")
		}
		texts = append(texts, h.text)
		for _, way := range ways {
			longer = append(longer, append(slices.Clip(way), h))
		}
	}
	if len(longer) > maxWays {
		return errors.New("there are too many proxies to choose from")
	}
	c.texts, c.ways = append(c.texts, strings.Join(texts, " | ")), longer
	return nil
}

// String is how people know the chain, without passwords.
func (c *Chain) String() string { return strings.Join(c.texts, " → ") }

// First are the addresses at which the first proxy may be, as far as its URL
// says them.
func (c *Chain) First() (addrs []netip.AddrPort) {
	var where []string
	for _, way := range c.ways {
		if way[0].addr == "" && way[0].path == "" {
			where = append(where, localTor...)
		} else {
			where = append(where, way[0].addr)
		}
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

// TellsApart tells whether a proxy of the chain keeps apart who has different
// credentials.
func (c *Chain) TellsApart() bool {
	return slices.ContainsFunc(c.ways, func(way []hop) bool {
		return slices.ContainsFunc(way, func(h hop) bool { return h.tor || c.Isolates && h.kind == socks5 })
	})
}

// Dial connects to host:port beyond the end of the chain; host is a name or an
// address. Connections that are to share no circuit of Tor's differ in isolation. Where
// the last proxy speaks HTTP, requests for http: URLs are asked of it as such: web tells
// that nothing else will come; at port 80, what comes first tells. Errors wrap the errno
// that the app is to see; Failure says whose they are.
func (c *Chain) Dial(ctx context.Context, isolation, host string, port uint16, web bool) (relay.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	return each(c, func(way []hop) (relay.Stream, error) {
		r := &route{way, func(h *hop) *url.Userinfo { return c.credentials(h, isolation) }}
		return r.dial(ctx, host, port, web)
	})
}

// each tries the ways in their order, from the one that went last on, until one is not
// at fault. If all are, the first says what to say.
func each[T any](c *Chain, try func(way []hop) (T, error)) (found T, err error) {
	if len(c.ways) == 0 {
		return found, &chainError{hop: "there is none", errno: unix.ENETUNREACH, own: true}
	}
	c.mu.Lock()
	if c.best > 0 && time.Since(c.since) > retryTime {
		c.best = 0
	}
	first := c.best
	c.mu.Unlock()
	for i := range c.ways {
		n := (first + i) % len(c.ways)
		x, failed := try(c.ways[n])
		fault, ok := errors.AsType[*chainError](failed)
		if failed == nil || !ok || !fault.own {
			if i > 0 {
				c.mu.Lock()
				c.best, c.since = n, time.Now()
				c.mu.Unlock()
			}
			return x, failed
		}
		if err == nil {
			err = failed
		}
	}
	return found, err
}

// credentials are those that the URL has. Without any, Tor gets some made up for this
// run and the isolation: it puts no two streams with different ones on one circuit
// (IsolateSOCKSAuth of tor(1)).
func (c *Chain) credentials(h *hop, isolation string) *url.Userinfo {
	if h.user != nil || h.kind != socks5 || !h.tor && !c.Isolates {
		return h.user
	}
	mac := hmac.New(sha256.New, c.secret[:])
	_, _ = io.WriteString(mac, isolation)
	sum := hex.EncodeToString(mac.Sum(nil))
	return url.UserPassword("appfw-"+sum[:16], sum[16:48])
}
