package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Target is a destination that somebody asks about: one host, one port.
type Target struct {
	Proto Proto
	Addr  netip.Addr // valid, or Name is set
	Name  Name
	Port  uint16 // 0 for ICMP
}

// ParseTarget parses HOST[:PORT][/PROTO] where HOST is a name or an address.
// Without PROTO it is TCP; TCP and UDP need a port.
func ParseTarget(s string) (Target, error) {
	d, err := parseDestination(s)
	if w, ok := err.(*wordError); ok {
		return Target{}, w.at(Pos{File: s, Column: 1}, s)
	}
	if err != nil {
		return Target{}, err
	}
	t := Target{}
	switch {
	case d.host.kind == exactName:
		t.Name = d.host.name
	case d.host.kind == addresses && strings.HasPrefix(s, "localhost"):
		t.Addr = d.host.prefixes[0].Addr().Next() // 127.0.0.1
	case d.host.kind == addresses && len(d.host.prefixes) == 1 && d.host.prefixes[0].IsSingleIP():
		t.Addr = d.host.prefixes[0].Addr()
	default:
		return Target{}, fmt.Errorf("%q is not one host; give a name or an address", s)
	}
	if d.scope.icmp && !d.ports && len(d.scope.ports[TCP]) == 0 {
		t.Proto = ICMP
		return t, nil
	}
	list := d.scope.ports[TCP]
	if len(list) == 0 {
		t.Proto, list = UDP, d.scope.ports[UDP]
	}
	if !d.ports || len(list) != 1 || list[0].lo != list[0].hi {
		return Target{}, fmt.Errorf("%q needs one port: %s", s, Target{Addr: t.Addr, Name: t.Name, Port: 443})
	}
	t.Port = list[0].lo
	return t, nil
}

// String writes the target as a rule for it would name it.
func (t Target) String() string {
	t.Addr = Embedded(t.Addr) // what rules see
	return t.written()
}

// written is String for an address that is what it is.
func (t Target) written() string {
	to := string(t.Name)
	switch {
	case to != "" && likeKeyword(to) != "":
		to += "."
	case to != "":
	case t.Port != 0 && t.Addr.Is6():
		to = "[" + t.Addr.String() + "]"
	default:
		to = t.Addr.String()
	}
	if t.Port != 0 {
		to = fmt.Sprintf("%s:%d", to, t.Port)
	}
	if t.Proto == UDP || t.Proto == ICMP {
		to += "/" + t.Proto.String()
	}
	return to
}
