package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	socks "golang.org/x/net/proxy"
	"golang.org/x/sys/unix"
)

// Chain is a row of proxies that connections go out by, each reached through
// those before it. What is beyond its end, names and addresses, is the last
// one's to make sense of: nothing is resolved here.
type Chain struct {
	hops   []hop
	secret [16]byte // of which credentials are made
}

// hop is one proxy.
type hop struct {
	text    string // as messages name it, without a password
	socks   bool   // SOCKS5 (RFC 1928), else HTTP CONNECT (RFC 9110, 9.3.6)
	tls     *tls.Config
	addr    string // host:port; "" for a socket of AF_UNIX
	path    string
	user    *url.Userinfo // nil: none was given
	isolate bool
}

// stream is a connection to a destination. The kernel can splice it.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// localTor is where Tor listens: the daemon, and the browser's.
var localTor = []string{"127.0.0.1:9050", "127.0.0.1:9150"}

const (
	// chainTime is how long a chain may take to connect. Tor builds circuits and
	// looks for onion services within less (SocksTimeout of tor(1)).
	chainTime = 2 * time.Minute
	// greetTime is how long a proxy may take for what needs nobody else: to
	// accept, to greet, for the handshake of TLS.
	greetTime = 10 * time.Second
)

var (
	errSilent      = errors.New("it does not answer")
	errSilentSOCKS = errors.New("it does not answer; is it a SOCKS proxy?")
)

// NewChain makes a chain without proxies, which connects to nothing.
func NewChain() *Chain {
	c := new(Chain)
	_, _ = rand.Read(c.secret[:]) // never fails
	return c
}

// Append adds a proxy at the end, as --upstream gives it: a socks5://, socks5h://,
// http:// or https:// URL, with user and password if need be, and unix: before a
// path for a socket (socks5h://unix:/run/tor/socks); or "tor".
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

func parseHop(s string) (h hop, err error) {
	if s == "tor" {
		return hop{text: "tor", socks: true, isolate: true}, nil
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok { // and what there is may be a password
		return h, errors.New("it has no scheme; an upstream is socks5h://HOST:PORT, http://HOST:PORT, https://HOST:PORT, socks5h://unix:/PATH or tor")
	}
	port := "1080"
	switch scheme {
	case "socks5", "socks5h":
		h.socks, h.isolate = true, true
	case "http":
		port = "8080"
	case "https":
		port = "443"
		h.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		return h, fmt.Errorf("%.20q is no scheme of an upstream; there are socks5h, socks5, http and https", scheme)
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
	u, err := url.Parse("x://" + where)
	switch {
	case err != nil:
		return h, errors.New("the URL cannot be understood") // its error would show the password
	case u.RawQuery != "" || u.Fragment != "":
		return h, errors.New("nothing follows the host and port of an upstream")
	}
	h.user = u.User
	switch {
	case isSocket && !strings.HasPrefix(socket, "/"):
		return h, errors.New("the path of a socket is absolute")
	case isSocket && h.tls != nil:
		return h, errors.New("TLS needs the name of a host, which a socket does not have")
	case isSocket:
		h.path, h.text = socket, scheme+"://unix:"+socket
		return h, nil
	}
	if u.Path != "" && u.Path != "/" || u.Hostname() == "" {
		return h, errors.New("an upstream is a host and a port")
	}
	if strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "[") {
		return h, errors.New("an IPv6 address is written in brackets")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return h, fmt.Errorf("%q is no port", port)
	}
	h.addr = net.JoinHostPort(u.Hostname(), port)
	h.text = scheme + "://" + h.addr
	if h.tls != nil {
		h.tls.ServerName = u.Hostname()
	}
	return h, nil
}

// String is how people know the chain.
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
		host, port, err := splitHostPort(s)
		switch a, aerr := netip.ParseAddr(host); {
		case err != nil:
		case aerr == nil:
			addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), port))
		case host == "localhost":
			addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), netip.AddrPortFrom(netip.IPv6Loopback(), port))
		}
	}
	return addrs
}

// errUpstream is a failure of a chain. errno is what the app is told.
type errUpstream struct {
	hop   string
	errno unix.Errno
	err   error // may be nil: errno says it
	down  bool  // it is the chain's own failure, not the destination's
}

func (e *errUpstream) Error() string { return e.hop + ": " + e.cause() }
func (e *errUpstream) Unwrap() error { return e.errno }

func (e *errUpstream) cause() string {
	if e.err == nil {
		return e.errno.Error()
	}
	return plain(e.err)
}

// upstreamFailed is the error of a chain that fails itself. If nobody wants its
// connection any more, that is all there is to say.
func upstreamFailed(ctx context.Context, hop string, err error) error {
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	return &errUpstream{hop, unix.ENETUNREACH, err, true}
}

