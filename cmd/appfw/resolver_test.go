package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"appfw/testdata/internet"
)

func init() {
	probes["lookup"] = probeLookup
}

// probeLookup is lookup.c with Go's own resolver, which does not tell a name
// without addresses from one that is not there.
func probeLookup(names []string) error {
	for _, name := range names {
		addrs, err := (&net.Resolver{PreferGo: true}).LookupNetIP(context.Background(), "ip", name)
		switch e, _ := errors.AsType[*net.DNSError](err); {
		case err == nil:
		case e != nil && e.IsNotFound:
			fmt.Println(name, "!unknown")
		default:
			fmt.Println(name, "!"+err.Error())
		}
		for _, a := range addrs {
			fmt.Println(name, a.Unmap())
		}
	}
	return nil
}

// stub is a resolver that programs have within them. Its command prints what
// lookup.c does.
type stub struct {
	name    string
	command []string
	// nodata is what it says of a name without addresses: some do not tell it
	// from one that is not there. part: it is content with what of an answer
	// fits into UDP. search: it knows the list of that.
	nodata       string
	part, search bool
}

// stubs are the resolvers of libraries and languages.
func stubs(t *testing.T) []stub {
	t.Helper()
	compile := func(compiler string, args ...string) string {
		path := filepath.Join(filepath.Dir(probeProgram), compiler+"-lookup")
		out, err := exec.CommandContext(t.Context(), compiler, append(args, "-Wall", "-Werror", "-o", path, "testdata/lookup.c")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", compiler, err, out)
		}
		return path
	}
	const python = `
import socket, sys
for name in sys.argv[1:]:
    try:
        for a in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM): print(name, a[4][0])
    except socket.gaierror as e:
        print(name, {socket.EAI_NONAME: "!unknown", socket.EAI_NODATA: "!nodata"}.get(e.errno, "!%s" % e))`
	const node = `
const {resolve4, resolve6} = require("dns").promises, all = process.argv.slice(1);
Promise.all(all.map(n => Promise.allSettled([resolve4(n), resolve6(n)]))).then(r => r.forEach((both, i) => {
	const found = both.flatMap(x => x.value || []), failed = both.map(x => x.reason && x.reason.code);
	for (const a of found) console.log(all[i], a);
	if (!found.length) console.log(all[i], "!" + (failed.every(c => c == "ENOTFOUND") ? "unknown" : failed.every(c => c == "ENODATA") ? "nodata" : failed));
}))`
	const getent = `for n; do getent ahosts "$n" | sed -n "s/ *STREAM.*//; t print; d; :print; s/^/$n /p" | grep . || echo "$n !unknown"; done`
	return []stub{
		{name: "glibc", command: []string{compile("gcc")}, nodata: "nodata", search: true},
		{name: "getent", command: []string{"sh", "-c", getent, "sh"}, nodata: "unknown", search: true},
		{name: "python", command: []string{"python3", "-c", python}, nodata: "nodata", search: true},
		// It has known TCP since 1.2.4, and EAI_NODATA as well.
		{name: "musl", command: []string{compile("musl-gcc", "-static")}, nodata: "unknown nodata", part: true, search: true},
		{name: "go", command: probing("lookup"), nodata: "unknown", search: true},
		{name: "c-ares", command: []string{"node", "-e", node, "--"}, nodata: "nodata"},
	}
}

// found is the output of a stub: the addresses of each name, or its error.
func found(t *testing.T, out string) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) != 2 {
			t.Fatalf("odd line: %q in %q", line, out)
		}
		all[fields[0]] = append(all[fields[0]], fields[1])
	}
	for _, list := range all {
		slices.Sort(list)
	}
	return all
}

// numbered are n addresses below a prefix of three bytes, sorted as text.
func numbered(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("%s.%d", prefix, i+1))
	}
	slices.Sort(list)
	return list
}

