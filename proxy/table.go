package proxy

import (
	"context"
	"net/netip"
	"sync"

	"appfw/policy"
)

// Key tells the flows of a scope apart: further packets of a flow have its key. With
// the zero value, none come.
type Key struct {
	Proto    policy.Proto
	Src, Dst netip.AddrPort
	Text     string // what else they differ in
}

const (
	// maxOpening bounds the flows of a scope and a protocol that are not open yet.
	// For more TCP, those are given up whose app has left; if there is none, they
	// are dropped, and the app's kernel sends the SYN again (after 1 s, tcp(7)).
	maxOpening = 1024
	// maxToward bounds those of them to one address, and maxOfGroup those of one group of
	// programs ([Subject]): where one does not answer, or many programs share a gate,
	// the others have room. Groups are asked for from crowded flows on.
	maxToward  = 256
	maxOfGroup = 256
	crowded    = 256
	// maxUDP bounds the open flows of datagrams of a scope. For one more, the one
	// that has been idle for longest ends.
	maxUDP = 2048
	// maxEchoes bounds the echo requests on their way; more are lost, as they may be.
	maxEchoes = 256
)

// Scope is the part of the table for the flows of one intake, with its bounds.
type Scope struct {
	// Most bounds the flows of datagrams, open or not: for one more, the open one ends
	// that has been idle for longest, and if none is open, there is no room. 0 is
	// maxUDP for those that are open.
	Most int
	// MaxOpening bounds those of a protocol that are not open; 0 is as many as of a
	// gate.
	MaxOpening int

	proxy   *Proxy
	work    sync.WaitGroup // its flows
	keyed   map[Key]*Flow  // those that packets may still come for, but for those without a key; guarded by proxy.mu
	opening [4]int         // by protocol: those that are not open; guarded by proxy.mu
	some    map[share]int  // of them, by what they share; guarded by proxy.mu
	open    int            // flows of datagrams; guarded by proxy.mu
}

// share is what some flows have in common that are not open. One of the fields is set.
type share struct {
	toward netip.Addr
	group  string
}

// NewScope makes a Scope.
func (p *Proxy) NewScope() *Scope {
	return &Scope{proxy: p, keyed: make(map[Key]*Flow), some: make(map[share]int)}
}

// Wait waits until all flows of the scope have ended.
func (s *Scope) Wait() { s.work.Wait() }

// Joiner is an attempt that further packets of its flow are given to.
type Joiner interface {
	// Join takes in a later attempt with the same key. It must not block.
	Join(later Attempt)
}

// Lost is an attempt that can be told that there is no room for it.
type Lost interface{ Drop() }

// begin puts an attempt into the table as a new flow; nil if it belongs to one that
// is there, or if there is no room.
func (p *Proxy) begin(a Attempt, cancel context.CancelCauseFunc) *Flow {
	facts := a.Facts()
	s := facts.Scope
	keyless := facts.Key == Key{}
	group := s.groupOf(&facts)
	p.mu.Lock()
	if old := s.keyed[facts.Key]; old != nil && !keyless {
		j, joins := old.attempt.(Joiner)
		if joins {
			j.Join(a)
		}
		p.mu.Unlock()
		if !joins {
			drop(a)
		}
		return nil
	}
	f := &Flow{proxy: p, scope: s, group: group, attempt: a, began: p.Now(), cancel: cancel, facts: facts}
	full := !s.hasRoom(f) && !(s.giveUp(facts.class()) && s.hasRoom(f))
	if !full && s.Most > 0 && len(s.keyed) >= s.Most {
		full = !s.crowdOut(nil)
	}
	if full {
		p.mu.Unlock()
		drop(a)
		return nil
	}
	p.last++
	f.ID = p.last
	f.way.name = policy.Name(facts.Called)
	if !keyless {
		s.keyed[f.facts.Key] = f
	}
	f.counted = true
	s.count(f, 1)
	p.flows[f] = struct{}{}
	p.mu.Unlock()
	return f
}

func drop(a Attempt) {
	if l, ok := a.(Lost); ok {
		l.Drop()
	}
}