// plain is what an error says, without what is said around it already: a line of moderate
// length, as the other side may have had its say in it (a certificate's names).
func plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	text := strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, err.Error())
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + "…"
	}
	return text
}

// maxErrorText bounds what is told of an error, in bytes.
const maxErrorText = 300

// Dial connects to host:port beyond the end of the chain; host is a name or an
// address. Connections that are to share no circuit of Tor's differ in isolation.
// Errors wrap the errno that the app is to see.
func (c *Chain) Dial(ctx context.Context, isolation, host string, port uint16) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	target := net.JoinHostPort(host, strconv.Itoa(int(port)))
	if len(c.hops) == 0 {
		return nil, &errUpstream{"there is none", unix.ENETUNREACH, nil, true}
	}
	conn, err := c.hops[0].reach(ctx)
	if err != nil {
		return nil, upstreamFailed(ctx, c.hops[0].text, err)
	}
	for i, h := range c.hops {
		to := target
		if i+1 < len(c.hops) {
			if to = c.hops[i+1].addr; to == "" && c.hops[i+1].text == "tor" {
				to = localTor[0]
			}
		}
		next, err := h.connect(ctx, conn, to, c.credentials(&h, isolation))
		if err != nil {
			conn.Close()
			var failed *errUpstream
			if !errors.As(err, &failed) {
				return nil, upstreamFailed(ctx, h.text, err)
			}
			if failed.hop = h.text; i+1 < len(c.hops) && !failed.down { // the next proxy is not there
				failed.err = fmt.Errorf("it cannot reach %s: %s", c.hops[i+1].text, failed.cause())
				failed.errno, failed.down = unix.ENETUNREACH, true
			}
			return nil, failed
		}
		conn = next
	}
	s, err := asStream(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
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

// connect asks the proxy at the other end of conn for a connection.
func (h *hop) connect(ctx context.Context, conn net.Conn, target string, user *url.Userinfo) (net.Conn, error) {
	if h.socks {
		return conn, connectSOCKS(ctx, conn, target, user, h.user != nil)
	}
	if h.tls != nil {
		secure := tls.Client(conn, h.tls)
		greeting, cancel := context.WithTimeout(ctx, greetTime)
		defer cancel()
		if err := secure.HandshakeContext(greeting); err != nil {
			if ctx.Err() == nil && greeting.Err() != nil {
				err = errSilent
			}
			return nil, err
		}
		conn = secure
	}
	return conn, connectHTTP(ctx, conn, target, user)
}

// connectSOCKS is CONNECT of SOCKS5 (RFC 1928, 4). given tells that user is the URL's.
func connectSOCKS(ctx context.Context, conn net.Conn, target string, user *url.Userinfo, given bool) error {
	var auth *socks.Auth
	if user != nil {
		password, _ := user.Password()
		auth = &socks.Auth{User: user.Username(), Password: password}
	}
	d, err := socks.SOCKS5("tcp", "", auth, nil)
	if err != nil {
		return err
	}
	on, ok := d.(interface {
		DialWithConn(context.Context, net.Conn, string, string) (net.Addr, error)
	})
	if !ok {
		return errors.New("golang.org/x/net/proxy cannot use a connection that is there")
	}
	heard := &recorder{Conn: conn, ctx: ctx, given: given}
	if _, err = on.DialWithConn(ctx, heard, "tcp", target); err != nil {
		if failed := heard.failure(); failed != nil {
			return failed
		}
	}
	return err
}

// recorder keeps what a SOCKS server says: of its reply code, the library makes
// nothing but text.
type recorder struct {
	net.Conn
	ctx   context.Context
	given bool // the URL has a user
	said  []byte
}

// Read bounds the time for the first word; what follows may need the destination.
func (r *recorder) Read(b []byte) (int, error) {
	first := len(r.said) == 0
	if first {
		late := time.AfterFunc(greetTime, func() { _ = r.Conn.SetReadDeadline(time.Unix(1, 0)) })
		defer late.Stop()
	}
	n, err := r.Conn.Read(b)
	if first && errors.Is(err, os.ErrDeadlineExceeded) && r.ctx.Err() == nil {
		err = errSilentSOCKS
	}
	r.said = append(r.said, b[:min(n, max(0, 8-len(r.said)))]...)
	return n, err
}

// errCredentials says that a proxy refuses who asks. given tells whether the URL has
// a user.
func errCredentials(given bool) error {
	if given {
		return errors.New("it does not take the user and password")
	}
	return errors.New("it wants a user and a password, which the URL does not have (USER:PASSWORD@ before the host)")
}

// failure is what the server's refusal means (RFC 1928, 3 and 6); nil if it
// gave none.
func (r *recorder) failure() error {
	said := r.said
	if len(said) < 2 || said[0] != socksVersion {
		return nil
	}
	method := said[1]
	said = said[2:]
	if method == methodPassword { // RFC 1929, 2
		if len(said) >= 2 && said[1] != 0 {
			return &errUpstream{errno: unix.EACCES, err: errCredentials(r.given), down: true}
		}
		said = said[min(2, len(said)):]
	}
	if method == noMethod {
		return &errUpstream{errno: unix.EACCES, err: errCredentials(r.given), down: true}
	}
	if len(said) < 2 || said[0] != socksVersion || said[1] == 0 {
		return nil
	}
	switch said[1] {
	case 2: // not allowed by the ruleset
		return &errUpstream{errno: unix.EACCES}
	case 3:
		return &errUpstream{errno: unix.ENETUNREACH}
	case 5:
		return &errUpstream{errno: unix.ECONNREFUSED}
	}
	return &errUpstream{errno: unix.EHOSTUNREACH}
}

// maxConnectHead bounds the head of the response to a CONNECT.
const maxConnectHead = 16 << 10

// connectHTTP is CONNECT of HTTP/1.1 (RFC 9110, 9.3.6).
func connectHTTP(ctx context.Context, conn net.Conn, target string, user *url.Userinfo) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	head := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if user != nil {
		password, _ := user.Password()
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return err
	}
	// Byte for byte: what follows the head is the destination's.
	var answer []byte
	for headSize(answer) == 0 {
		var b [1]byte
		if len(answer) > maxConnectHead {
			return errors.New("the head of its response does not end")
		}
		if _, err := io.ReadFull(conn, b[:]); err == io.EOF && len(answer) == 0 {
			return errors.New("it hangs up without an answer; is it an HTTP proxy?")
		} else if err != nil {
			return err
		}
		answer = append(answer, b[0])
	}
	line, _, _ := strings.Cut(string(answer), "\r\n")
	version, rest, _ := strings.Cut(line, " ")
	status, _, _ := strings.Cut(rest, " ")
	if _, err := strconv.ParseUint(status, 10, 16); err != nil || !strings.HasPrefix(version, "HTTP/1.") || len(status) != 3 {
		return errors.New("it is no HTTP proxy")
	}
	switch {
	case status[0] == '2':
		return nil
	case status == "407", status == "401":
		return &errUpstream{errno: unix.EACCES, err: errCredentials(user != nil), down: true}
	case status == "400", status == "403", status == "405":
		return &errUpstream{errno: unix.EACCES, err: fmt.Errorf("it answers %q", status)}
	}
	return &errUpstream{errno: unix.EHOSTUNREACH, err: fmt.Errorf("it answers %q", status)}
}

