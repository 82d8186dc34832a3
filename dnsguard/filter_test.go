package dnsguard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"appfw/policy"
)

// What an answer holds for the app, and which names were asked upstream.
func TestFilter(t *testing.T) {
	zones := zone(map[string][]string{
		"lan.x.":          {"lan.x. 60 IN A 10.0.0.1", "lan.x. 60 IN A 11.0.0.1"},
		"only.x.":         {"only.x. 60 IN A 192.168.1.1"},
		"meta.x. AAAA":    {"meta.x. 60 IN AAAA ::ffff:169.254.169.254", "meta.x. 60 IN AAAA 64:ff9b::a00:1"},
		"six.x. AAAA":     {"six.x. 60 IN AAAA 2002:a00:1::", "six.x. 60 IN AAAA 2606::1"},
		"blocked.x.":      {"blocked.x. 60 IN A 11.6.6.6"},
		"cloaked.x.":      {"cloaked.x. 60 IN CNAME a.tracker.y.", "a.tracker.y. 60 IN A 11.0.0.2"},
		"asked.x.":        {"asked.x. 60 IN CNAME b.tracker.y."},
		"b.tracker.y.":    {"b.tracker.y. 60 IN A 11.0.0.2"},
		"good.x.":         {"good.x. 60 IN CNAME good.tracker.y.", "good.tracker.y. 60 IN A 11.0.0.3"},
		"ported.x.":       {"ported.x. 60 IN CNAME ported.y.", "ported.y. 60 IN A 11.0.0.4"},
		"inside.x.":       {"inside.x. 60 IN CNAME printer.local."},
		"odd.x.":          {`odd.x. 60 IN CNAME a\032b.y.`},
		"h3.x. HTTPS":     {`h3.x. 60 IN HTTPS 1 . alpn="h3,h2" ipv4hint=11.0.0.5,10.0.0.5 ipv6hint=fd00::5`},
		"only3.x. HTTPS":  {`only3.x. 60 IN HTTPS 1 . alpn="h3" no-default-alpn`, `only3.x. 60 IN HTTPS 2 . alpn="h3"`},
		"must.x. HTTPS":   {`must.x. 60 IN HTTPS 1 . mandatory=ech ech=AAAA`, `must.x. 60 IN HTTPS 2 . mandatory=port port=8443 ech=AAAA`},
		"target.x. HTTPS": {`target.x. 60 IN HTTPS 1 cdn.y. alpn="h2"`, `target.x. 60 IN HTTPS 2 b.x. alpn="h2" ipv4hint=11.0.0.6`, `target.x. 60 IN HTTPS 0 t.tracker.y.`},
		"signed.x. A":     {"signed.x. 60 IN A 10.0.0.1", "signed.x. 60 IN A 11.0.0.7", "signed.x. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 x. AAAA"},
	})
	const sig = "RRSIG"
	rules := []string{"allow *.x", "deny .tracker.y", "deny ported.y:80", "allow good.tracker.y", "deny 11.6.0.0/16"}
	for _, c := range []struct {
		ask, qtype, more, want string
		asked                  int
		ede                    string
	}{
		{"lan.x.", "A", "", "NOERROR | lan.x. 60 A 11.0.0.1", 1, ""},
		{"lan.x.", "A", "allow 10.0.0.0/24", "NOERROR | lan.x. 60 A 10.0.0.1 | lan.x. 60 A 11.0.0.1", 1, ""},
		{"only.x.", "A", "", "NODATA", 1, "appfw: the name leads to a private address, which no rule allows"},
		{"only.x.", "A", "allow private", "NOERROR | only.x. 60 A 192.168.1.1", 1, ""},
		{"meta.x.", "AAAA", "", "NODATA", 1, "appfw: the name leads to a link-local address, which no rule allows"},
		{"six.x.", "AAAA", "", "NOERROR | six.x. 60 AAAA 2606::1", 1, ""},
		{"blocked.x.", "A", "", "NODATA", 1, "appfw: the rule  11.6.0.0/16 (command line) denies it, at its address 11.6.6.6"},
		{"cloaked.x.", "A", "", "NODATA", 1, "appfw: its name leads to a.tracker.y, and the rule  .tracker.y (command line) denies it"},
		{"cloaked.x.", "TXT", "", "NODATA", 1, "appfw: its name leads to a.tracker.y, and the rule  .tracker.y (command line) denies it"},
		{"asked.x.", "A", "", "NODATA", 1, "appfw: its name leads to b.tracker.y, and the rule  .tracker.y (command line) denies it"},
		{"good.x.", "A", "", "NOERROR | good.x. 60 CNAME good.tracker.y. | good.tracker.y. 60 A 11.0.0.3", 1, ""},
		{"ported.x.", "A", "", "NOERROR | ported.x. 60 CNAME ported.y. | ported.y. 60 A 11.0.0.4", 1, ""},
		{"inside.x.", "A", "", "SERVFAIL", 1, "appfw: the resolvers failed"},
		{"odd.x.", "A", "", "SERVFAIL", 1, "appfw: the resolvers failed"},
		{"h3.x.", "HTTPS", "", `NOERROR | h3.x. 60 HTTPS 1 . alpn="h3,h2" ipv4hint="11.0.0.5"`, 1, ""},
		{"h3.x.", "HTTPS", "deny any/udp", `NOERROR | h3.x. 60 HTTPS 1 . alpn="h2" ipv4hint="11.0.0.5"`, 1, ""},
		{"only3.x.", "HTTPS", "deny any:443/udp", `NOERROR | only3.x. 60 HTTPS 2 .`, 1, ""},
		{"must.x.", "HTTPS", "", `NOERROR | must.x. 60 HTTPS 2 . mandatory="port" port="8443"`, 1, ""},
		{"target.x.", "HTTPS", "", `NOERROR | target.x. 60 HTTPS 2 b.x. alpn="h2" ipv4hint="11.0.0.6"`, 1, ""},
		{"target.x.", "HTTPS", "allow cdn.y", `NOERROR | target.x. 60 HTTPS 1 cdn.y. alpn="h2" | target.x. 60 HTTPS 2 b.x. alpn="h2" ipv4hint="11.0.0.6"`, 1, ""},
		{"signed.x.", "A", "", "NOERROR | signed.x. 60 A 11.0.0.7", 1, ""},
		{"signed.x.", "A", "allow private", "NOERROR | signed.x. 60 A 10.0.0.1 | signed.x. 60 A 11.0.0.7 | " + sig, 1, ""},
		{"lan.x.", "NULL", "", "NODATA", 0, "appfw: records of type NULL are not for the app"},
		{"lan.x.", "TYPE65300", "", "NODATA", 0, "appfw: records of type TYPE65300 are not for the app"},
		{"a.onion.", "A", "allow *.onion", "NODATA", 0, "appfw: names of the local network are asked of nobody"},
		{"printer.local.", "A", "allow printer.local", "NXDOMAIN", 0, "appfw: names of the local network are asked of nobody"},
		{"x.", "NS", "allow x.", "NODATA", 0, "appfw: names of the local network are asked of nobody"},
		{"use-application-dns.net.", "A", "allow any", "NXDOMAIN", 0, "appfw: names are resolved here alone"},
		{"mask.icloud.com.", "AAAA", "default allow", "NXDOMAIN", 0, "appfw: names are resolved here alone"},
		{"_dns.resolver.arpa.", "SVCB", "allow any", "NODATA", 0, "appfw: names are resolved here alone"},
		{"1.0.0.10.in-addr.arpa.", "PTR", "allow any", "NXDOMAIN", 0, "appfw: the address was not resolved from a name"},
		{"_dns-sd._udp.0.0.0.10.in-addr.arpa.", "PTR", "allow any", "NXDOMAIN", 0, "appfw: the address was not resolved from a name"},
	} {
		lines := rules
		if c.more != "" {
			lines = append(slices.Clip(rules), c.more)
		}
		f := newFixture(t, zones, lines...)
		q := query(c.ask, c.qtype)
		if n, ok := strings.CutPrefix(c.qtype, "TYPE"); ok {
			_, _ = fmt.Sscan(n, &q.Question[0].Qtype)
		}
		m := f.Answer(context.Background(), q)
		got := text(m)
		if i := strings.Index(got, sig); i >= 0 {
			got = got[:strings.LastIndex(got[:i], "| ")] + "| " + sig
		}
		if strings.Contains(got, "SOA") && len(m.Answer) == 0 {
			got = map[int]string{dns.RcodeSuccess: "NODATA", dns.RcodeNameError: "NXDOMAIN"}[m.Rcode]
		}
		if got != c.want || ede(m).ExtraText != c.ede || len(f.up.asked) != c.asked {
			t.Errorf("%s %s %s: asked %d times\n got %s, %q\nwant %s, %q", c.ask, c.qtype, c.more, len(f.up.asked), got, ede(m).ExtraText, c.want, c.ede)
		}
		for _, rr := range m.Answer {
			a, ok := rr.(*dns.A)
			if !ok {
				continue
			}
			if addr := netip.AddrFrom4([4]byte(a.A.To4())); !has(f.Pins, addr, policy.Name(strings.TrimSuffix(c.ask, ".")), f.now) {
				t.Errorf("%s: %s is not pinned", c.ask, addr)
			}
		}
		if has(f.Pins, netip.MustParseAddr("10.0.0.5"), "h3.x", f.now) {
			t.Error("a hint that was taken out is pinned")
		}
	}
}