// What programs get of the resolver is the same, whichever library they ask by.
func TestStubResolvers(t *testing.T) {
	all := stubs(t)
	both(t, func(w *world) {
		var records []string
		for name, addrs := range map[string][]string{"forty.example.com": numbered("11.22.4", 40), "hundred.example.com": numbered("11.22.5", 100)} {
			for _, a := range addrs {
				records = append(records, name+". A "+a)
			}
		}
		w.Zone().Set(append(records,
			"four.example.com. A 11.22.0.10", "six.example.com. AAAA 2a0d:aaaa::66",
			"chain.example.com. CNAME one.elsewhere.example.", "one.elsewhere.example. CNAME two.elsewhere.example.",
			"two.elsewhere.example. A 11.22.0.10", "two.elsewhere.example. AAAA 2a0d:aaaa::10",
			"ads.example.com. CNAME bad.elsewhere.example.", "bad.elsewhere.example. A 11.22.0.20",
			"mixed.example.com. A 10.1.2.3", "mixed.example.com. A 11.22.0.10", "mixed.example.com. A 127.0.0.1",
			"mixed.example.com. AAAA ::1", "mixed.example.com. AAAA fd00::1", "mixed.example.com. AAAA 64:ff9b::10.1.2.3", "mixed.example.com. AAAA 2a0d:aaaa::10",
			"private.example.com. A 10.1.2.3", "private.example.com. AAAA fe80::1",
			"text.example.com. TXT text",
		)...)
		both := []string{"11.22.0.10", "2a0d:aaaa::10"}
		unknown, nodata := []string{"!unknown"}, []string{"!nodata"}
		want := map[string][]string{
			"example.com": both, "chain.example.com": both, "mixed.example.com": both,
			"four.example.com": {"11.22.0.10"}, "six.example.com": {"2a0d:aaaa::66"},
			"forty.example.com": numbered("11.22.4", 40), "hundred.example.com": numbered("11.22.5", 100),
			"private.example.com": nodata, "text.example.com": nodata, // there is nothing for the app
			"ads.example.com": nodata, "shut.example.com": nodata, "below.test": nodata, // denied, but there is something below
			"missing.www.example.com": unknown,
			"other.example":           unknown, "www.below.test": unknown, // denied
		}
		policy := []string{"--allow", ".example.com", "--deny", "shut.example.com", "--deny", "bad.elsewhere.example", "--allow", "deep.below.test", "--deny", ".missing.www.example.com", "--"}
		for _, s := range all {
			r := w.run(slices.Concat(policy, s.command, slices.Sorted(maps.Keys(want)))...)
			got := found(t, w.ok(r))
			if r.took > failFast {
				t.Errorf("%s: it took %v", s.name, r.took)
			}
			for name, addrs := range want {
				ok := slices.Equal(got[name], addrs)
				switch {
				case ok:
				case addrs[0] == "!nodata":
					ok = strings.Contains(s.nodata, strings.Join(got[name], " ")[1:])
				case s.part && len(addrs) >= 40: // 512 bytes have room for some thirty
					ok = len(got[name]) >= 25 && !slices.ContainsFunc(got[name], func(a string) bool { return !slices.Contains(addrs, a) })
				}
				if !ok {
					t.Errorf("%s: %s has %v, not %v", s.name, name, got[name], addrs)
				}
			}
		}
		for _, name := range []string{"other.example", "shut.example.com", "below.test", "www.below.test", "missing.www.example.com", "bad.elsewhere.example"} {
			if w.Zone().Asked(name) {
				t.Errorf("%s was asked for", name)
			}
		}
	})
}

// Options of the host's resolv.conf are those of the app's, and all work.
func TestResolvConfOptions(t *testing.T) {
	all := stubs(t)
	w := newWorld(t)
	w.user = w.Ordinary()
	for _, options := range []string{
		"use-vc", "edns0 trust-ad", "single-request", "single-request-reopen", "rotate attempts:1 timeout:1", "no-tld-query no-check-names", "ndots:15", "inet6",
	} {
		w.SetFile("/etc/resolv.conf", fmt.Sprintf("nameserver %s\noptions %s\n", w.Resolver4(), options))
		for _, s := range all {
			r := w.run(slices.Concat([]string{"--allow", "example.com", "--"}, s.command, []string{"example.com", "other.example"})...)
			got := found(t, w.ok(r))
			if !slices.Equal(got["other.example"], []string{"!unknown"}) || !slices.Contains(got["example.com"], "11.22.0.10") || r.took > failFast {
				t.Errorf("%s, options %s: %v after %v", s.name, options, got, r.took)
			}
		}
	}
}