// asStream is the connection, if the kernel can splice it. One of TLS gets a
// pair of sockets before it.
func asStream(conn net.Conn) (stream, error) {
	if s, ok := conn.(stream); ok {
		return s, nil
	}
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T cannot be relayed", conn)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			if i > 0 {
				ends[0].Close()
			} else {
				unix.Close(fds[1])
			}
			return nil, err
		}
		ends[i] = c.(*net.UnixConn)
	}
	t := &tlsStream{UnixConn: ends[0], inner: ends[1], secure: secure, sent: make(chan struct{})}
	go t.send()
	go t.receive()
	return t, nil
}

// tlsStream is the end of a pair of sockets; at the other, TLS is added.
type tlsStream struct {
	*net.UnixConn
	inner  *net.UnixConn
	secure *tls.Conn
	sent   chan struct{} // closed when all that was written has been sent
}

func (t *tlsStream) send() {
	defer close(t.sent)
	if _, err := io.Copy(t.secure, t.inner); err != nil {
		_ = t.inner.CloseRead() // what is written now fails, and does not wait
		return
	}
	_ = t.secure.CloseWrite()
}

func (t *tlsStream) receive() {
	_, _ = io.Copy(t.inner, t.secure)
	_ = t.inner.CloseWrite()
}

// SetLinger is that of a TCP connection. With 0, Close sends nothing more.
func (t *tlsStream) SetLinger(seconds int) error {
	tcp, ok := t.secure.NetConn().(*net.TCPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	if seconds == 0 {
		_ = tcp.SetLinger(0)
		return tcp.Close()
	}
	return tcp.SetLinger(seconds)
}

// closeTime is how long what was written before the end may take to be sent.
const closeTime = 10 * time.Second

// Close closes both ends. What was written is sent, as by the kernel.
func (t *tlsStream) Close() error {
	err := t.UnixConn.Close()
	_ = t.secure.SetWriteDeadline(time.Now().Add(closeTime))
	go func() {
		<-t.sent
		t.secure.NetConn().Close()
		t.inner.Close()
	}()
	return err
}
