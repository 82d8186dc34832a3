package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
