package suggest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"appfw/policy"
)

// rules are destinations with what was done there.
type rules map[destination]*uses

// uses are how often a destination was met: each port of each protocol (ICMP has port
// 0), and the name alone.
type uses struct {
	ports [policy.ICMP + 1]map[uint16]int
	alone int
}

func (r rules) of(d destination) *uses {
	u := r[d]
	if u == nil {
		u = new(uses)
		r[d] = u
	}
	return u
}

func (r rules) add(d destination, proto policy.Proto, port uint16, n int) {
	ports := &r.of(d).ports[proto]
	if *ports == nil {
		*ports = make(map[uint16]int)
	}
	(*ports)[port] += n
}

// without takes out what other rules have, by whatever way out.
func (r rules) without(others rules) {
	anyWay := make(rules)
	for d, u := range others {
		d.via = ""
		for proto, ports := range u.ports {
			for port := range ports {
				anyWay.add(d, policy.Proto(proto), port, 1)
			}
		}
	}
	for d, u := range r {
		d.via = ""
		if o := anyWay[d]; o != nil {
			for proto, ports := range u.ports {
				maps.DeleteFunc(ports, func(port uint16, _ int) bool { return o.ports[proto][port] > 0 })
			}
		}
	}
}

// write writes lines for each destination. chained tells that an upstream is for all
// that names no other way.
func (r rules) write(b *strings.Builder, before, after string, chained bool) {
	all := slices.SortedFunc(maps.Keys(r), func(x, y destination) int {
		return cmp.Or(cmp.Compare(x.name, y.name), x.addr.Compare(y.addr), cmp.Compare(x.via, y.via))
	})
	for _, d := range all {
		via := ""
		switch {
		case d.via == "" && chained:
			via = " via=" + policy.Direct
		case d.via != "" && d.via != unnamed:
			via = " via=" + d.via
		}
		host := policy.Target{Name: d.name, Addr: d.addr}.String()
		for _, line := range r[d].lines() {
			at := host
			if strings.HasPrefix(line.scope, ":") && d.name == "" && d.addr.Is6() {
				at = "[" + host + "]"
			}
			times := "once"
			if line.times > 1 {
				times = fmt.Sprintf("%d times", line.times)
			}
			fmt.Fprintf(b, "%-47s # %s%s\n", before+at+line.scope+via, times, after)
		}
	}
}

// scoped is what follows the host in a rule, and how often that was met.
type scoped struct {
	scope string
	times int
}

// lines are those for one host. Ports that both TCP and UDP used need no protocol.
func (u *uses) lines() (lines []scoped) {
	if u.alone > 0 {
		lines = append(lines, scoped{"", u.alone})
	}
	tcp, udp, both := maps.Clone(u.ports[policy.TCP]), maps.Clone(u.ports[policy.UDP]), make(map[uint16]int)
	for port, n := range tcp {
		if udp[port] > 0 {
			both[port] = n + udp[port]
			delete(tcp, port)
			delete(udp, port)
		}
	}
	lines = appendPorts(lines, both, "")
	lines = appendPorts(lines, tcp, "/tcp")
	lines = appendPorts(lines, udp, "/udp")
	if n := u.ports[policy.ICMP][0]; n > 0 {
		lines = append(lines, scoped{"/icmp", n})
	}
	return lines
}

// maxRanges are as many ports and ranges of them as stand in a line.
const maxRanges = 8

func appendPorts(lines []scoped, ports map[uint16]int, proto string) []scoped {
	var texts []string
	times := 0
	list := slices.Sorted(maps.Keys(ports))
	for i := 0; i < len(list); i++ {
		first := list[i]
		times += ports[first]
		for i+1 < len(list) && list[i+1] == list[i]+1 {
			i++
			times += ports[list[i]]
		}
		text := fmt.Sprint(first)
		if list[i] != first {
			text += fmt.Sprintf("-%d", list[i])
		}
		if texts = append(texts, text); len(texts) == maxRanges || i+1 == len(list) {
			lines = append(lines, scoped{":" + strings.Join(texts, ",") + proto, times})
			texts, times = nil, 0
		}
	}
	return lines
}
