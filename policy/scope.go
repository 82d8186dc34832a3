package policy

import "slices"

// Proto is a transport protocol that rules can name.
type Proto uint8

const (
	TCP Proto = iota
	UDP
	ICMP
	protoCount
)

var protoNames = [protoCount]string{"tcp", "udp", "icmp"}

func (p Proto) String() string { return protoNames[p] }

// ParseProto parses "tcp", "udp" or "icmp".
func ParseProto(s string) (Proto, error) {
	if i := slices.Index(protoNames[:], s); i >= 0 {
		return Proto(i), nil
	}
	return 0, &wordError{word: s, msg: "unknown protocol", hint: Nearest(s, protoNames[:])}
}

// scope is which flows to a host are meant.
type scope struct {
	ports [ICMP][]portRange // by protocol, sorted, neither overlapping nor adjacent
	icmp  bool
}

// everyFlow is all of them.
var everyFlow = scope{ports: [ICMP][]portRange{allPorts, allPorts}, icmp: true}

// only is the scope for one protocol alone.
func (s *scope) only(proto Proto) scope {
	if proto == ICMP {
		return scope{icmp: true}
	}
	var one scope
	one.ports[proto] = s.ports[proto]
	return one
}

func (s *scope) matches(proto Proto, port uint16) bool {
	if proto == ICMP {
		return s.icmp
	}
	for _, r := range s.ports[proto] {
		if r.lo <= port && port <= r.hi {
			return true
		}
	}
	return false
}

// contains tells whether every flow of o is in s.
func (s *scope) contains(o *scope) bool {
	if o.icmp && !s.icmp {
		return false
	}
	for proto := range s.ports {
		for _, r := range o.ports[proto] {
			if !slices.ContainsFunc(s.ports[proto], func(q portRange) bool { return q.lo <= r.lo && r.hi <= q.hi }) {
				return false
			}
		}
	}
	return true
}
