package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"appfw/dnsguard"
	"appfw/policy"
)

func newSuggest() *cobra.Command {
	return &cobra.Command{
		Use:   "suggest LOG...",
		Short: "Write a policy for what a log shows",
		Long: `Write a policy that allows what logs of --log show as allowed: the names and ports
that were reached, and addresses where no name was known. What was denied, could not
be connected to, or was only looked up, is in it as comments. Of names that share an
address, the log has the one that was looked up last, and none that connections show
otherwise than it was resolved (curl --connect-to); nor does it have the deny, dns,
hosts and upstream lines of then. It is to be run on the host of the log,
which knows its own addresses. Read the policy before you use it: it has what the
program did, good or bad, and a program can write to logs that its user can write to.
LOG - is stdin.`,
		Example: `  appfw run --default allow --log npm.json -- npm ci
  appfw suggest npm.json > npm.policy
  appfw run --policy npm.policy -- npm ci`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("give a log that --log wrote: appfw suggest npm.json")
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			l := newLearned()
			for _, name := range args {
				if err := l.readFile(name); err != nil {
					return err
				}
			}
			if len(l.flows) == 0 && len(l.asked) == 0 {
				return cmp.Or(l.bad, fmt.Errorf("%s: no flow or name is in it", strings.Join(args, ", ")))
			}
			if l.bad != nil {
				fmt.Fprintf(c.ErrOrStderr(), "appfw: left out %s, of which the first is %s\n", lines(l.badLines), printable(l.bad.Error()))
			}
			_, err := io.WriteString(c.OutOrStdout(), l.suggest())
			return err
		},
	}
}

// learned is what logs show, and how often.
type learned struct {
	flows  map[shownFlow]int
	failed map[shownFlow]int // could not be connected
	denied map[end]bool      // where something was denied
	asked  map[question]int

	chained  bool         // something went out by an upstream
	own      []netip.Addr // of this host
	bad      error        // the first line that could not be read
	badLines int
}

// shownFlow is a flow, and what was decided on it.
type shownFlow struct {
	destination
	end     // its address may be invalid
	allowed bool
}

// end is where a flow went.
type end struct {
	addr  netip.Addr
	proto policy.Proto
	port  uint16
}

// destination is what a rule is for.
type destination struct {
	name policy.Name // if there is none, it is the address
	addr netip.Addr
	via  string // the way out; "": directly
}

type question struct {
	name    policy.Name
	allowed bool
}

func newLearned() *learned {
	l := &learned{flows: make(map[shownFlow]int), failed: make(map[shownFlow]int), denied: make(map[end]bool), asked: make(map[question]int)}
	addrs, _ := net.InterfaceAddrs() // none: then their rules are missing
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			l.own = append(l.own, p.Addr())
		}
	}
	return l
}

func (l *learned) readFile(name string) error {
	if name == "-" {
		return l.read("stdin", os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return l.read(name, f)
}

// maxRecord bounds a line of a log. The reasons are short, and so are names.
const maxRecord = 1 << 20

// read takes in a log. Lines that are not of one are left out: a disk may have been
// full, or the machine have gone down.
func (l *learned) read(name string, r io.Reader) error {
	log := bufio.NewReaderSize(r, maxRecord)
	for number := 1; ; number++ {
		line, long, err := log.ReadLine()
		for more := long; more && err == nil; {
			_, more, err = log.ReadLine()
		}
		var rec record
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", name, err)
		case long:
			l.leaveOut(name, number, 1, "line that is so long")
		case len(bytes.TrimSpace(line)) == 0:
		default:
			if err := json.Unmarshal(line, &rec); err != nil {
				column := 1
				if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
					column = int(max(syntax.Offset, 1))
				}
				l.leaveOut(name, number, column, fmt.Sprintf("such line: %v", err))
			} else {
				l.add(rec)
			}
		}
	}
}

// leaveOut leaves out a line, and keeps the first that was.
func (l *learned) leaveOut(name string, line, column int, what string) {
	if l.badLines++; l.bad == nil {
		l.bad = &policy.SyntaxError{Pos: policy.Pos{File: name, Line: line, Column: column}, Msg: "--log wrote no " + what}
	}
}

