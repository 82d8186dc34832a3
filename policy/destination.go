package policy

import (
	"slices"
	"strings"
)

// destination is what a rule speaks of: which flows to which hosts.
type destination struct {
	host  host
	scope scope
	ports bool // it names ports
}

// parseDestination parses HOST[:PORTS][/PROTO].
func parseDestination(s string) (d destination, err error) {
	if s == "" {
		return d, &wordError{word: s, msg: "empty destination; every destination is written any"}
	}
	if i := strings.Index(s, "://"); i >= 0 {
		hint, _, _ := strings.Cut(s[i+3:], "/")
		return d, &wordError{word: s[:i+3], msg: "a destination has no scheme", hint: ifValid(hint)}
	}
	hostPart, portPart, protoPart, err := splitDestination(s)
	if err != nil {
		return d, err
	}
	if d.host, err = parseHost(hostPart); err != nil {
		return d, err
	}
	d.scope, d.ports = everyFlow, portPart != ""
	if d.ports {
		list, err := parsePorts(portPart)
		if err != nil {
			return d, err
		}
		d.scope = scope{ports: [ICMP][]portRange{list, list}}
	}
	if protoPart == "" {
		return d, nil
	}
	proto, err := ParseProto(protoPart)
	if err == nil && proto == ICMP && d.ports {
		err = &wordError{word: portPart, msg: "ICMP has no ports"}
	}
	d.scope = d.scope.only(proto)
	return d, err
}

// ifValid is s if that is a destination, else "": a hint has to be good.
func ifValid(s string) string {
	if _, err := parseDestination(s); err != nil {
		return ""
	}
	return s
}

// splitDestination takes the parts of a destination apart. What follows the
// last slash is a protocol if it starts with a letter, else a prefix length.
func splitDestination(s string) (host, ports, proto string, err error) {
	rest := s
	if i := strings.LastIndexByte(s, '/'); i >= 0 {
		if proto, ports, ok := strings.Cut(s[i+1:], ":"); ok && slices.Contains(protoNames[:], proto) {
			hint := ifValid(s[:i] + ":" + ports + "/" + proto)
			return "", "", "", &wordError{word: s, msg: "ports come before the protocol", hint: hint}
		}
	}
	if i := strings.LastIndexByte(rest, '/'); i >= 0 && i+1 < len(rest) && !isDigit(rest[i+1]) && !strings.Contains(rest[i:], "]") && !strings.Contains(rest[i:], ":") {
		rest, proto = rest[:i], rest[i+1:]
	}
	if inner, ok := strings.CutPrefix(rest, "["); ok {
		end := strings.IndexByte(inner, ']')
		if end < 0 {
			return "", "", "", &wordError{word: rest, msg: "bracket is not closed"}
		}
		host, rest = inner[:end], inner[end+1:]
		if strings.HasPrefix(rest, "/") { // [2001:db8::]/32:443
			n := strings.IndexByte(rest, ':')
			if n < 0 {
				n = len(rest)
			}
			host, rest = host+rest[:n], rest[n:]
		}
		if !strings.Contains(host, ":") {
			return "", "", "", &wordError{word: "[" + host + "]", msg: "brackets are for IPv6 addresses"}
		}
		if rest != "" && rest[0] != ':' {
			return "", "", "", &wordError{word: rest, msg: "unexpected text after the bracket"}
		}
	} else if strings.Count(rest, ":") > 1 { // an IPv6 address without a port
		return rest, "", proto, nil
	} else {
		host, rest = rest, ""
		if i := strings.IndexByte(host, ':'); i >= 0 {
			host, rest = host[:i], host[i:]
		}
	}
	if rest == ":" {
		return "", "", "", &wordError{word: s, msg: "no port after the colon"}
	}
	return host, strings.TrimPrefix(rest, ":"), proto, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
