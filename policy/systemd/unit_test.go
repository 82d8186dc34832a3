package systemd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"appfw/policy"
)

func TestRead(t *testing.T) {
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
		var files []File
		for i, f := range c.files {
			files = append(files, File{fmt.Sprintf("%d.conf", i), []byte(f)})
		}
		u, err := Read(files)
		if err != nil {
			t.Errorf("%q: %v", c.files, err)
			continue
		}
		text := func(list []prefix) string {
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

func TestReadErrors(t *testing.T) {
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
		_, err := Read([]File{{"f", []byte(text)}})
		if got := fmt.Sprint(err); got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.0/24\n", "[Service]\r\nIPAddressAllow=1.1.1.1 \\\r\n# x\r\n2.2.2.2/8",
		"[Service]\nEnvironment=ALL_PROXY=socks://127.0.0.1:9050 \"http_proxy=http://h:1\"\nUnsetEnvironment=http_proxy\nPrivateNetwork=yes",
		"[Socket]\nIPAddressAllow=::ffff:1.2.3.4 ::/0\nIPAddressAllow=", "\ufeff;\n[Slice]\nIPAddressDeny=\\", "[Service]\nEnvironment='A=\\x41\\U0001f600\\101\"'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Read([]File{{"f", []byte(s)}})
		if e := (*policy.SyntaxError)(nil); errors.As(err, &e) {
			if e.Pos.Line < 1 || e.Pos.Column < 1 || e.Pos.Line > 1+strings.Count(s, "\n")+strings.Count(s, "\r") || e.Msg == "" || strings.ContainsAny(policy.Printable(e.Error(), 0), "\n\r\x00\x1b") {
				t.Fatalf("%q: %+v", s, e)
			}
		}
		if err != nil {
			return
		}
		text, _, err := u.Policy(validUpstream)
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