// add takes in a line. Nothing in it is trusted: programs choose names.
func (l *learned) add(rec record) {
	name, err := policy.ParseName(rec.Name)
	if err != nil || dnsguard.Localhost(name) {
		name = ""
	}
	switch {
	case rec.Direction != "out":
	case rec.Event == "dns" && name != "" && rec.Type != "PTR":
		l.asked[question{name, rec.Verdict == "allow"}]++
	case rec.Event == "decision", rec.Event == "close" && rec.Error != "":
		f := shownFlow{destination: destination{name: name, via: rec.Via}, allowed: rec.Verdict == "allow"}
		l.chained = l.chained || rec.Via != ""
		f.end.addr, _ = netip.ParseAddr(rec.Addr)
		f.end.addr = policy.Embedded(f.end.addr) // what rules see
		if name == "" {
			f.destination.addr = f.end.addr
		}
		f.port = rec.Port
		f.proto, err = policy.ParseProto(rec.Proto)
		switch {
		case len(rec.Via) > 63 || rec.Via != defaultVia && strings.Trim(rec.Via, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "": // no name of an upstream
		case err != nil || name == "" && !f.end.addr.IsValid() || (f.port == 0) != (f.proto == policy.ICMP):
		case rec.Event == "close":
			l.failed[f]++
		default:
			l.flows[f]++
			l.denied[f.end] = l.denied[f.end] || !f.allowed
		}
	}
}

// suggest writes the policy.
func (l *learned) suggest() string {
	allow, denied, failed, looked := make(rules), make(rules), make(rules), make(rules)
	known := make(map[policy.Name]bool) // by its flows
	ways := make(map[string]bool)       // the upstreams by which some went out, or tried to
	for f, n := range l.flows {
		known[f.name] = true
		to := allow
		switch {
		case !f.allowed:
			to = denied
		case l.failed[f] >= n:
			to = failed
		case f.name == "" && l.denied[f.end]: // a name that it showed, perhaps, which a rule for the address would open
			to = denied
		}
		ways[f.via] = true
		to.add(f.destination, f.proto, f.port, n)
		if f.name != "" && f.via == "" && l.needsRule(f.end.addr) { // a name does not lead there by itself
			if l.denied[f.end] {
				to = denied
			}
			to.add(destination{addr: f.end.addr}, f.proto, f.port, n)
		}
	}
	for q, n := range l.asked {
		switch d := (destination{name: q.name}); {
		case known[q.name]:
		case q.allowed:
			looked.of(d).alone += n
		default:
			denied.of(d).alone += n
		}
	}
	denied.without(allow)
	failed.without(allow)
	var b strings.Builder
	b.WriteString("# Made by appfw suggest of what a program did, good or bad. Read it before you use it.\n")
	delete(ways, "")
	delete(ways, "tor") // which needs no line
	chained := ways[defaultVia]
	if len(ways) > 0 {
		b.WriteString("# Some of it went out by an upstream. Write its URL here (or take the line away, if a\n# flag has it):\n")
	}
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		name := way + "="
		if way == defaultVia {
			name = ""
		}
		b.WriteString("upstream " + name + "URL\n")
	}
	if len(allow) == 0 {
		b.WriteString("default  deny\n")
	}
	allow.write(&b, "allow  ", "", chained)
	failed.write(&b, "# allow  ", ", connecting failed", chained)
	looked.write(&b, "# allow  ", ", only looked up", false)
	denied.write(&b, "# allow  ", ", denied", false)
	return b.String()
}

// needsRule tells whether an address is reached by a rule for it alone.
func (l *learned) needsRule(a netip.Addr) bool {
	standsForName := l.chained && (dnsguard.SyntheticV4.Contains(a) || dnsguard.SyntheticV6.Contains(a))
	return a.IsValid() && !standsForName && (policy.Special(a) != "" || slices.Contains(l.own, a))
}

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
		case d.via != "" && d.via != defaultVia:
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

// lines says how many.
func lines(n int) string {
	if n == 1 {
		return "a line"
	}
	return fmt.Sprintf("%d lines", n)
}
