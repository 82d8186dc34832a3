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
be connected to, or was only looked up, is in it as comments. A name that connections
show otherwise than it was resolved (curl --connect-to) is not in the log, nor are the
dns, hosts and upstream lines of then. Read the policy before you use it: it has what
the program did, good or bad, and a program can write to logs that its user can write
to. LOG - is stdin.`,
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
	asked  map[question]int

	own      []netip.Addr // of this host
	bad      error        // the first line that could not be read
	badLines int
}

// shownFlow is a flow, and what was decided on it.
type shownFlow struct {
	destination
	proto   policy.Proto
	port    uint16
	addr    netip.Addr // may be invalid
	allowed bool
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
	l := &learned{flows: make(map[shownFlow]int), failed: make(map[shownFlow]int), asked: make(map[question]int)}
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
	log := bufio.NewScanner(r)
	log.Buffer(nil, maxRecord)
	number := 0
	for log.Scan() {
		number++
		if len(bytes.TrimSpace(log.Bytes())) == 0 {
			continue
		}
		var rec record
		if err := json.Unmarshal(log.Bytes(), &rec); err != nil {
			pos := policy.Pos{File: name, Line: number, Column: 1}
			if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
				pos.Column = int(max(syntax.Offset, 1))
			}
			if l.badLines++; l.bad == nil {
				l.bad = &policy.SyntaxError{Pos: pos, Msg: fmt.Sprintf("--log wrote no such line: %v", err)}
			}
			continue
		}
		l.add(rec)
	}
	if err := log.Err(); errors.Is(err, bufio.ErrTooLong) {
		return &policy.SyntaxError{Pos: policy.Pos{File: name, Line: number + 1, Column: 1}, Msg: "--log wrote no line that is so long"}
	} else if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
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
		f := shownFlow{destination: destination{name: name, via: rec.Via}, port: rec.Port, allowed: rec.Verdict == "allow"}
		f.addr, _ = netip.ParseAddr(rec.Addr)
		f.addr = policy.Embedded(f.addr) // what rules see
		if name == "" {
			f.destination.addr = f.addr
		}
		f.proto, err = policy.ParseProto(rec.Proto)
		switch {
		case rec.Via != defaultVia && strings.Trim(rec.Via, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "": // no name of an upstream
		case err != nil || name == "" && !f.addr.IsValid() || (f.port == 0) != (f.proto == policy.ICMP):
		case rec.Event == "close":
			l.failed[f]++
		default:
			l.flows[f]++
		}
	}
}

// suggest writes the policy.
func (l *learned) suggest() string {
	allow, denied, failed, looked := make(rules), make(rules), make(rules), make(rules)
	known := make(map[policy.Name]bool) // by its flows
	chained := false                    // some went out by the upstream that has no name
	for f, n := range l.flows {
		known[f.name] = true
		switch {
		case !f.allowed:
			denied.add(f, n)
		case l.failed[f] >= n:
			failed.add(f, n)
		default:
			allow.add(f, n)
			chained = chained || f.via == defaultVia
		}
		if f.name != "" && f.via == "" && f.addr.IsValid() && l.needsRule(f.addr) { // a name does not lead there by itself
			f.destination = destination{addr: f.addr}
			if f.allowed {
				allow.add(f, n)
			} else {
				denied.add(f, n)
			}
		}
	}
	for q, n := range l.asked {
		switch {
		case known[q.name]:
		case q.allowed:
			looked.asked(q.name, n)
		default:
			denied.asked(q.name, n)
		}
	}
	denied.without(allow)
	failed.without(allow)
	var b strings.Builder
	b.WriteString("# Made by appfw suggest of what a program did, good or bad. Read it before you use it.\n")
	if chained {
		b.WriteString("# Much of it went out by an upstream. Write its URL here, as what follows goes out directly\n# without (or take the line away, if a flag has it):\nupstream URL\n")
	}
	if len(allow) == 0 {
		b.WriteString("default  deny\n")
	}
	allow.write(&b, "allow  ", "", chained)
	failed.write(&b, "# allow  ", ", connecting failed", chained)
	looked.write(&b, "# allow  ", ", only looked up", chained)
	denied.write(&b, "# allow  ", ", denied", chained)
	return b.String()
}

// needsRule tells whether an address is reached by a rule for it alone.
func (l *learned) needsRule(a netip.Addr) bool {
	standsForName := dnsguard.SyntheticV4.Contains(a) || dnsguard.SyntheticV6.Contains(a)
	return !standsForName && (policy.Special(a) != "" || slices.Contains(l.own, a))
}

// rules are destinations with what was done there.
type rules map[destination]*uses

// uses are how often each port was used, by protocol. ICMP has port 0.
type uses [policy.ICMP + 1]map[uint16]int

func (r rules) of(d destination) *uses {
	u := r[d]
	if u == nil {
		u = new(uses)
		r[d] = u
	}
	return u
}

func (r rules) add(f shownFlow, n int) {
	u := r.of(f.destination)
	if u[f.proto] == nil {
		u[f.proto] = make(map[uint16]int)
	}
	u[f.proto][f.port] += n
}

// asked adds a name alone, as if for port 0 of TCP.
func (r rules) asked(name policy.Name, n int) {
	r.add(shownFlow{destination: destination{name: name}, proto: policy.TCP}, n)
}

// without takes out what other rules have.
func (r rules) without(others rules) {
	for d, o := range others {
		if u := r[d]; u != nil {
			for proto := range u {
				maps.DeleteFunc(u[proto], func(port uint16, _ int) bool { return o[proto][port] > 0 })
			}
		}
	}
}

// write writes a line for each destination and protocol. Ports that both TCP and UDP
// used need no protocol. chained tells that an upstream is for all that names no other
// way.
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
		line := func(ports, proto string, times int) {
			at := host
			if ports != "" && d.name == "" && d.addr.Is6() {
				at = "[" + host + "]"
			}
			if ports != "" {
				at += ":" + ports
			}
			count := "once"
			if times > 1 {
				count = fmt.Sprintf("%d times", times)
			}
			fmt.Fprintf(b, "%-47s # %s%s\n", before+at+proto+via, count, after)
		}
		tcp, udp, either := r[d][policy.TCP], r[d][policy.UDP], make(map[uint16]int)
		if n := tcp[0]; n > 0 {
			line("", "", n)
			delete(tcp, 0)
		}
		for port, n := range tcp {
			if udp[port] > 0 {
				either[port] = n + udp[port]
				delete(tcp, port)
				delete(udp, port)
			}
		}
		eachPorts(either, func(ports string, times int) { line(ports, "", times) })
		eachPorts(tcp, func(ports string, times int) { line(ports, "/tcp", times) })
		eachPorts(udp, func(ports string, times int) { line(ports, "/udp", times) })
		if n := r[d][policy.ICMP][0]; n > 0 {
			line("", "/icmp", n)
		}
	}
}

// maxRanges are as many ports and ranges of them as stand in a line.
const maxRanges = 8

// eachPorts writes ports as rules have them, and how often they were used.
func eachPorts(ports map[uint16]int, write func(text string, times int)) {
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
			write(strings.Join(texts, ","), times)
			texts, times = nil, 0
		}
	}
}

// lines says how many.
func lines(n int) string {
	if n == 1 {
		return "a line"
	}
	return fmt.Sprintf("%d lines", n)
}
