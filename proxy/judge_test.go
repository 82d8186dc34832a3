package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"appfw/dnsguard"
	"appfw/netns/route"
	"appfw/policy"
	"appfw/proxy/decide"
)

// begun is a flow that is in the table and decided, and is not connected; nil if it is
// denied. It ends with the test.
func (w *world) begun(t *testing.T, f Facts) *Flow {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	flow := w.begin(newAttempt(t, f, nil), cancel)
	if err := flow.decide(ctx); err != nil {
		flow.refuse(err)
		return nil
	}
	t.Cleanup(func() { flow.fail(ctx, errLeft) })
	return flow
}

// After another policy, a flow is judged by its address and by every name that it
// has shown.
func TestAgain(t *testing.T) {
	dst := netip.MustParseAddrPort("11.0.0.1:443")
	for _, c := range []struct {
		before, after string
		shown         []policy.Name
		want          string // "": goes on
	}{
		{"allow a.example\nallow b.example", "allow a.example", []policy.Name{"a.example"}, ""},
		{"allow a.example\nallow b.example", "allow b.example", []policy.Name{"a.example", "b.example"}, "no rule allows it"},
		{"allow a.example", "allow 11.0.0.0/8", []policy.Name{"a.example"}, ""},
		{"allow a.example", "allow a.example\ndeny 11.0.0.1", []policy.Name{"a.example"}, "the rule deny 11.0.0.1 (p:2) denies it"},
		{"allow a.example", "allow c.example", nil, "no rule allows it"},
		{"allow a.example", "allow a.example:443", nil, ""},
		{"allow 11.0.0.1", "allow 11.0.0.0/8", nil, ""},
		{"allow 11.0.0.1", "allow 11.0.0.1\ndeny c.example", nil, "the policy has changed, and not every name that the flow has shown is known"},
		{"allow *.example", "allow *.example\ndeny c.example", make([]policy.Name, maxShown+1), "the policy has changed, and not every name that the flow has shown is known"},
		{"allow 11.0.0.1", "upstream http://192.0.2.1:1\nallow 11.0.0.1", nil, "the policy has changed, and it would go out another way now"},
	} {
		w := newWorld(t, c.before)
		for i := range c.shown {
			if c.shown[i] == "" {
				c.shown[i] = policy.Name(fmt.Sprintf("n%d.example", i))
			}
		}
		for _, n := range append(c.shown, "a.example", "b.example") {
			w.Pins.Give(n, nil, []netip.Addr{dst.Addr()}, time.Now())
		}
		f := w.begun(t, Facts{Facts: decide.Facts{Proto: policy.TCP, Dst: dst}, Scope: w.NewScope()})
		if f == nil {
			t.Fatalf("%q: denied", c.before)
		}
		f.enter(Open)
		for _, n := range c.shown {
			if err := f.judge(n); err != nil {
				t.Fatalf("%q: %s: %v", c.before, n, err)
			}
		}
		again := func() policy.Verdict {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.again(false)
		}
		if v := again(); !v.Allowed() {
			t.Errorf("%q: denied under its own policy: %+v", c.before, v)
		}
		w.rules.Store(compile(t, c.after))
		if v := again(); v.Allowed() != (c.want == "") || !v.Allowed() && v.Reason() != c.want {
			t.Errorf("%q, then %q: %+v, want %q", c.before, c.after, v, c.want)
		}
	}
}

// What a flow that is not open yet has shown is known: it has shown nothing.
func TestAgainBeforeOpen(t *testing.T) {
	w := newWorld(t, "allow 11.0.0.1")
	f := w.begun(t, Facts{Facts: decide.Facts{Proto: policy.TCP, Dst: addrPort("11.0.0.1:443")}, Scope: w.NewScope()})
	w.reload("allow 11.0.0.1\ndeny c.example")
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.looked || f.rules != w.rules.Load() {
		t.Error("what it shows will not be looked at")
	}
}