// Where a resolver is named for a zone, its names may leave.
func TestZonesMayLeave(t *testing.T) {
	f := newFixture(t, zone(map[string][]string{"printer.lan.": {"printer.lan. 60 IN A 11.0.0.1"}, "db.": {"db. 60 IN A 11.0.0.2"}, "1.0.0.11.in-addr.arpa.": {"1.0.0.11.in-addr.arpa. 60 IN PTR printer.lan."}}), "allow any")
	f.Zone = func(n policy.Name) bool { return n == "db" || strings.HasSuffix(string(n), ".in-addr.arpa") }
	for ask, want := range map[string]string{"db. A": "NOERROR | db. 60 A 11.0.0.2", "1.0.0.11.in-addr.arpa. PTR": "NOERROR | 1.0.0.11.in-addr.arpa. 60 PTR printer.lan."} {
		name, qtype, _ := strings.Cut(ask, " ")
		if got := text(f.ask(name, qtype)); got != want {
			t.Errorf("%s: %s", ask, got)
		}
	}
}

// When upstream fails, what is out of date is given out for a while.
func TestStale(t *testing.T) {
	answer := zone(map[string][]string{"a.x.": {"a.x. 60 IN A 11.0.0.1"}})
	failing := false
	f := newFixture(t, func(m *dns.Msg) error {
		if failing {
			return errors.New("down")
		}
		return answer(m)
	}, "allow any")
	f.ask("a.x.", "A")
	failing = true
	f.now = f.now.Add(time.Minute)
	for range 3 {
		m := f.ask("a.x.", "A")
		if got := text(m); got != "NOERROR | a.x. 30 A 11.0.0.1" || ede(m).InfoCode != dns.ExtendedErrorCodeStaleAnswer {
			t.Errorf("%s, EDE %d", got, ede(m).InfoCode)
		}
	}
	if len(f.up.asked) != 2 {
		t.Errorf("asked %d times", len(f.up.asked))
	}
	for range staleLife / (staleTTL * time.Second) {
		f.now = f.now.Add(staleTTL * time.Second)
		f.ask("a.x.", "A")
	}
	if got := text(f.ask("a.x.", "A")); got != "SERVFAIL" {
		t.Errorf("after %s: %s", staleLife, got)
	}
	failing = false
	f.now = f.now.Add(leastTTL)
	if got := text(f.ask("a.x.", "A")); got != "NOERROR | a.x. 60 A 11.0.0.1" {
		t.Error(got)
	}
}