// A candidate of the search list that is denied leads on to the next.
func TestSearchList(t *testing.T) {
	all := stubs(t)
	both(t, func(w *world) {
		w.SetFile("/etc/resolv.conf", fmt.Sprintf("nameserver %s\nsearch corp.example lab.example\noptions ndots:2\n", w.Resolver4()))
		w.Zone().Set("db.lab.example. A 11.22.0.20", "a.b.lab.example. A 11.22.0.30", "db.corp.example. A 11.22.0.40")
		both := []string{"11.22.0.10", "2a0d:aaaa::10"}
		want := map[string][]string{
			"example.com":         both, // after example.com.corp.example and example.com.lab.example
			"example.com.":        both,
			"www.example.com":     both, // it has two dots, and is the first candidate
			"db":                  {"11.22.0.20"},
			"a.b":                 {"11.22.0.30"},
			"missing.example.com": {"!unknown"}, // allowed, and not there
			"other.example":       {"!unknown"}, // denied in all forms
			"host":                {"127.0.1.1"},
		}
		policy := []string{"--allow", "example.com", "--allow", "www.example.com", "--allow", "missing.example.com", "--allow", "db.lab.example", "--allow", "*.b.lab.example", "--allow", "a.b.lab.example", "--allow", "host", "--allow", "127.0.1.1", "--"}
		for _, s := range all {
			if !s.search {
				continue
			}
			r := w.run(slices.Concat(policy, s.command, slices.Sorted(maps.Keys(want)))...)
			got := found(t, w.ok(r))
			for name, addrs := range want {
				if !slices.Equal(got[name], addrs) {
					t.Errorf("%s: %s has %v, not %v", s.name, name, got[name], addrs)
				}
			}
			if r.took > failFast {
				t.Errorf("%s: it took %v", s.name, r.took)
			}
		}
		wants(t, w.run("--allow", "db.lab.example", "--", "busybox", "nslookup", "db").stdout, "11.22.0.20")
		allowed := []string{"example.com. ", "www.example.com. ", "missing.example.com. ", "db.lab.example. ", "a.b.lab.example. "}
		for _, q := range w.Zone().Queries() {
			if !slices.ContainsFunc(allowed, func(name string) bool { return strings.HasPrefix(q, name) }) {
				t.Errorf("asked upstream: %s", q)
			}
		}
	})
}

// The first question of a run is answered as all others are, however soon it
// comes and whatever else the machine does.
func TestFirstQuestion(t *testing.T) {
	w := newWorld(t)
	w.user = w.Ordinary()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 25 {
				c := w.Command(t.Context(), w.user, program, "run", "--allow", "example.com", "--", "dig", "+tries=1", "+time=3", "+short", "example.com")
				if out, err := c.CombinedOutput(); err != nil || string(out) != "11.22.0.10\n" {
					t.Errorf("%v: %s", err, out)
				}
			}
		})
	}
	running.Wait()
}

