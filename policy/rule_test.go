package policy

import (
	"fmt"
	"strings"
	"testing"
)

// describe writes a destination in full: hosts, then TCP ports, UDP ports, ICMP.
func describe(d destination) string {
	var b strings.Builder
	switch h := d.host; h.kind {
	case anyHost:
		b.WriteString("any")
	case addresses:
		for i, p := range h.prefixes {
			b.WriteString([]string{"", ","}[min(i, 1)] + p.String())
		}
	default:
		b.WriteString([]string{exactName: "", belowName: "*.", treeName: "."}[h.kind] + string(h.name))
	}
	for proto, list := range d.scope.ports {
		for i, p := range list {
			fmt.Fprintf(&b, "%s%d-%d", []string{" " + Proto(proto).String() + " ", ","}[min(i, 1)], p.lo, p.hi)
		}
	}
	if d.scope.icmp {
		b.WriteString(" icmp")
	}
	return b.String()
}

func TestDestination(t *testing.T) {
	const all = " tcp 0-65535 udp 0-65535 icmp"
	for _, tt := range []struct{ in, want string }{
		{"any", "any" + all},
		{"any/udp", "any udp 0-65535"},
		{"any:443", "any tcp 443-443 udp 443-443"},
		{"example.com", "example.com" + all},
		{"Example.COM.:443/tcp", "example.com tcp 443-443"},
		{"*.example.com:80,443", "*.example.com tcp 80-80,443-443 udp 80-80,443-443"},
		{".example.com/icmp", ".example.com icmp"},
		{"db:5432/tcp", "db tcp 5432-5432"},
		{"any.", "any" + all}, // the host of that name: see below
		{"x:8000-8999/udp", "x udp 8000-8999"},
		{"x:443,80,81-90,85-95,96/tcp", "x tcp 80-96,443-443"},
		{"x:1-65535/tcp", "x tcp 1-65535"},
		{"10.0.0.1", "10.0.0.1/32" + all},
		{"10.0.0.0/24", "10.0.0.0/24" + all},
		{"10.0.0.0/24:443/tcp", "10.0.0.0/24 tcp 443-443"},
		{"10.0.0.0/24/tcp", "10.0.0.0/24 tcp 0-65535"},
		{"0.0.0.0/0", "0.0.0.0/0" + all},
		{"2001:db8::1", "2001:db8::1/128" + all},
		{"2001:db8::1/tcp", "2001:db8::1/128 tcp 0-65535"},
		{"2001:db8::/32", "2001:db8::/32" + all},
		{"[2001:db8::1]", "2001:db8::1/128" + all},
		{"[2001:db8::1]:443/udp", "2001:db8::1/128 udp 443-443"},
		{"[2001:db8::]/32:443", "2001:db8::/32 tcp 443-443 udp 443-443"},
		{"[2001:db8::/32]:443", "2001:db8::/32 tcp 443-443 udp 443-443"},
		{"::ffff:10.0.0.1", "10.0.0.1/32" + all},
		{"::ffff:10.0.0.0/104", "10.0.0.0/8" + all},
		{"localhost:5432", "127.0.0.0/8,::1/128 tcp 5432-5432 udp 5432-5432"},
		{"link-local", "169.254.0.0/16,fe80::/64" + all},
		{"multicast", "224.0.0.0/4,ff00::/8" + all},
		{"private", "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7" + all},
	} {
		d, err := parseDestination(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := describe(d); got != tt.want {
			t.Errorf("%s = %s, want %s", tt.in, got, tt.want)
		}
		if want := strings.Contains(describe(destination{scope: d.scope}), " 0-") || d.scope.icmp; d.ports == want {
			t.Errorf("%s: names ports: %v", tt.in, d.ports)
		}
	}
	if d, _ := parseDestination("any."); d.host.kind != exactName {
		t.Error("any. is not the host of that name")
	}
}

func TestDestinationErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", `p:7:8: empty destination; every destination is written any`},
		{"*", `p:7:8: "*": every host is written any`},
		{":443", `p:7:8: empty host; every host is written any`},
		{"/tcp", `p:7:8: empty host; every host is written any`},
		{"https://example.com/x", `p:7:8: "https://": a destination has no scheme (did you mean example.com?)`},
		{"http://\x1b[2J", `p:7:8: "http://": a destination has no scheme`},

		{"a.example:", `p:7:8: "a.example:": no port after the colon`},
		{"10.0.0.1-10.0.0.9", `p:7:8: "10.0.0.1-10.0.0.9": ranges of addresses are written as prefixes, such as 10.0.0.0/24`},
		{"a.example,b.example", `p:7:8: "a.example,b.example": only one host stands in a destination; write one for each`},
		{"a.example:http", `p:7:18: "http": port is not a number from 1 to 65535 (did you mean 80?)`},
		{"a.example:0", `p:7:18: "0": port is not a number from 1 to 65535`},
		{"a.example:65536", `p:7:18: "65536": port is not a number from 1 to 65535`},
		{"a.example:080", `p:7:18: "080": port is not a number from 1 to 65535`},
		{"a.example:+80", `p:7:18: "+80": port is not a number from 1 to 65535`},
		{"a.example:80,", `p:7:21: port is not a number from 1 to 65535`},
		{"a.example:90-80", `p:7:18: "90-80": port range goes backwards (did you mean 80-90?)`},
		{"a.example:80/icmp", `p:7:18: "80": ICMP has no ports`},
		{"a.example/tpc", `p:7:18: "tpc": unknown protocol (did you mean tcp?)`},
		{"a.example/UDP", `p:7:18: "UDP": unknown protocol (did you mean udp?)`},
		{"a.example/sctp", `p:7:18: "sctp": unknown protocol`},
		{"a.example/gre", `p:7:18: "gre": unknown protocol`},
		{"a.example/tcp:80", `p:7:8: "a.example/tcp:80": ports come before the protocol (did you mean a.example:80/tcp?)`},
		{"a.example/24", `p:7:8: "a.example/24": not an address or prefix`},

		{"[2001:db8::1:443", `p:7:8: "[2001:db8::1:443": bracket is not closed`},
		{"[2001:db8::1]443", `p:7:21: "443": unexpected text after the bracket`},
		{"[10.0.0.1]:80", `p:7:8: "[10.0.0.1]": brackets are for IPv6 addresses`},
		{"[fe80::1%eth0]:80", `p:7:9: "fe80::1%eth0": an address in a rule has no zone`},
		{"a.example:80:81", `p:7:8: "a.example:80:81": not an address or prefix`},
		{"10.0.0.1/24", `p:7:8: "10.0.0.1/24": prefix has host bits set (did you mean 10.0.0.0/24 or 10.0.0.1?)`},
		{"2001:db8::1/64", `p:7:8: "2001:db8::1/64": prefix has host bits set (did you mean 2001:db8::/64 or 2001:db8::1?)`},
		{"10.0.0.0/33", `p:7:17: "33": prefix length is not a number from 0 to 32`},
		{"10.0.0.0/08", `p:7:17: "08": prefix length is not a number from 0 to 32`},
		{"::/129", `p:7:11: "129": prefix length is not a number from 0 to 128`},

		{"80:80", `p:7:8: "80": "80" is a number, not a name`},
		{"127.1", `p:7:8: "127.1": "127.1" is a number, not a name`},
		{"10.0.0.256", `p:7:8: "10.0.0.256": "10.0.0.256" is a number, not a name`},
		{"0x7f000001:22", `p:7:8: "0x7f000001": "0x7f000001" is a number, not a name`},
		{"*.10", `p:7:8: "*.10": "10" is a number, not a name`},
		{"*.", `p:7:8: "*.": empty name`},
		{"*example.com", `p:7:8: "*example.com": a name cannot have the character '*'`},
		{"a.*.com", `p:7:8: "a.*.com": a name cannot have the character '*'`},
		{"user@a.example", `p:7:8: "user@a.example": a name cannot have the character '@'`},
		{"bücher.example:443", `p:7:8: "bücher.example": an internationalized name is written in ASCII (did you mean xn--bcher-kva.example?)`},
		{"*.bücher.example", `p:7:8: "*.bücher.example": an internationalized name is written in ASCII (did you mean *.xn--bcher-kva.example?)`},

		{"Any", `p:7:8: "Any": unknown word (did you mean any; the host of that name is written "Any."?)`},
		{"all", `p:7:8: "all": unknown word (did you mean any; the host of that name is written "all."?)`},
		{"locahlost:80", `p:7:8: "locahlost": unknown word (did you mean localhost; the host of that name is written "locahlost."?)`},
		{"linklocal", `p:7:8: "linklocal": unknown word (did you mean link-local; the host of that name is written "linklocal."?)`},
		{"privte", `p:7:8: "privte": unknown word (did you mean private; the host of that name is written "privte."?)`},
	} {
		_, err := Compile(Config{Lines: []Line{{"allow", tt.in, Pos{"p", 7, 8}, 1}}})
		if got := errText(err); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.in, got, tt.want)
		}
	}
}

