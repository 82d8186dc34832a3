package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

// resolvers are resolvers beside the host's, by what they speak. Each answers
// every name below who.example by an address of its own.
type resolvers struct {
	*world
	host  *internet.Host // one.resolver, at 11.22.0.61 and 2a0d:aaaa::61
	zones map[string]*internet.Zone
}

func newResolvers(w *world) *resolvers {
	r := &resolvers{world: w, zones: map[string]*internet.Zone{"host": w.Zone()}}
	r.host = w.Host("11.22.0.61", "2a0d:aaaa::61").Name("one.resolver", "wrong.resolver")
	for _, kind := range []string{"plain", "tls", "https"} {
		r.zones[kind] = w.NewZone()
	}
	for kind, z := range r.zones {
		z.Set(fmt.Sprintf("*.who.example. A %s", r.answer(kind)))
	}
	names := []string{"one.resolver", "11.22.0.61", "2a0d:aaaa::61"}
	r.host.ServeDNS(r.zones["plain"])
	r.host.ServeDNSOverTLS(r.zones["tls"], names...)
	r.host.ServeDNSOverHTTPS(r.zones["https"], names...)
	w.Host("11.22.0.62").Blackhole() // says nothing
	w.Host("11.22.0.63")             // refuses
	return r
}

// answer is the address that a kind of resolver answers.
func (r *resolvers) answer(kind string) string {
	return map[string]string{"host": "11.33.0.1", "plain": "11.33.0.2", "tls": "11.33.0.3", "https": "11.33.0.4"}[kind]
}