// A denied name fails at once, and programs say what they say of a name that is
// not there; of one whose addresses are denied, that it has none.
func TestDeniedLookups(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("private.example. A 10.1.2.3")
		for _, c := range []struct {
			name    string
			code    int
			says    string
			command []string
		}{
			{"other.example", 2, "", []string{"getent", "ahosts", "other.example"}},
			{"other.example", 2, "", []string{"getent", "ahostsv6", "other.example"}},
			{"other.example", 6, "Could not resolve host", []string{"curl", "-sS", "https://other.example"}},
			{"other.example", 4, "Name or service not known", []string{"wget", "http://other.example"}},
			{"private.example", 4, "No address associated with hostname", []string{"wget", "http://private.example"}},
			{"other.example", 1, "bad address", []string{"busybox", "wget", "http://other.example"}},
			{"private.example", 1, "bad address", []string{"busybox", "wget", "http://private.example"}},
			{"other.example", 1, "ENOTFOUND", []string{"node", "-e", `fetch("http://other.example").catch(e => { console.error(e.cause); process.exit(1) })`}},
			{"other.example", 1, "no such host", probing("get", "http://other.example")},
			{"other.example", 2, "Name or service not known", []string{"ping", "-c1", "other.example"}},
		} {
			r := w.run(append([]string{"--allow", "private.example", "--"}, c.command...)...)
			w.denied(r, "denied dns "+c.name)
			if r.code != c.code || !strings.Contains(r.stderr+r.stdout, c.says) {
				t.Errorf("%v: exit code %d, stdout: %s, stderr: %s", c.command, r.code, r.stdout, r.stderr)
			}
		}
	})
}

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

		// One that is dead is not waited for again.
		run := w.run("--dns", "11.22.0.62", "--dns", "tls://one.resolver", "--allow", "*.who.example", "--", "sh", "-c", "for i in 1 2 3 4 5 6; do dig +short again-$i.who.example; done")
		if out := w.ok(run); strings.Count(out, r.answer("tls")) != 6 || run.took > failFast+2*time.Second {
			t.Errorf("after %v: %q", run.took, out)
		}

		// An authority that is not trusted proves nothing.
		c := w.Command(t.Context(), w.user, program, "run", "--log", "-", "--dns", "tls://one.resolver", "--allow", "*.who.example", "--", "dig", "+tries=1", "+time=9", "untrusted.who.example")
		c.Env = append(c.Env, "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/nonexistent")
		run = w.finish(c)
		wants(t, run.stdout, "SERVFAIL")
		wants(t, run.stderr, "the resolvers failed: tls://one.resolver: ", "certificate")
		if asked := r.asked("untrusted.who.example"); asked != nil {
			t.Errorf("asked %v", asked)
		}
	})
}

// Lines of a policy file about names do what the flags do.
func TestNameLines(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("*.budget.example. A 11.22.0.10", "*.plenty.example. A 11.22.0.10", "some.co.uk. A 11.22.0.10")
		w.write("etc/names", "11.22.0.10 nas files.example # ours\n2a0d:aaaa::10 nas\n11.22.0.20 www.example.com\n")
		policy := w.write("etc/a.policy", `
			hosts names
			allow nas
			allow *.example.com   # of which the file has one
			allow *.budget.example
			allow exact.budget.example
			allow *.plenty.example
			allow-suffix *.co.uk
			dns-budget 3`)
		r := w.run("--policy", policy, "--", "sh", "-c", `
			getent ahosts nas | grep -o "^.*STREAM" | tr -s " "; dig +short www.example.com; dig +short files.example; dig +short some.co.uk
			for i in 1 2 3 4 3 2 1; do echo "$i $(dig +short $i.budget.example)"; done; dig +short exact.budget.example; dig +short 1.plenty.example; dig 9.budget.example | grep -o NXDOMAIN`)
		want := []string{"11.22.0.10 STREAM", "2a0d:aaaa::10 STREAM", "\n11.22.0.20\n11.22.0.10\n1 11.22.0.10\n2 11.22.0.10\n3 11.22.0.10\n4 \n3 11.22.0.10\n2 11.22.0.10\n1 11.22.0.10\n11.22.0.10\n11.22.0.10\nNXDOMAIN\n"}
		wants(t, w.ok(r), want...)
		wants(t, r.stderr, "denied dns *.budget.example: so many new names", "denied dns files.example: no rule allows it")
		for _, name := range []string{"4.budget.example", "9.budget.example", "nas", "www.example.com", "files.example"} {
			if w.Zone().Asked(name) {
				t.Errorf("%s was asked for", name)
			}
		}
		// The same as flags; 0 is no limit, and it is 1000 without.
		count := []string{"--allow", "*.budget.example", "--", "sh", "-c", "dig +short $(seq -f '%.0f.budget.example' 1 1005) | wc -l"}
		for _, c := range []struct {
			flags []string
			want  string
		}{{nil, "1000\n"}, {[]string{"--dns-budget", "0"}, "1005\n"}, {[]string{"--dns-budget", "7"}, "7\n"}} {
			if out := w.ok(w.run(append(c.flags, count...)...)); out != c.want {
				t.Errorf("%v: %q", c.flags, out)
			}
		}
		out := w.ok(w.run("--hosts", w.Dir()+"/etc/names", "--allow-suffix", "*.com", "--allow", "nas", "--", "dig", "+short", "nas", "www.example.com"))
		if out != "11.22.0.10\n11.22.0.20\n" {
			t.Errorf("flags: %q", out)
		}
	})
}