// A hot name is asked for again before it is out of date.
func TestPrefetch(t *testing.T) {
	asked := make(chan struct{}, 10)
	answer := zone(map[string][]string{"a.x.": {"a.x. 100 IN A 11.0.0.1"}})
	f := newFixture(t, func(m *dns.Msg) error { asked <- struct{}{}; return answer(m) }, "allow any")
	for range prefetchHits {
		f.ask("a.x.", "A")
	}
	<-asked
	f.now = f.now.Add(91 * time.Second)
	for range 5 {
		if got := text(f.ask("a.x.", "A")); got != "NOERROR | a.x. 9 A 11.0.0.1" && got != "NOERROR | a.x. 100 A 11.0.0.1" {
			t.Error(got)
		}
	}
	<-asked // by itself
	select {
	case <-asked:
		t.Error("asked for twice")
	default:
	}
}

// Under another policy, nothing out of the cache is given out.
func TestCacheBelongsToPolicy(t *testing.T) {
	fill := zone(map[string][]string{"a.x.": {"a.x. 60 IN A 11.0.0.1", "a.x. 60 IN A 10.0.0.1"}})
	f, other := newFixture(t, fill, "allow any"), newFixture(t, fill, "allow *.x")
	f.ask("a.x.", "A")
	f.Policy = other.Policy
	if got := text(f.ask("a.x.", "A")); got != "NOERROR | a.x. 60 A 11.0.0.1" {
		t.Error(got)
	}
}

func TestOddEDNS(t *testing.T) {
	f := newFixture(t, zone(nil), "allow any")
	q := query("a.x.", "A")
	q.IsEdns0().SetVersion(1)
	if m := f.Answer(context.Background(), q); m.Rcode != dns.RcodeBadVers {
		t.Error(text(m))
	}
	q = query("a.x.", "A")
	q.Extra = append(q.Extra, q.Extra[0])
	if m := f.Answer(context.Background(), q); m.Rcode != dns.RcodeFormatError {
		t.Error(text(m))
	}
	for _, qtype := range []uint16{0, 41, 128, 249, 250, 255} {
		q = query("a.x.", "A")
		q.Question[0].Qtype = qtype
		if m := f.Answer(context.Background(), q); m.Rcode != dns.RcodeNotImplemented {
			t.Errorf("type %d: %s", qtype, text(m))
		}
	}
	if len(f.up.asked) != 0 {
		t.Errorf("asked %d times", len(f.up.asked))
	}
}