// groupOf is the group of programs of a flow, if that matters.
func (s *Scope) groupOf(f *Facts) string {
	if f.Subject.Group == nil {
		return ""
	}
	s.proxy.mu.Lock()
	many := s.opening[f.class()] >= crowded
	s.proxy.mu.Unlock()
	if !many {
		return ""
	}
	return f.Subject.Group()
}

// hasRoom tells whether there is room for one more flow that is not open. p.mu is held.
func (s *Scope) hasRoom(f *Flow) bool {
	class := f.facts.class()
	if s.MaxOpening > 0 {
		return s.opening[class] < s.MaxOpening
	}
	return s.opening[class] < limits[class] && s.some[share{toward: f.facts.Dst.Addr()}] < maxToward &&
		(f.group == "" || s.some[share{group: f.group}] < maxOfGroup)
}

// count counts a flow as not open, or no more. p.mu is held.
func (s *Scope) count(f *Flow, one int) {
	s.opening[f.facts.class()] += one
	for _, x := range [2]share{{toward: f.facts.Dst.Addr()}, {group: f.group}} {
		if x == (share{}) || f.facts.In {
			continue
		}
		if s.some[x] += one; s.some[x] == 0 {
			delete(s.some, x)
		}
	}
}

// limits are those of flows that are not open, by class.
var limits = [4]int{policy.TCP: maxOpening, policy.UDP: maxOpening, policy.ICMP: maxEchoes, otherProto: maxEchoes}

// Leaver is an attempt that knows whether who made it has left.
type Leaver interface{ Left() bool }

// giveUp gives up flows whose app has left; false if there are none. p.mu is held.
func (s *Scope) giveUp(proto policy.Proto) (some bool) {
	for _, f := range s.keyed {
		if l, ok := f.attempt.(Leaver); ok && f.facts.class() == proto && l.Left() {
			s.unkey(f)
			f.cancel(errLeft)
			some = true
		}
	}
	return some
}

// unkey has later packets begin a flow of their own. p.mu is held.
func (s *Scope) unkey(f *Flow) {
	if f.counted {
		f.counted = false
		if s.keyed[f.facts.Key] == f {
			delete(s.keyed, f.facts.Key)
		}
		if f.datagramsOpen {
			s.open--
		} else {
			s.count(f, -1)
		}
	}
}

// opened counts a flow as open, and makes room for it. Packets of a connection find
// its socket from here on, and with the same addresses may come another one; those
// of datagrams may still be on their way.
func (p *Proxy) opened(f *Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := f.scope
	if f.facts.Proto != policy.UDP || f.facts.Other != "" {
		s.unkey(f)
		f.attempt = nil // an idle connection is not to hold its first packet
		return
	}
	if !f.counted {
		return
	}
	s.count(f, -1)
	s.open++
	f.datagramsOpen = true
	if s.open > maxUDP {
		s.crowdOut(f)
	}
}

// crowdOut ends the open flow of datagrams that has been idle for longest and is not
// f; false if there is none. p.mu is held.
func (s *Scope) crowdOut(f *Flow) bool {
	var idlest *Flow
	for _, x := range s.keyed {
		if x != f && x.datagramsOpen && (idlest == nil || x.used() < idlest.used()) {
			idlest = x
		}
	}
	if idlest == nil {
		return false
	}
	s.unkey(idlest) // at once, and not when it has ended
	idlest.cancel(errIdlest)
	return true
}

// Find is the flow's attempt that later packets with the key belong to; nil if
// there is none.
func (s *Scope) Find(k Key) Attempt {
	s.proxy.mu.Lock()
	defer s.proxy.mu.Unlock()
	if f := s.keyed[k]; f != nil {
		return f.attempt
	}
	return nil
}

// forget takes a flow that has ended out of the table.
func (p *Proxy) forget(f *Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.scope.unkey(f)
	delete(p.flows, f)
}

// all are the flows that there are.
func (p *Proxy) all() []*Flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Flow, 0, len(p.flows))
	for f := range p.flows {
		all = append(all, f)
	}
	return all
}