// The host's resolv.conf may change while the app runs, as it does on a laptop.
func TestResolvConfChanges(t *testing.T) {
	both(t, func(w *world) {
		old, other := w.Zone(), w.NewZone()
		w.Host("11.22.0.61", "2a0d:aaaa::61").ServeDNS(other)
		old.Set("*.move.example. A 11.33.0.1")
		other.Set("*.move.example. A 11.33.0.2")
		s := w.session("--allow", "*.move.example", "--", "sh")
		ask := func(n int) string { return s.ok(fmt.Sprintf("dig +short n%d.move.example", n)) }
		n := 0
		if out := ask(n); out != "11.33.0.1\n" {
			t.Fatalf("before: %q", out)
		}
		for _, c := range []struct{ conf, want string }{
			{"nameserver 11.22.0.61\n", "11.33.0.2\n"},
			{fmt.Sprintf("nameserver %s\n", w.Resolver4()), "11.33.0.1\n"}, // of the same size as the first, later
			{"# none is up yet\nnameserver 2a0d:aaaa::61\noptions edns0\n", "11.33.0.2\n"},
		} {
			w.SetFile("/etc/resolv.conf", c.conf)
			changed := time.Now()
			for n++; ask(n) != c.want; n++ {
				if time.Since(changed) > 5*time.Second {
					t.Fatalf("after 5 s, %q is not heeded", c.conf)
				}
			}
			for range 3 {
				if n++; ask(n) != c.want {
					t.Errorf("%q was heeded once", c.conf)
				}
				if q := fmt.Sprintf("n%d.move.example", n); old.Asked(q) == other.Asked(q) {
					t.Errorf("%s: old resolver asked: %t, new one: %t", q, old.Asked(q), other.Asked(q))
				}
			}
		}
	})
}

// What means nothing beyond this host or its link is asked of nobody, unless a
// resolver was named for it.
func TestLocalNames(t *testing.T) {
	both(t, func(w *world) {
		w.SetFile("/etc/hosts", "127.0.0.1 localhost\n11.22.0.10 nas scanner.local\n")
		lan := w.NewZone()
		w.Host("11.22.0.61").ServeDNS(lan)
		names := []string{"printer", "printer.local", "a.b.local", "expyuzz4wqqyqhjn.onion", "never.invalid", "some.alt", "printer.lan"}
		for _, z := range []*internet.Zone{w.Zone(), lan} {
			for _, name := range names {
				z.Set(name + ". A 11.33.0.1")
			}
		}
		ask := func(name string, flags ...string) string {
			t.Helper()
			r := w.run(append(flags, "--", "dig", "+tries=1", "+time=5", name)...)
			hint := " (to have it asked: --dns " + name + "=RESOLVER)"
			switch name[strings.LastIndexByte(name, '.')+1:] {
			case "onion":
				hint = " (Tor knows it: --allow " + name + " via=tor)"
			case "invalid", "alt":
				hint = ""
			}
			said := "appfw: cannot resolve " + name + ": names of the local network are asked of nobody" + hint + "\n"
			if meant := flags[1] == name && strings.Contains(r.stdout, "asked of nobody"); r.stderr == said != meant {
				t.Errorf("%v: stderr: %q", flags, r.stderr)
			}
			return w.ok(r)
		}
		for _, name := range names[:len(names)-1] {
			for _, flags := range [][]string{{"--allow", name}, {"--allow", "any"}, {"--default", "allow"}, {"--deny", "x.example", "--dns", "11.22.0.61"}} {
				out := ask(name, flags...)
				if strings.Contains(out, "11.33.0.1") || flags[1] == name && !strings.Contains(out, "NXDOMAIN") {
					t.Errorf("%v: %s", flags, out)
				}
				wants(t, out, "asked of nobody", "SOA")
			}
			if w.Zone().Asked(name) || lan.Asked(name) {
				t.Errorf("%s left", name)
			}
		}
		for name, want := range map[string]string{"localhost": "127.0.0.1", "x.localhost": "127.0.0.1", "nas": "11.22.0.10", "scanner.local": "11.22.0.10"} {
			wants(t, ask(name, "--allow", "nas", "--allow", "scanner.local"), "\tA\t"+want)
			if w.Zone().Asked(name) {
				t.Errorf("%s left", name)
			}
		}
		wants(t, ask("nas", "--allow", "example.com"), "NXDOMAIN")

		for name, zone := range map[string]string{"printer.lan": "lan", "printer.local": "local", "printer": "printer", "expyuzz4wqqyqhjn.onion": "onion"} {
			wants(t, ask(name, "--allow", name, "--dns", zone+"=11.22.0.61"), "\tA\t11.33.0.1")
			if !lan.Asked(name) || w.Zone().Asked(name) {
				t.Errorf("%s: asked there: %t, of the host's: %t", name, lan.Asked(name), w.Zone().Asked(name))
			}
		}
		wants(t, ask("printer.lan", "--dns", "lan=11.22.0.61"), "NXDOMAIN", "no rules")
	})
}