// A name that was asked for is judged before anybody is asked, and each of its
// addresses; one that stands for a name ends that.
func TestAskedName(t *testing.T) {
	facts := func(w *world, name policy.Name, port uint16) Facts {
		return Facts{Facts: decide.Facts{Proto: policy.TCP, Asked: name, Dst: netip.AddrPortFrom(netip.Addr{}, port)}, Scope: w.NewScope(), Called: string(name)}
	}
	const rules = "allow a.example:80\nallow b.example\nallow localhost:80\nupstream up=http://192.0.2.1:1\nallow c.example via=up"
	refusal := func(t *testing.T, name policy.Name, port uint16, set func(*world)) (*world, error) {
		t.Helper()
		w := newWorld(t, rules)
		set(w)
		a := newAttempt(t, facts(w, name, port), nil)
		w.Admit(t.Context(), a)
		return w, receive(t, "the refusal", a.refused)
	}
	t.Run("at another port", func(t *testing.T) {
		w, err := refusal(t, "a.example", 81, func(*world) {})
		w.wantStory(1, "deny: no rule allows it")
		if err.Error() != "denied tcp a.example:81: no rule allows it" || len(w.names.asked) > 0 {
			t.Error(err)
		}
	})
	t.Run("of nobody", func(t *testing.T) {
		w, err := refusal(t, "b.example", 80, func(*world) {})
		w.wantStory(1, "") // there is a record of it as a question
		if u, ok := err.(*unresolved); !ok || u.name != "b.example" || err.Error() != "b.example: the name does not exist" || errors.Unwrap(err) == nil {
			t.Error(err)
		}
	})
	t.Run("that leads to a special address", func(t *testing.T) {
		w, err := refusal(t, "b.example", 80, func(w *world) { w.names.set("b.example", "10.0.0.1") })
		w.wantStory(1, "")
		if denied, ok := err.(*Denied); !ok || denied.What != "dns b.example" {
			t.Error(err)
		}
	})
	t.Run("that leads to this host", func(t *testing.T) {
		w, err := refusal(t, "b.example", 80, func(w *world) {
			w.names.set("b.example", "11.0.0.1", "11.0.0.2")
			w.routes.set(func(netip.Addr) route.Kind { return route.Local })
		})
		const why = "it is an address of this host, and no rule names that"
		w.wantStory(1, "deny: "+why)
		if e := w.recorded()[0]; err.Error() != "denied tcp b.example:80: "+why || e.Dst != addrPort("11.0.0.1:80") || e.Name != "b.example" {
			t.Errorf("%v; recorded of %s %s", err, e.Name, e.Dst)
		}
	})
	t.Run("of the loopback", func(t *testing.T) {
		w := newWorld(t, rules)
		f := w.begun(t, facts(w, "localhost", 80))
		if f.way.dst != addrPort("127.0.0.1:80") || len(f.others) != 1 || f.others[0].dst != addrPort("[::1]:80") {
			t.Errorf("it goes to %v, %v", f.way, f.others)
		}
	})
	t.Run("of an upstream", func(t *testing.T) {
		w := newWorld(t, rules)
		f := w.begun(t, facts(w, "c.example", 80))
		if w.standsFor(f.way.dst.Addr()) != "c.example" || len(f.others) > 0 || f.way.chain != noChain || len(w.names.asked) > 0 {
			t.Errorf("it goes to %v, %v", f.way, f.others)
		}
		if got := w.host(f.way.dst); got != "c.example" {
			t.Errorf("its upstream is told %s", got)
		}
	})
}

// NameOf is the name that an address was given out for last, or stands for.
func TestNameOf(t *testing.T) {
	w := newWorld(t, "allow any")
	a := netip.MustParseAddr("11.0.0.1")
	if got := w.NameOf(a); got != "" {
		t.Error(got)
	}
	for _, n := range []policy.Name{"a.example", "b.example"} {
		w.Pins.Give(n, nil, []netip.Addr{a}, time.Now())
	}
	if got := w.NameOf(a); got != "b.example" {
		t.Error(got)
	}
	v4, _, err := w.Guard.Synthetic.For("c.example")
	if got := w.NameOf(v4); err != nil || got != "c.example" {
		t.Error(got, err)
	}
	w.Shared = true
	if got := w.NameOf(a); got != "" {
		t.Errorf("what another one asked for is shown: %s", got)
	}
	if got := New(Config{}).NameOf(a); got != "" {
		t.Error(got)
	}
}

// An address stays pinned to the name that a flow to it was allowed for, and to no
// name that only another one asked for.
func TestPinKept(t *testing.T) {
	dst := addrPort("11.0.0.1:443")
	w := newWorld(t, "allow a.example")
	w.stop()
	w.Pins.Life = time.Hour
	w.Pins.Give("a.example", nil, []netip.Addr{dst.Addr()}, w.Now())
	w.pass(59 * time.Minute)
	if d := w.Decide(w.rules.Load(), policy.TCP, dst); !d.Verdict.Allowed() || d.Name != "a.example" || !d.Pinned {
		t.Fatalf("%+v", d)
	}
	w.pass(59 * time.Minute)
	if d := w.Decide(w.rules.Load(), policy.TCP, dst); !d.Verdict.Allowed() {
		t.Errorf("it was forgotten: %+v", d)
	}
	w.pass(61 * time.Minute)
	if d := w.Decide(w.rules.Load(), policy.TCP, dst); d.Verdict.Allowed() {
		t.Errorf("it was not forgotten: %+v", d)
	}
	w.Pins.Give("a.example", nil, []netip.Addr{dst.Addr()}, w.Now())
	w.Shared = true
	if d := w.Decide(w.rules.Load(), policy.TCP, dst); d.Verdict.Allowed() {
		t.Errorf("what one resolved is open to others: %+v", d)
	}
	pin := dnsguard.Pin{Name: "a.example"}
	f := decide.Facts{Proto: policy.TCP, Dst: dst, Pin: &pin}
	if d := w.judge(w.rules.Load(), &f); !d.Verdict.Allowed() || f.Route != route.Unicast {
		t.Errorf("who asked for it is denied: %+v", d)
	}
}
