package dnsguard

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"appfw/policy"
)

// ParseServer parses a resolver: ADDR[:PORT] for plain DNS,
// tls://HOST[:PORT][#NAME] for DNS over TLS (RFC 7858), or
// https://HOST[:PORT]/PATH for DNS over HTTPS (RFC 8484), each with ZONE= before
// it if only names at and below ZONE are for it. HOST is a name or an address,
// and the server's certificate must be NAME's, or HOST's if there is no NAME.
// An IPv6 address with a port, or in a URL, is in brackets.
func ParseServer(s string) (*Server, error) {
	server, err := parseServer(s)
	if err != nil {
		return nil, fmt.Errorf("%.80q: %w", s, err)
	}
	return server, nil
}

func parseServer(s string) (*Server, error) {
	before, rest, ok := strings.Cut(s, "=")
	if !ok || strings.Contains(before, "/") { // "=" may be in the path of a URL
		return parseUnzoned(s)
	}
	zone, err := policy.ParseName(before)
	if err != nil {
		if n, wild := policy.ParseName(strings.TrimLeft(before, "*.")); wild == nil {
			err = fmt.Errorf("a zone is all the names below it (did you mean %s=?)", n)
		}
		return nil, err
	}
	server, err := parseUnzoned(rest)
	if err == nil {
		server.Zone = zone
	}
	return server, err
}

func parseUnzoned(s string) (*Server, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return parsePlain(s)
	}
	switch scheme := strings.ToLower(scheme); scheme {
	case "tls":
		return parseTLS(rest)
	case "https":
		return parseHTTPS(rest)
	case "http":
		return nil, errors.New("over http:// anybody on the way could change the answers; there is https://")
	default:
		if hint := policy.Nearest(scheme, []string{"tls", "https"}); hint != "" {
			return nil, fmt.Errorf("unknown scheme (did you mean %s://?)", hint)
		}
		return nil, errors.New("unknown scheme; a resolver is an address, tls://HOST or https://HOST/PATH")
	}
}

func parsePlain(s string) (*Server, error) {
	if scheme, rest, ok := strings.Cut(s, ":"); ok && (strings.EqualFold(scheme, "tls") || strings.EqualFold(scheme, "https")) {
		return nil, errors.New("two slashes are missing" + didYouMean(scheme+"://"+strings.TrimLeft(rest, "/")))
	}
	if i := strings.IndexAny(s, "#@"); i >= 0 {
		if _, err := policy.ParsePort(s[i+1:]); err == nil {
			return nil, errors.New("a port comes after a colon" + didYouMean(s[:i]+":"+s[i+1:]))
		}
		return nil, errors.New("only tls:// can have a #NAME" + didYouMean("tls://"+s))
	}
	h, err := parseHost(s, 53)
	switch {
	case err != nil:
		return nil, err
	case h.name != "":
		return nil, fmt.Errorf("a resolver is given by its address; one that is given by name is tls://%s or https://%[1]s/dns-query", h.name)
	}
	return plainServer(netip.AddrPortFrom(h.addr, h.port)), nil
}

// didYouMean is a hint, if the correction is one.
func didYouMean(s string) string {
	server, err := parseUnzoned(s)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", server)
}

func parseTLS(s string) (*Server, error) {
	s, name, named := strings.Cut(s, "#")
	if strings.ContainsAny(s, "/?") {
		return nil, errors.New("only #NAME can follow tls://HOST[:PORT]")
	}
	h, err := parseURLHost(s, 853)
	if err != nil {
		return nil, err
	}
	config := h.tls()
	spec := "tls://" + h.authority(853)
	if named {
		n, err := policy.ParseName(name)
		if err != nil {
			return nil, fmt.Errorf("the name after #: %w", err)
		}
		config.ServerName = string(n)
		spec += "#" + string(n)
	}
	return &Server{spec: spec, TLS: config, transport: newDoT(h.authority(0), config)}, nil
}

