package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"appfw/policy"
)

func TestReadUnit(t *testing.T) {
	for _, c := range []struct {
		files       []string
		allow, deny string
		env         string // NAME=VALUE, sorted
	}{
		{files: []string{"[Service]\nIPAddressAllow=1.1.1.1 10.1.2.3/8\n IPAddressDeny = any \n"}, allow: "1.1.1.1/32 10.0.0.0/8", deny: "0.0.0.0/0 ::/0"},
		{files: []string{"[Service]\nIPAddressAllow=localhost link-local multicast\n"}, allow: "127.0.0.0/8 ::1/128 169.254.0.0/16 fe80::/64 224.0.0.0/4 ff00::/8"},
		{files: []string{"[Service]\nIPAddressAllow=LocalHost.localdomain. x.localhost\n"}, allow: "127.0.0.0/8 ::1/128 127.0.0.0/8 ::1/128"},
		{files: []string{"[Service]\nIPAddressAllow=2001:db8::1/32 ::ffff:1.2.3.4\n"}, allow: "2001:db8::/32 ::ffff:1.2.3.4/128"},
		// Lines add up, also of drop-ins; nothing resets.
		{files: []string{"[Service]\nIPAddressAllow=1.1.1.1\nIPAddressAllow=2.2.2.2\n", "[Service]\nIPAddressAllow=3.3.3.3"}, allow: "1.1.1.1/32 2.2.2.2/32 3.3.3.3/32"},
		{files: []string{"[Service]\nIPAddressAllow=1.1.1.1\nIPAddressDeny=any\n", "[Service]\nIPAddressAllow=\nIPAddressAllow=3.3.3.3"}, allow: "3.3.3.3/32", deny: "0.0.0.0/0 ::/0"},
		// Comments, continuations, ends of lines, a byte order mark.
		{files: []string{"\ufeff# [Unit]\r\n[Service]\r\n;IPAddressAllow=9.9.9.9\r\n  # x \\\nIPAddressAllow=1.1.1.1 \\\r\n# between \\\r\n  2.2.2.2\\\r\n3.3.3.3\r\n"}, allow: "1.1.1.1/32 2.2.2.2/32 3.3.3.3/32"},
		{files: []string{"[Service]\nIPAddressAllow=\\\n1.1.1.1 \\"}, allow: "1.1.1.1/32"},
		{files: []string{"[Service]\rIPAddressAllow=1.1.1.1\r\r\n"}, allow: "1.1.1.1/32"},
		// Other sections and keys.
		{files: []string{"[Unit]\nIPAddressAllow=1.1.1.1\nwhatever\n[Socket]\nIPAddressAllow=2.2.2.2\nipaddressdeny=any\n[X-Mine]\nIPAddressAllow=x"}, allow: "2.2.2.2/32"},
		{files: []string{"[Service]\nEnvironment=A=1 \"B=2 3\" 'C=\"' D=a\\x41\\n\\s\\u00e9\\101\nEnvironment=A=4\\\\"}, env: `A=4\|B=2 3|C="|D=aA` + "\n éA"},
		{files: []string{"[Service]\nEnvironment=A=1\nEnvironment=\nEnvironment=x=\"1 \"2' 3'"}, env: "x=1 2 3"},
	} {
		var files []unitFile
		for i, f := range c.files {
			files = append(files, unitFile{fmt.Sprintf("%d.conf", i), []byte(f)})
		}
		u, err := readUnit(files)
		if err != nil {
			t.Errorf("%q: %v", c.files, err)
			continue
		}
		text := func(list []unitPrefix) string {
			var out []string
			for _, p := range list {
				out = append(out, p.Prefix.String())
			}
			return strings.Join(out, " ")
		}
		var env []string
		for name, v := range u.env {
			env = append(env, name+"="+v.text)
		}
		slices.Sort(env)
		if a, d, e := text(u.allow), text(u.deny), strings.Join(env, "|"); a != c.allow || d != c.deny || e != c.env {
			t.Errorf("%q:\n got %q, %q, %q\nwant %q, %q, %q", c.files, a, d, e, c.allow, c.deny, c.env)
		}
	}
}

func TestReadUnitErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "f: no section in it: it is no unit, or a masked one",
		"# nothing":                             "f: no section in it: it is no unit, or a masked one",
		"IPAddressAllow=any\n[Service]":         `f:1:1: "IPAddressAllow": this stands before any [Section]`,
		"[Service\nIPAddressAllow=any":          `f:1:1: "[Service": a section is written [NAME]`,
		"[Service]\n  IPAddressAllow any":       `f:2:3: "IPAddressAllow any": not KEY=VALUE`,
		"[Service]\n=any":                       `f:2:1: "=any": not KEY=VALUE`,
		"[Service]\nIPAddressAllow=1.1.1.1 all": `f:2:24: "all": neither an address, a prefix, any, localhost, link-local nor multicast`,
		"[Service]\nIPAddressDeny=1.1.1.1 \\\n#\n 1.2":              `f:4:2: "1.2": neither an address, a prefix, any, localhost, link-local nor multicast`,
		"[Service]\nIPAddressDeny=fe80::1%eth0":                     `f:2:15: "fe80::1%eth0": neither an address, a prefix, any, localhost, link-local nor multicast`,
		"[Service]\nIPAddressDeny=1.1.1.1/33":                       `f:2:15: "1.1.1.1/33": the prefix length is not a number from 0 to 32`,
		"[Service]\nIPAddressDeny=1.1.1.1/010":                      `f:2:15: "1.1.1.1/010": the prefix length is not a number from 0 to 32`,
		"[Service]\nIPAddressDeny=any\n[Socket]\nIPAddressDeny=any": `f:4:1: "IPAddressDeny": this is in [Socket], and others are in [Service]: give the files of one unit`,
		"[Service]\nEnvironment=A=1 \"B=2":                          `f:2:17: "\"B=2": the quote is not closed`,
		"[Service]\nEnvironment=A=1 B":                              `f:2:17: "B": not VARIABLE=VALUE`,
		"[Service]\nEnvironment=A=\\q":                              `f:2:15: "\\q": unknown escape sequence`,
		"[Service]\nDescription=\xff":                               `f:2:13: not a text in UTF-8`,
		"[Service]\nIPAddressAllow=1.1.1.1\x00 ":                    `f:2:23: not a text in UTF-8`,
	} {
		_, err := readUnit([]unitFile{{"f", []byte(text)}})
		if got := fmt.Sprint(err); got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestUpstreamURL(t *testing.T) {
	for in, want := range map[string]string{
		"socks://127.0.0.1:9050":    "socks5h://127.0.0.1:9050",
		"SOCKS://127.0.0.1:9050/":   "socks5h://127.0.0.1:9050",
		"socks5h://u:p%%40@h:1":     "socks5h://u:p%40@h:1",
		"socks5://h:1":              "socks5://h:1",
		"http://h:3128/":            "http://h:3128",
		"h:3128":                    "http://h:3128",
		"https://[2001:db8::1]:443": "https://[2001:db8::1]:443",
		"socks4://h:1":              `"socks4" is no scheme of an upstream; there are socks5h, socks5, http and https`,
		"socks://%i:1":              "it has a specifier (%), which only systemd knows",
		"http://h:1\nallow any":     "there are spaces or control characters in it",
		"http://h:1 # x":            "there are spaces or control characters in it",
		"socks://":                  "an upstream is a host and a port",
	} {
		got, err := upstreamURL(in)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestSplitCat(t *testing.T) {
	out := "# Warning: x.service changed on disk\n# /lib/systemd/system/x.service\n[Service]\n# /etc/comment.d/a.conf\n\n# /etc/x.txt\nIPAddressDeny=any\n\n# /etc/systemd/system/x.service.d/a.conf\n[Service]\nIPAddressAllow=1.2.3.4\n"
	u, err := readUnit(splitCat("x.service", out))
	if err != nil {
		t.Fatal(err)
	}
	got := u.deny[0].from.String() + " " + u.allow[0].from.String()
	if want := "IPAddressDeny=any (/lib/systemd/system/x.service:5) IPAddressAllow=1.2.3.4 (/etc/systemd/system/x.service.d/a.conf:2)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := readUnit(splitCat("x", "# /etc/systemd/system/x.service\n")); err == nil {
		t.Error("no error of a masked unit")
	}
}

// systemdAllows is systemd's rule (systemd.resource-control(5)) in the plainest way.
func systemdAllows(u *unit, a netip.Addr) bool {
	in := func(list []unitPrefix) bool {
		return slices.ContainsFunc(list, func(p unitPrefix) bool { return p.Contains(a) })
	}
	return in(u.allow) || !in(u.deny)
}

// randomUnit makes up directives of which many overlap.
func randomUnit(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("[Service]\n")
	for range r.IntN(7) {
		b.WriteString([]string{"IPAddressAllow=", "IPAddressDeny="}[r.IntN(2)])
		for n := range r.IntN(4) {
			if n > 0 {
				b.WriteString([]string{" ", "  \\\n\t"}[r.IntN(2)])
			}
			if r.IntN(4) == 0 {
				b.WriteString([]string{"any", "localhost", "link-local", "multicast", "0.0.0.0/0", "::/0", "0.0.0.0/1", "::1", "127.0.0.53"}[r.IntN(9)])
				continue
			}
			a := randomAddr(r)
			fmt.Fprintf(&b, "%s/%d", a, r.IntN(a.BitLen()+1))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// randomAddr makes up an address, of few that share prefixes of many lengths.
func randomAddr(r *rand.Rand) netip.Addr {
	base := []string{"10.0.0.0", "127.0.0.1", "169.254.1.1", "8.8.8.8", "224.0.0.1", "0.0.0.1", "255.255.255.255", "2606:4700::1", "::1", "fe80::1", "fd00::1", "ff02::1",
		"64:ff9b::808:808", "2002:808:808::1", "2606:4700::5efe:808:808", "::ffff:8.8.8.8", "2001::1"}
	at := netip.MustParseAddr(base[r.IntN(len(base))]).AsSlice()
	for range r.IntN(3) {
		bit := r.IntN(8 * len(at))
		at[bit/8] ^= 1 << (bit % 8)
	}
	a, _ := netip.AddrFromSlice(at)
	return a
}

// carried tells of addresses at which appfw is to be as systemd is: no other host
// is meant by them than they say, and appfw carries what is sent there.
func carried(a netip.Addr) bool {
	switch policy.Special(a) {
	case "multicast", "broadcast", "this host":
		return false
	}
	return policy.Embedded(a) == a
}

func unitOf(t *testing.T, text string) *unit {
	t.Helper()
	u, err := readUnit([]unitFile{{"u", []byte(text)}})
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return u
}

func mustCompile(t *testing.T, text string) *policy.Policy {
	t.Helper()
	lines, err := policy.ReadLines("p", strings.NewReader(text))
	if err == nil {
		var p *policy.Policy
		if p, err = policy.Compile(policy.Config{Lines: lines}); err == nil {
			return p
		}
	}
	t.Fatalf("%s\n%v", text, err)
	return nil
}

// What import makes of a unit means the same, in both directions; and so does the
// drop-in that export makes of that.
func TestSystemdModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		text := randomUnit(r)
		u := unitOf(t, text)
		imported, _, err := u.policyText()
		if err != nil {
			t.Fatalf("seed %d: %s\n%s\n%v", seed, text, imported, err)
		}
		p := mustCompile(t, imported)
		exported, _, err := dropIn(p, false)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		// As a drop-in it has to hold whatever the unit says.
		back, err := readUnit([]unitFile{{"u", []byte(text)}, {"d", []byte(exported)}})
		if err != nil {
			t.Fatalf("seed %d: %s\n%v", seed, exported, err)
		}
		for range 100 {
			a := randomAddr(r)
			if a.Is4In6() {
				continue // on no wire
			}
			want := systemdAllows(u, a)
			isatap := strings.Contains(a.String(), "5efe") // denied where the inner one is, too
			for _, proto := range []policy.Proto{policy.TCP, policy.UDP, policy.ICMP} {
				flow := policy.Flow{Proto: proto, Addr: a, Port: 443}
				if proto == policy.ICMP {
					flow.Port = 0
				}
				if v := p.Decide(flow); v.Allowed() && !want || v.Allowed() != want && carried(a) && !isatap {
					t.Fatalf("seed %d: %s\n%s\n%s: %v, want %v", seed, text, imported, a, v, want)
				}
			}
			if v := p.DecideFrom(policy.TCP, a, 80); v.Allowed() != want {
				t.Fatalf("seed %d: %s\n%s\nfrom %s: %v, want %v", seed, text, imported, a, v, want)
			}
			if got := systemdAllows(back, a); got && !want || got != want && carried(a) && !isatap {
				t.Fatalf("seed %d: %s\n%s\n%s\n%s: %v, want %v", seed, text, imported, exported, a, got, want)
			}
		}
	}
}

func FuzzReadUnit(f *testing.F) {
	for _, s := range []string{
		"[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.0/24\n", "[Service]\r\nIPAddressAllow=1.1.1.1 \\\r\n# x\r\n2.2.2.2/8",
		"[Service]\nEnvironment=ALL_PROXY=socks://127.0.0.1:9050 \"http_proxy=http://h:1\"\nUnsetEnvironment=http_proxy\nPrivateNetwork=yes",
		"[Socket]\nIPAddressAllow=::ffff:1.2.3.4 ::/0\nIPAddressAllow=", "\ufeff;\n[Slice]\nIPAddressDeny=\\", "[Service]\nEnvironment='A=\\x41\\U0001f600\\101\"'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := readUnit([]unitFile{{"f", []byte(s)}})
		if e := (*policy.SyntaxError)(nil); errors.As(err, &e) {
			if e.Pos.Line < 1 || e.Pos.Column < 1 || e.Pos.Line > 1+strings.Count(s, "\n")+strings.Count(s, "\r") || e.Msg == "" || strings.ContainsAny(printable(e.Error()), "\n\r\x00\x1b") {
				t.Fatalf("%q: %+v", s, e)
			}
		}
		if err != nil {
			return
		}
		text, _, err := u.policyText()
		if err != nil {
			t.Fatalf("%q: %s: %v", s, text, err)
		}
		p := mustCompile(t, text)
		for _, q := range slices.Concat(u.allow, u.deny) {
			if a := q.Addr(); carried(a) && p.Decide(policy.Flow{Addr: a, Port: 1}).Allowed() != systemdAllows(u, a) {
				t.Fatalf("%q: %s: %s", s, text, a)
			}
		}
	})
}