// Programs do not find out that there are other resolvers, and learn of an
// address only what they knew.
func TestResolverKeepsApps(t *testing.T) {
	both(t, func(w *world) {
		w.Zone().Set("use-application-dns.net. A 11.22.0.10", "_dns.resolver.arpa. SVCB 1 one.resolver. alpn=dot", "99.0.22.11.in-addr.arpa. PTR secret.example.", "10.0.22.11.in-addr.arpa. PTR secret.example.")
		for _, policy := range [][]string{{"--allow", "use-application-dns.net", "--allow-suffix", "*.arpa"}, {"--default", "allow"}} {
			out := w.ok(w.run(append(policy, "--", "sh", "-c", `
				for t in A AAAA HTTPS; do dig use-application-dns.net $t; done | grep -c NXDOMAIN
				for t in SVCB A; do dig _dns.resolver.arpa $t; done | grep -c 'NOERROR\|ANSWER: 0'
				dig -x 11.22.0.99 | grep -c NXDOMAIN; dig -x 11.22.0.10 | grep -c NXDOMAIN; dig -x 2a0d:aaaa::10 | grep -c NXDOMAIN; dig 22.11.in-addr.arpa NS | grep -c NXDOMAIN`)...))
			if out != "3\n4\n1\n1\n1\n1\n" {
				t.Errorf("%v: %q", policy, out)
			}
		}
		out := w.ok(w.run("--allow", "example.com", "--allow", "shared.example", "--", "sh", "-c", `
			getent ahosts example.com > addresses; dig +short shared.example > addresses
			dig +short -x 11.22.0.10 | sort; getent hosts 2a0d:aaaa::10 | tr -s ' '; dig -x 11.22.0.20 | grep -o NXDOMAIN; dig 10.0.22.11.in-addr.arpa TXT | grep -o NOERROR`))
		if want := "example.com.\nshared.example.\n2a0d:aaaa::10 example.com\nNXDOMAIN\nNOERROR\n"; out != want {
			t.Errorf("%q, not %q", out, want)
		}
		for _, q := range w.Zone().Queries() {
			if strings.Contains(q, "arpa") || strings.Contains(q, "use-application") {
				t.Errorf("asked upstream: %s", q)
			}
		}
		// A resolver for the zone may be named, as for any other.
		zone := w.NewZone()
		zone.Set("99.0.22.11.in-addr.arpa. PTR ours.example.")
		w.Host("11.22.0.61").ServeDNS(zone)
		wants(t, w.ok(w.run("--dns", "22.11.in-addr.arpa=11.22.0.61", "--allow", "*.22.11.in-addr.arpa", "--", "dig", "+short", "-x", "11.22.0.99")), "ours.example.")
	})
}