func parseHTTPS(s string) (*Server, error) {
	i := strings.IndexByte(s, '/')
	if i < 0 {
		return nil, errors.New("it has no path" + didYouMean("https://"+s+"/dns-query"))
	}
	h, err := parseURLHost(s[:i], 443)
	if err != nil {
		return nil, err
	}
	path := s[i:]
	for _, c := range path {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-._~!$&'()*+,;=:@%/?", c):
		case c == '{':
			return nil, errors.New("leave {?dns} out: questions are sent by POST (RFC 8484, 4.1)")
		case c == '#':
			return nil, errors.New("only tls:// can have a #NAME")
		default:
			return nil, fmt.Errorf("a path cannot have the character %q", c)
		}
	}
	spec := "https://" + h.authority(443) + path
	target := "https://" + h.withoutZone().authority(443) + path
	if _, err := url.Parse(target); err != nil {
		return nil, errors.New("in a path, two hexadecimal digits come after %")
	}
	config := h.tls()
	return &Server{spec: spec, TLS: config, transport: newDoH(target, h.authority(0), config)}, nil
}

// host is where a server is.
type host struct {
	addr netip.Addr  // valid, or else name is set
	name policy.Name // "" if there is an address
	port uint16
}

// authority is HOST:PORT, or HOST if the port is the default; 0 is none's.
func (h host) authority(defaultPort uint16) string {
	s := string(h.name)
	switch {
	case h.addr.Is6():
		s = "[" + h.addr.String() + "]"
	case h.addr.Is4():
		s = h.addr.String()
	}
	if h.port != defaultPort {
		s += ":" + strconv.Itoa(int(h.port))
	}
	return s
}

// withoutZone is without the interface, which is this host's own matter
// (RFC 4007, 11.2).
func (h host) withoutZone() host {
	h.addr = h.addr.WithZone("")
	return h
}

// tls is what a server there must prove: to be the name or the address.
func (h host) tls() *tls.Config {
	name := string(h.name)
	if h.addr.IsValid() {
		name = h.addr.WithZone("").String()
	}
	return &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
}

// parseURLHost is parseHost, with brackets for IPv6 as RFC 3986, 3.2.2, has it.
func parseURLHost(s string, defaultPort uint16) (host, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return host{}, errors.New("in a URL, an IPv6 address is in brackets")
	}
	return parseHost(s, defaultPort)
}

// parseHost parses ADDR, NAME, ADDR4:PORT, [ADDR6]:PORT, NAME:PORT, [ADDR6].
func parseHost(s string, defaultPort uint16) (h host, err error) {
	h.port = defaultPort
	if a, err := netip.ParseAddr(s); err == nil {
		h.addr, err = serverAddr(a)
		return h, err
	}
	at, port, hasPort := s, "", false
	bracketed := strings.HasPrefix(s, "[")
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		at, port, hasPort = s[:i], s[i+1:], true
	}
	if hasPort {
		if h.port, err = policy.ParsePort(port); err != nil {
			return h, err
		}
	}
	if bracketed {
		a, err := netip.ParseAddr(strings.TrimSuffix(at[1:], "]"))
		if err != nil || !a.Is6() || !strings.HasSuffix(at, "]") {
			return h, fmt.Errorf("%q is not an IPv6 address in brackets", at)
		}
		h.addr, err = serverAddr(a)
		return h, err
	}
	if strings.Contains(at, ":") {
		return h, fmt.Errorf("%q is no address", s)
	}
	if a, err := netip.ParseAddr(at); err == nil {
		h.addr, err = serverAddr(a)
		return h, err
	}
	h.name, err = policy.ParseName(at)
	return h, err
}

// serverAddr is an address that one server can have.
func serverAddr(a netip.Addr) (netip.Addr, error) {
	if strings.Trim(a.Zone(), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" {
		return a, fmt.Errorf("%q is no interface", a.Zone())
	}
	a = a.Unmap()
	if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return a, fmt.Errorf("%s is not the address of one host", a)
	}
	return a, nil
}