// asked are the kinds of resolvers that were asked for the name.
func (r *resolvers) asked(name string) (kinds []string) {
	for _, kind := range slices.Sorted(maps.Keys(r.zones)) {
		if r.zones[kind].Asked(name) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// inClear counts the packets of plain DNS so far.
func (r *resolvers) inClear() (n int) {
	for _, a := range []string{"11.22.0.61", "2a0d:aaaa::61", "11.22.0.62", "11.22.0.63"} {
		for _, proto := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			n += r.PacketsTo(netip.MustParseAddr(a), proto, 53)
		}
	}
	return n
}

// A question goes to the resolvers that the policy names for it, in the way
// that it says, and to nobody else. For root flags name them, for others a file.
func TestDNSFlag(t *testing.T) {
	both(t, func(w *world) {
		r := newResolvers(w)
		for i, c := range []struct {
			dns   []string
			asked string // "" is none: SERVFAIL
		}{
			{nil, "host"},
			{[]string{"11.22.0.61"}, "plain"},
			{[]string{"11.22.0.61:53"}, "plain"},
			{[]string{"2a0d:aaaa::61"}, "plain"},
			{[]string{"[2a0d:aaaa::61]:53"}, "plain"},
			{[]string{"tls://one.resolver"}, "tls"},
			{[]string{"tls://one.resolver:853"}, "tls"},
			{[]string{"tls://11.22.0.61"}, "tls"},
			{[]string{"tls://11.22.0.61#one.resolver"}, "tls"},
			{[]string{"tls://[2a0d:aaaa::61]:853#one.resolver"}, "tls"},
			{[]string{"tls://wrong.resolver#one.resolver"}, "tls"},
			{[]string{"https://one.resolver/dns-query"}, "https"},
			{[]string{"https://one.resolver:443/dns-query"}, "https"},
			{[]string{"https://11.22.0.61/dns-query"}, "https"},
			{[]string{"https://[2a0d:aaaa::61]/dns-query"}, "https"},

			// Their certificates are for others: nothing is asked, of nobody.
			{[]string{"tls://wrong.resolver"}, ""},
			{[]string{"tls://11.22.0.61#wrong.resolver"}, ""},
			{[]string{"https://wrong.resolver/dns-query"}, ""},
			{[]string{"https://one.resolver/other-path"}, ""},

			{[]string{"who.example=11.22.0.61"}, "plain"},
			{[]string{"example=tls://one.resolver"}, "tls"},
			{[]string{"who.example=https://one.resolver/dns-query", "11.22.0.61"}, "https"},
			{[]string{"11.22.0.62", "example=11.22.0.62", "who.example=11.22.0.61"}, "plain"}, // the longest zone
			{[]string{"other.example=11.22.0.61"}, "host"},
			{[]string{"ho.example=11.22.0.61"}, "host"},
			{[]string{"who.example=11.22.0.63", "11.22.0.61"}, ""}, // from a zone, nothing falls to others

			{[]string{"11.22.0.62", "11.22.0.61"}, "plain"},
			{[]string{"11.22.0.63", "11.22.0.61"}, "plain"},
			{[]string{"tls://11.22.0.62", "https://one.resolver/dns-query"}, "https"},
			{[]string{"tls://11.22.0.63", "tls://one.resolver"}, "tls"},
			{[]string{"tls://wrong.resolver", "tls://one.resolver"}, "tls"},
			{[]string{"who.example=11.22.0.62", "who.example=11.22.0.61"}, "plain"},
		} {
			lines := ""
			var args []string
			for _, server := range c.dns {
				lines += "dns " + server + "\n"
				args = append(args, "--dns", server)
			}
			if w.user.UID != 0 {
				args = []string{"--policy", w.write("dns.policy", lines)}
			}
			name := fmt.Sprintf("n%d.who.example", i)
			before := r.inClear()
			run := w.run(append(args, "--allow", "*.who.example", "--", "dig", "+tries=1", "+time=9", name)...)
			want := "SERVFAIL"
			if c.asked != "" {
				want = r.answer(c.asked)
			}
			if asked := strings.Join(r.asked(name), " "); asked != c.asked || !strings.Contains(run.stdout, want) {
				t.Errorf("%q: asked %q, not %q: %s%s", c.dns, asked, c.asked, run.stdout, run.stderr)
			}
			encrypted := c.dns != nil && !slices.ContainsFunc(c.dns, func(s string) bool { return !strings.Contains(s, "//") })
			if clear := r.inClear() - before; clear > 0 && encrypted {
				t.Errorf("%q: %d packets in clear", c.dns, clear)
			}
			if run.took > failFast+2*time.Second {
				t.Errorf("%q: it took %v", c.dns, run.took)
			}
		}
		// The host's resolver is asked where the others are, and what is its own.
		for _, q := range w.Zone().Queries() {
			if !strings.Contains(q, ".resolver. A") && !strings.Contains(q, "who.example. A") {
				t.Errorf("the host's resolver was asked %s", q)
			}
		}
	})
}

// One that is dead is not waited for again.
func TestDNSFlagDead(t *testing.T) {
	both(t, func(w *world) {
		r := newResolvers(w)
		run := w.run("--dns", "11.22.0.62", "--dns", "tls://one.resolver", "--allow", "*.who.example", "--", "sh", "-c", "for i in 1 2 3 4 5 6; do dig +short again-$i.who.example; done")
		if out := w.ok(run); strings.Count(out, r.answer("tls")) != 6 || run.took > failFast+2*time.Second {
			t.Errorf("after %v: %q", run.took, out)
		}
	})
}

// An authority that is not trusted proves nothing.
func TestDNSFlagUntrusted(t *testing.T) {
	both(t, func(w *world) {
		r := newResolvers(w)
		c := w.Command(t.Context(), w.user, program, "run", "--log", "-", "--dns", "tls://one.resolver", "--allow", "*.who.example", "--", "dig", "+tries=1", "+time=9", "untrusted.who.example")
		c.Env = append(c.Env, "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/nonexistent")
		run := w.finish(c)
		wants(t, run.stdout, "SERVFAIL")
		wants(t, run.stderr, "the resolvers failed: tls://one.resolver: ", "certificate")
		if asked := r.asked("untrusted.who.example"); asked != nil {
			t.Errorf("asked %v", asked)
		}
	})
}
