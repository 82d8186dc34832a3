package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// files is an Open that knows a few files.
type files map[string]string

func (f files) open(name string) (io.ReadCloser, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func TestReadLines(t *testing.T) {
	line := func(word, arg string, number, column int) Line {
		return Line{word, arg, Pos{"p", number, column}, 1}
	}
	for _, tt := range []struct {
		name, in string
		want     []Line
		err      string
	}{
		{name: "empty"},
		{name: "comments", in: "# all\n\n \t# indented\nallow x # after\ndeny y#z\n", want: []Line{line("allow", "x", 4, 7), line("deny", "y#z", 5, 6)}},
		{name: "CRLF", in: "allow x\r\n\r\ndeny\ty\r\n", want: []Line{line("allow", "x", 1, 7), line("deny", "y", 3, 6)}},
		{name: "BOM", in: "\ufeffallow x\n\n", want: []Line{line("allow", "x", 1, 7)}},
		{name: "no newline at the end", in: "allow  x", want: []Line{line("allow", "x", 1, 8)}},
		{name: "a password with a blank", in: "upstream socks5://me:ge heim@h:1", err: `p:1:25: no blank stands in an upstream; write %20 for one`},
		{name: "an unknown word with more", in: "alow a b c", err: `p:1:1: "alow": unknown word (did you mean allow?)`},
		{name: "argument within the word", in: "allow allow low", err: `p:1:13: "low": only one thing may follow the word; give each destination a line`},
		{name: "dashes", in: "\n  --allow x", err: `p:2:3: "--allow": a policy file has the flags without dashes (did you mean allow?)`},
		{name: "no argument", in: "deny # any", err: `p:1:1: "deny": something must follow this word`},
		{name: "long comment", in: "#" + strings.Repeat("x", maxLine-3) + "\nallow x", want: []Line{line("allow", "x", 2, 7)}},
		{name: "long line", in: "allow x\n#" + strings.Repeat("x", maxLine), err: `p:2:1: the line is longer than 65536 bytes`},
	} {
		got, err := ReadLines("p", strings.NewReader(tt.in))
		if errText(err) != tt.err || err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %v, %v; want %v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
	broken := errors.New("disk on fire")
	_, err := ReadLines("p", iotest.ErrReader(broken))
	if !errors.Is(err, broken) || err.Error() != "read p: disk on fire" {
		t.Error(err)
	}
}

func TestReadList(t *testing.T) {
	for _, tt := range []struct{ name, in, want, err string }{
		{name: "names", in: "\ufeffAds.example.\r\n# none\n*.t.example # x\n.u.example\nbücher.example\n",
			want: "1 ads.example; 3 *.t.example; 4 .u.example; 5 xn--bcher-kva.example;"},
		{name: "addresses", in: "10.0.0.1\n10.0.0.0/8\n2001:db8::/32\nfe80::1\n",
			want: "1 10.0.0.1/32; 2 10.0.0.0/8; 3 2001:db8::/32; 4 fe80::1/128;"},
		{name: "hosts", in: "127.0.0.1 localhost localhost.localdomain\n::1 ip6-localhost\nfe80::1%lo0 localhost\n0.0.0.0 0.0.0.0\n0.0.0.0\ta.example b.example # c\n:: d.example\n",
			want: "5 a.example; 5 b.example; 6 d.example;"},
		{name: "keywords mean nothing", in: "any\nprivate\n", want: "1 any; 2 private;"},
		{name: "two names", in: "a.example b.example", err: `l:1:11: "b.example": only one entry a line, or an address and its names (hosts(5))`},
		{name: "bad name", in: "a.example\n  ||b.example^", err: `l:2:3: "||b.example^": a name cannot have the character '|'`},
		{name: "bad hosts name", in: "0.0.0.0 ok.example b_.example:80", err: `l:1:20: "b_.example:80": a name cannot have the character ':'`},
		{name: "wildcard in hosts", in: "0.0.0.0 *.b.example", err: `l:1:9: "*.b.example": not a name`},
		{name: "short address", in: "10.1", err: `l:1:1: "10.1": "10.1" is a number, not a name`},
		{name: "host bits", in: "10.0.0.1/8", err: `l:1:1: "10.0.0.1/8": prefix has host bits set (did you mean 10.0.0.0/8 or 10.0.0.1?)`},
		{name: "ports", in: "a.example:443", err: `l:1:1: "a.example:443": a name cannot have the character ':'`},
		{name: "Latin-1", in: "b\xfccher.example", err: `l:1:1: "b\xfccher.example": "b\xfccher.example" is not a valid internationalized name`},
	} {
		var got strings.Builder
		err := readList("l", strings.NewReader(tt.in), func(h host, line int) error {
			text, _, _ := strings.Cut(describe(destination{host: h}), " ")
			fmt.Fprintf(&got, "%d %s; ", line, text)
			return nil
		})
		if errText(err) != tt.err || err == nil && strings.TrimSpace(got.String()) != tt.want {
			t.Errorf("%s: %s, %v; want %s, %q", tt.name, got.String(), err, tt.want, tt.err)
		}
	}
	full := func(host, int) error { return errors.New("the list is too long") }
	for _, in := range []string{"a.example", "::1 a.example"} {
		if err := readList("l", strings.NewReader(in), full); err == nil || !strings.HasSuffix(err.Error(), `"a.example": the list is too long`) {
			t.Error(err)
		}
	}
}

func TestFiles(t *testing.T) {
	fsys := files{
		"main":       "policy etc/a\nallow b.example",
		"etc/a":      "policy sub/c # beside etc/a\ndeny @ads\n",
		"etc/sub/c":  "policy /abs",
		"/abs":       "allow abs.example\ndeny @lists/x",
		"/lists/x":   "x.example",
		"etc/ads":    "\n0.0.0.0 ads.example",
		"loop":       "policy loop",
		"many":       strings.Repeat("policy many1\n", 100),
		"many1":      strings.Repeat("policy many2\n", 100),
		"many2":      strings.Repeat("policy abs.policy\n", 100),
		"abs.policy": "allow x.example\n",
		"includes":   strings.Repeat("policy wrong\ndeny @badlists\n", 10),
		"wrong":      strings.Repeat("alow\n", 20),
		"badlists":   strings.Repeat("no way\n", 20),
		"loops":      strings.Repeat("policy loops\n", 100),
		"two":        "allow 10.0.0.1/8\npolicy bad\nallow x\ndeny y,y\n",
		"forms":      "alow\nallow x\ndeny\n",
		"bad":        "allow x\nallow a.example:http",
		"worse":      "policy bad",
		"missing":    "policy no/such",
		"badlist":    "ok.example\nno way",
	}
	word := func(word, arg string) []Line { return []Line{{word, arg, Pos{"--" + word, 0, 1}, 1}} }
	p, err := Compile(Config{Lines: word("policy", "main"), Open: fsys.open})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[Name]string{
		"b.example":   "the rule allow b.example (main:2) allows it",
		"abs.example": "the rule allow abs.example (/abs:1) allows it",
		"ads.example": "the rule deny @ads (etc/ads:2) denies it",
		"x.example":   "the rule deny @lists/x (/lists/x:1) denies it",
		"y.example":   "no rule allows it",
	} {
		v := p.DecideName(name)
		if v.Reason() != want || v.Allowed() != strings.Contains(want, " allows it") && name != "y.example" {
			t.Errorf("%s: %+v, want %s", name, v, want)
		}
	}
	if _, err := Compile(Config{Lines: word("policy", "includes"), Open: fsys.open}); strings.Count(errText(err), "\n") != maxMistakes-1 {
		t.Errorf("many mistakes in many files: %v", err)
	}
	if _, err := Compile(Config{Lines: word("policy", "loops"), Open: fsys.open}); strings.Count(errText(err), "include each other more than 8 deep") != maxMistakes {
		t.Errorf("loops: %v", err)
	}
	if _, err := Compile(Config{Lines: word("policy", "many"), Open: fsys.open}); !strings.Contains(errText(err), "policy files are included more than 1000 times") {
		t.Errorf("many includes: %v", err)
	}
	for _, tt := range []struct{ word, arg, want string }{
		{"policy", "loop", `loop:1:8: "loop": policy files include each other more than 8 deep`},
		{"policy", "two", `two:1:7: "10.0.0.1/8": prefix has host bits set (did you mean 10.0.0.0/8 or 10.0.0.1?)` + "\n" +
			`bad:2:17: "http": port is not a number from 1 to 65535 (did you mean 80?)` + "\n" + `two:4:6: "y,y": only one host stands in a destination; write one for each`},
		{"policy", "forms", `forms:1:1: "alow": unknown word (did you mean allow?)` + "\n" + `forms:3:1: "deny": something must follow this word`},
		{"policy", "worse", `bad:2:17: "http": port is not a number from 1 to 65535 (did you mean 80?)`},
		{"policy", "missing", `missing:1:8: "no/such": cannot open "no/such": file does not exist`},
		{"policy", "", `--policy: empty file name`},
		{"deny", "@none", `--deny: "@none": cannot open "none": file does not exist`},
		{"deny", "@badlist", `badlist:2:4: "way": only one entry a line, or an address and its names (hosts(5))`},
	} {
		_, err := Compile(Config{Lines: word(tt.word, tt.arg), Open: fsys.open})
		if got := errText(err); got != tt.want {
			t.Errorf("%s %s:\n got %s\nwant %s", tt.word, tt.arg, got, tt.want)
		}
	}
}

// An entry of a list weighs as a rule of its own would.
func TestListEntries(t *testing.T) {
	for _, tt := range []struct {
		word, list string
		lines      []string
		name       Name
		addr       string
		want       bool
	}{
		{word: "deny", list: ".x.example", lines: []string{"allow", "x.example"}, name: "x.example", want: true},
		{word: "deny", list: ".x.example", lines: []string{"allow", "*.x.example"}, name: "a.x.example", want: true},
		{word: "deny", list: "*.x.example", lines: []string{"allow", ".x.example"}, name: "a.x.example"},
		{word: "deny", list: ".x.example", name: "x.example"},
		{word: "deny", list: "x.example", lines: []string{"allow", "x.example"}, name: "x.example"},
		{word: "deny", list: ".x.example\nx.example", lines: []string{"allow", "x.example"}, name: "x.example"},
		{word: "allow", list: ".x.example", lines: []string{"deny", ".x.example"}, name: "a.x.example"},
		{word: "allow", list: "*.x.example", lines: []string{"deny", ".x.example"}, name: "a.x.example", want: true},
		{word: "allow", list: "*.x.example\n.x.example\n.a.x.example", lines: []string{"deny", ".x.example"}, name: "a.x.example", want: true},
		{word: "deny", list: "10.0.0.0/8\n10.0.0.0/24", lines: []string{"allow", "10.0.0.0/16"}, addr: "10.0.0.1"},
		{word: "deny", list: "10.0.0.0/8", lines: []string{"allow", "10.0.0.0/16"}, addr: "10.0.0.1", want: true},
		{word: "allow", list: "0.0.0.0/0\n10.0.0.0/16", lines: []string{"deny", "10.0.0.0/8"}, addr: "10.0.0.1", want: true},
		{word: "allow", list: "0.0.0.0/0", addr: "127.0.0.1"},
		{word: "allow", list: "0.0.0.0/0\n127.0.0.1", addr: "127.0.0.1", want: true},
	} {
		p := fromFile(t, tt.word, []byte(tt.list), tt.lines...)
		f := Flow{Proto: TCP, Addr: netip.MustParseAddr("8.8.8.8"), Port: 443, Name: tt.name, Pinned: tt.name != ""}
		if tt.addr != "" {
			f.Addr = netip.MustParseAddr(tt.addr)
		}
		if v := p.Decide(f); v.Allowed() != tt.want {
			t.Errorf("%s @(%s) %s: %+v", tt.word, tt.list, tt.lines, v)
		}
	}
}

// Lines survive the compact form of long lists.
func TestListPositions(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "%sn%d.example\n", strings.Repeat("\n", i%300), i%900) // 900 on: again
	}
	p := fromFile(t, "deny", []byte(b.String()))
	for number, text := range strings.Split(b.String(), "\n") {
		if text == "" {
			continue
		}
		first := strings.Count(b.String()[:strings.Index(b.String(), text+"\n")], "\n") + 1
		if v := p.DecideName(Name(text)); v.Allowed() || v.Rule().Pos.Line != first {
			t.Fatalf("line %d, %s: %+v, want line %d", number+1, text, v, first)
		}
	}
}