func TestLineErrors(t *testing.T) {
	at := func(word, arg string) Line { return Line{word, arg, Pos{"--" + word, 0, 1}, 1} }
	for _, tt := range []struct {
		lines []Line
		want  string
	}{
		{[]Line{at("allow", "")}, `--allow: empty destination; every destination is written any`},
		{[]Line{at("allow", "x:99999")}, `--allow: column 3: "99999": port is not a number from 1 to 65535`},
		{[]Line{at("alow", "x")}, `--alow: "alow": unknown word (did you mean allow?)`},
		{[]Line{{"permit", "x", Pos{"p", 3, 9}, 1}}, `p:3:1: "permit": unknown word`},
		{[]Line{at("default", "denny")}, `--default: "denny": the default is allow or deny (did you mean deny?)`},
		{[]Line{at("default", "deny"), {"default", "allow", Pos{"p", 2, 9}, 1}}, `p:2:9: "allow": the default was set otherwise before (--default)`},
		{[]Line{at("default", "deny"), at("default", "deny")}, ``},
		{[]Line{at("dns-budget", "-1")}, `--dns-budget: "-1": the budget is a number of questions an hour; 0 is no limit`},
		{[]Line{at("hosts", "")}, `--hosts: empty file name`},
		{[]Line{at("allow", "*.com")}, `--allow: column 3: "com": anybody can have a name below com, a public suffix; if all of them are meant, write allow-suffix for allow`},
		{[]Line{at("allow", ".github.io:443")}, `--allow: column 2: "github.io": anybody can have a name below github.io, a public suffix; if all of them are meant, write allow-suffix for allow`},
		{[]Line{at("allow-unix", "run/x")}, `--allow-unix: "run/x": the path of a socket is absolute`},
		{[]Line{at("policy", "f")}, `--policy: "f": files cannot be named here`},
		{[]Line{at("deny", "@")}, `--deny: "@": empty file name`},
		{[]Line{at("allow", strings.Repeat("é", 200)+"-")}, `--allow: "` + strings.Repeat("é", 80) + `": "` + strings.Repeat("é", 80) + `" is not a valid internationalized name`},
	} {
		_, err := Compile(Config{Lines: tt.lines})
		if got := errText(err); got != tt.want {
			t.Errorf("%v:\n got %s\nwant %s", tt.lines, got, tt.want)
		}
	}
}
