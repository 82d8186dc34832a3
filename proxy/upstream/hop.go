package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// kind is what a proxy speaks.
type kind uint8

const (
	webProxy kind = iota // HTTP: CONNECT (RFC 9110, 9.3.6), and http: URLs as they are
	socks5               // RFC 1928
	socks4               // its authors' memo, and 4A for names
)

// hop is one proxy.
type hop struct {
	text string // as messages name it, without a password
	kind kind
	tls  *tls.Config   // nil: without
	addr string        // host:port; "" for a socket of AF_UNIX, and for "tor"
	path string        // of a socket; "" for others
	user *url.Userinfo // nil: none was given
	tor  bool          // it keeps apart who has different credentials, whatever they are
}

// localTor is where Tor listens: the daemon, and the browser's.
var localTor = []string{"127.0.0.1:9050", "127.0.0.1:9150"}

var (
	errSilent      = errors.New("it does not answer")
	errSilentSOCKS = errors.New("it does not answer; is it a SOCKS proxy?")
	errSilentHTTP  = errors.New("it does not answer; is it an HTTP proxy?")
)

// parseHop parses what Chain.Append takes.
func parseHop(s string) (hop, error) {
	if s == "tor" {
		return hop{text: "tor", kind: socks5, tor: true}, nil
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok { // and what there is may be a password
		return hop{}, errors.New("it has no scheme; an upstream is socks5h://HOST:PORT, http://HOST:PORT, https://HOST:PORT, socks5h://unix:/PATH or tor")
	}
	h, port, err := hopOf(scheme)
	if err != nil {
		return hop{}, err
	}
	user, where, ok := strings.Cut(rest, "@")
	if !ok {
		user, where = "", rest
	}
	socket, isSocket := strings.CutPrefix(where, "unix:")
	isSocket = isSocket && (socket == "" || strings.Trim(socket, "0123456789") != "") // else a host of that name
	if isSocket {
		where = "unix"
	}
	if ok {
		where = user + "@" + where
	}
	u, err := url.Parse("x://" + escaped(where))
	switch {
	case err != nil:
		return h, errors.New("the URL cannot be understood") // its error would show the password
	case u.RawQuery != "" || u.Fragment != "":
		return h, errors.New("nothing follows the host and port of an upstream")
	}
	if h.user = u.User; h.user != nil && h.kind == socks4 {
		if _, secret := h.user.Password(); secret {
			return h, errors.New("SOCKS4 has a user and no password")
		}
	}
	if isSocket {
		return h, h.atSocket(scheme, socket)
	}
	return h, h.atHost(scheme, u, port)
}

// escaped writes bytes beyond ASCII as URLs do (RFC 3986, 2.1): a password may have
// some.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if s[i] < 0x80 {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// hopOf is a proxy of a scheme, and the port that it has by default.
func hopOf(scheme string) (h hop, port string, err error) {
	switch scheme {
	case "socks5", "socks5h":
		return hop{kind: socks5}, "1080", nil
	case "socks4", "socks4a":
		return hop{kind: socks4}, "1080", nil
	case "tor":
		return hop{kind: socks5, tor: true}, "9050", nil
	case "http":
		return hop{}, "8080", nil
	case "https":
		return hop{tls: &tls.Config{MinVersion: tls.VersionTLS12}}, "443", nil
	}
	return hop{}, "", fmt.Errorf("%.20q is no scheme of an upstream; there are socks5h, socks5, socks4a, http, https and tor", scheme)
}

// atSocket says that the proxy listens at a socket of AF_UNIX.
func (h *hop) atSocket(scheme, path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return errors.New("the path of a socket is absolute")
	case h.tls != nil:
		return errors.New("TLS needs the name of a host, which a socket does not have")
	}
	h.path, h.text = path, scheme+"://unix:"+path
	h.tor = h.tor || h.kind == socks5 && strings.HasPrefix(path, "/run/tor/")
	return nil
}

// atHost says that the proxy is at the host of a URL.
func (h *hop) atHost(scheme string, u *url.URL, port string) error {
	if u.Path != "" && u.Path != "/" || u.Hostname() == "" {
		return errors.New("an upstream is a host and a port")
	}
	if strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "[") {
		return errors.New("an IPv6 address is written in brackets")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port", port)
	}
	h.addr = net.JoinHostPort(u.Hostname(), port)
	h.text = scheme + "://" + h.addr
	h.tor = h.tor || h.kind == socks5 && (port == "9050" || port == "9150")
	if h.tls != nil {
		h.tls.ServerName = u.Hostname()
	}
	return nil
}

// reach connects to the first proxy of a chain.
func (h *hop) reach(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: greetTime}
	d.SetMultipathTCP(false)
	switch {
	case h.path != "":
		return d.DialContext(ctx, "unix", h.path)
	case h.addr != "":
		return d.DialContext(ctx, "tcp", h.addr)
	}
	var errs []error
	for _, addr := range localTor {
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errs[0]
}

// secured is a connection to the proxy, with TLS if it has that.
func (h *hop) secured(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if h.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, h.tls)
	greeting, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	if err := secure.HandshakeContext(greeting); err != nil {
		if ctx.Err() == nil && greeting.Err() != nil {
			err = errSilent
		}
		return nil, err
	}
	return secure, nil
}

// ask asks the proxy at the other end of conn, which may have said nothing yet, for a
// connection. answers tells whether the proxy answers at all.
func (h *hop) ask(ctx context.Context, conn net.Conn, host string, port uint16, user *url.Userinfo, answers func(context.Context) error) error {
	switch h.kind {
	case socks5:
		return connectSOCKS5(ctx, conn, host, port, user, h.user != nil)
	case socks4:
		return connectSOCKS4(ctx, conn, host, port, user)
	}
	return connectHTTP(ctx, conn, net.JoinHostPort(host, strconv.Itoa(int(port))), user, answers)
}
