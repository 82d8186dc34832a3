package dnsguard

import (
	"context"
	"errors"
	"net/netip"

	"github.com/miekg/dns"

	"appfw/policy"
)

// inquiry is a question on its way to an answer.
type inquiry struct {
	*Guard
	q     *dns.Msg
	name  policy.Name // that is asked for
	rules *policy.Policy
	log   Question // what is known of it so far
}

// answer answers a well-formed query message.
func (g *Guard) answer(ctx context.Context, q *dns.Msg) (*dns.Msg, found) {
	question := q.Question[0]
	if question.Name == "." {
		return denied(q, dns.RcodeSuccess, "the root zone is not for the app"), found{}
	}
	i := &inquiry{Guard: g, q: q, log: Question{Name: question.Name, Type: dns.Type(question.Qtype).String()}}
	name, err := policy.ParseName(question.Name)
	if err != nil {
		return i.deny(dns.RcodeNameError, policy.Denial("not the name of a host: "+err.Error()))
	}
	i.name, i.log.Name = name, string(name)
	if m := g.known(q, name); m != nil {
		return m, found{addrs: addresses(m)}
	}
	i.rules = g.Policy()
	i.log.Verdict = i.rules.DecideName(name)
	if !i.log.Verdict.Allowed() {
		return i.deny(i.absent(), i.log.Verdict)
	}
	if reason := withheld(question.Qtype); reason != "" {
		return i.deny(dns.RcodeSuccess, policy.Denial(reason))
	}
	return i.allowed(ctx)
}

// qtype is the type of the records that are asked for.
func (i *inquiry) qtype() uint16 { return i.q.Question[0].Qtype }

// deny is the answer to who may not ask.
func (i *inquiry) deny(rcode int, v policy.Verdict) (*dns.Msg, found) {
	i.log.Verdict = v
	i.Log(i.log)
	return denied(i.q, rcode, v.Reason()), found{err: &DeniedError{v}}
}

// absent is the RCODE of a denial: that the name is not there must not deny those below it.
func (i *inquiry) absent() int {
	if i.rules.HasBelow(i.name) {
		return dns.RcodeSuccess
	}
	return dns.RcodeNameError
}

// allowed answers a question for a name that the policy allows.
func (i *inquiry) allowed(ctx context.Context) (*dns.Msg, found) {
	addrs := i.Hosts()[i.name]
	switch {
	case addrs != nil && (i.qtype() == dns.TypeA || i.qtype() == dns.TypeAAAA):
		e := hostsEntry(i.q.Question[0], addrs, i.Now())
		e.rules = i.rules
		e.filter(i.name)
		return i.give(e, true)
	case i.Synthetic != nil && i.rules.Chained(i.name):
		return i.stand(ctx)
	case !i.Zone(i.name) && isLocal(i.name):
		if i.log.Verdict.Exact && addrs == nil { // others are what programs try by themselves
			i.log.Rcode = dns.RcodeToString[i.absent()]
			i.failed(errLocal.Error() + localHint(i.name))
		}
		return denied(i.q, i.absent(), errLocal.Error()), found{err: errLocal}
	}
	e, err := i.resolve(ctx, i.rules, i.log.Verdict, i.name, i.q)
	if err, ok := errors.AsType[*overBudget](err); ok {
		return i.over(err)
	}
	if err != nil {
		if ctx.Err() == nil {
			i.failed("the resolvers failed: " + err.Error())
		}
		return failure(i.q, dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, "appfw: the resolvers failed"), found{err: err}
	}
	m, f := i.give(e, true)
	if _, isDenied := errors.AsType[*DeniedError](f.err); !isDenied {
		f.entry, f.log = e, i.log
	}
	return m, f
}

// failed records that a name which is allowed could not be resolved.
func (i *inquiry) failed(why string) {
	i.log.Verdict, i.log.Failed = i.log.Verdict.Because(why), true
	i.log.Error = why
	if i.log.Rcode == "" {
		i.log.Rcode = dns.RcodeToString[dns.RcodeServerFailure]
	}
	i.Log(i.log)
}

// over is the answer to one question too many.
func (i *inquiry) over(err *overBudget) (*dns.Msg, found) {
	i.log.Name = err.names
	return i.deny(dns.RcodeNameError, policy.Denial(err.Error()))
}

// stand answers with the addresses that stand for a name which is resolved beyond a chain
// of proxies: the question counts, as it will be asked there.
func (i *inquiry) stand(ctx context.Context) (*dns.Msg, found) {
	if !i.Synthetic.Has(i.name) {
		err := i.spend(ctx, i.rules, i.log.Verdict, key{name: i.name, qtype: dns.TypeA}, false)
		if err, ok := errors.AsType[*overBudget](err); ok {
			return i.over(err)
		}
		if err != nil {
			return failure(i.q, dns.RcodeServerFailure, 0, ""), found{err: err}
		}
	}
	v4, v6, err := i.Synthetic.For(i.name)
	if err != nil {
		return i.deny(dns.RcodeServerFailure, policy.Denial(err.Error()))
	}
	e := hostsEntry(i.q.Question[0], []netip.Addr{v4, v6}, i.Now())
	switch {
	case i.qtype() == dns.TypeA && v4.IsValid():
		e.addrs = []netip.Addr{v4}
	case i.qtype() == dns.TypeAAAA && v6.IsValid():
		e.addrs = []netip.Addr{v6}
	}
	return i.give(e, false) // it is known what they stand for, and until when
}

// give gives an answer out, if it may be. With pin, its addresses are pinned before, so
// that the app cannot be faster.
func (i *inquiry) give(e *entry, pin bool) (*dns.Msg, found) {
	switch {
	case e.denied != nil && e.denied.alias:
		return i.deny(i.absent(), e.denied.Verdict)
	case e.denied != nil:
		return i.deny(dns.RcodeSuccess, e.denied.Verdict)
	}
	m := e.answer(i.q, i.Now())
	f := found{addrs: e.addrs, aliases: e.aliases}
	i.log.Addrs = e.addrs
	if e.rcode != dns.RcodeSuccess {
		i.log.Rcode, i.log.Error = dns.RcodeToString[e.rcode], errNoName.Error()
	}
	if pin {
		f.pinned = i.Pins.give(i.name, e.aliases, e.addrs, i.Now())
	}
	i.Log(i.log)
	if e.rcode == dns.RcodeNameError {
		f.err = errNoName
	}
	return m, f
}
