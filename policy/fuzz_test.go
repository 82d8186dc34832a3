package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"Example.COM.", "_a.xn--bcher-kva.example", "bücher.example", "a\x00b", "0x7f.1", "１.２", "xn--a", "ß.example", "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if spelling := (*SpellingError)(nil); errors.As(err, &spelling) {
			if n, err := ParseName(spelling.Canonical); err != nil || string(n) != spelling.Canonical {
				t.Fatalf("%q is to be written %q, which is %q, %v", s, spelling.Canonical, n, err)
			}
		}
		if err != nil {
			return
		}
		if again, err := ParseName(string(n)); err != nil || again != n {
			t.Fatalf("%q is %q, which is %q, %v", s, n, again, err)
		}
		if n == "" || len(n) > maxName || strings.Trim(string(n), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			t.Fatalf("%q is %q", s, n)
		}
		for label := range strings.SplitSeq(string(n), ".") {
			if label == "" || len(label) > maxLabel {
				t.Fatalf("%q has label %q", n, label)
			}
		}
		if a, err := netip.ParseAddr(string(n)); err == nil {
			t.Fatalf("%q is the address %s", s, a)
		}
	})
}

// checkError fails unless a policy's mistake is well described.
func checkError(t *testing.T, err error, text string) {
	t.Helper()
	var e *SyntaxError
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	lines := strings.Split(text, "\n")
	if e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Column < 1 || e.Pos.Column > len(lines[e.Pos.Line-1])+1 {
		t.Fatalf("%q: %+v", text, e)
	}
	if e.Msg == "" || len(e.Error()) > 1000 || strings.ContainsAny(e.Error(), "\n\r\x00\x1b") {
		t.Fatalf("%q: %q", text, e.Error())
	}
}

func FuzzPolicy(f *testing.F) {
	for _, s := range []string{
		"allow example.com:443/tcp\ndeny any/udp\n", "default deny\r\nallow [::1]/128:80,90-99 # x", "\ufeffdeny @l\npolicy p",
		"--allow x", "allow *.bücher.example", "allow 10.0.0.1/8", "allow-unix /x", "deny https://x/", "allow 0:0", "allow x:1,",
	} {
		f.Add(s, "example.com", []byte{10, 0, 0, 1}, uint16(443))
	}
	fsys := files{"l": "ads.example\n10.0.0.0/8\n", "p": "allow .example.com"}
	f.Fuzz(func(t *testing.T, text, name string, ip []byte, port uint16) {
		lines, err := ReadLines("p", strings.NewReader(text))
		if err != nil {
			checkError(t, err, text)
			return
		}
		p, err := Compile(Config{Lines: lines, Open: fsys.open})
		if err != nil {
			checkError(t, err, text)
			return
		}
		addr, _ := netip.AddrFromSlice(ip)
		n, _ := ParseName(name)
		for proto := range protoCount {
			for _, pinned := range []bool{false, true} {
				if v := p.Decide(Flow{Proto: proto, Addr: addr, Port: port, Name: n, Pinned: pinned}); v.Reason() == "" || v.Rule() != nil && v.Rule().Allows() != v.Allowed() {
					t.Fatalf("%q: %s:%d: %+v", text, addr, port, v)
				}
			}
		}
		if n != "" && p.DecideName(n).Reason() == "" {
			t.Fatalf("%q: %s: no reason", text, n)
		}
	})
}

func FuzzReadList(f *testing.F) {
	for _, s := range []string{"ads.example\n*.x.example\n", "127.0.0.1 localhost\r\n0.0.0.0\ta.example b.example # c", "10.0.0.0/8\n::1\n", "bücher.example", "\xff", "a b", "1.2.3.4 *.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		type entry struct {
			host host
			line int
		}
		var entries []entry
		err := readList("l", strings.NewReader(text), func(h host, line int) error {
			entries = append(entries, entry{h, line})
			return nil
		})
		if err != nil {
			checkError(t, err, text)
			return
		}
		p, err := Compile(Config{
			Lines: []Line{{"deny", "@l", Pos{"p", 1, 6}, 1}},
			Open:  files{"l": text}.open,
		})
		if err != nil {
			t.Fatal(err)
		}
		first := map[string]int{}
		for _, e := range entries {
			if e.host.kind == exactName && first[string(e.host.name)] == 0 {
				first[string(e.host.name)] = e.line
				if v := p.DecideName(e.host.name); v.Allowed() || v.Rule().Pos.Line != e.line {
					t.Fatalf("%q: %+v: %+v", text, e, v)
				}
			}
		}
	})
}

// A destination written as a hint means the flow it was written for.
func FuzzDestination(f *testing.F) {
	for _, s := range []string{"example.com", "any", "localhost", "xn--bcher-kva.example", "", "all"} {
		f.Add(s, []byte{8, 8, 8, 8}, uint16(443), uint8(0))
		f.Add(s, netip.MustParseAddr("64:ff9b::808:808").AsSlice(), uint16(0), uint8(2))
	}
	f.Fuzz(func(t *testing.T, name string, ip []byte, port uint16, proto uint8) {
		addr, ok := netip.AddrFromSlice(ip)
		n, _ := ParseName(name)
		flow := Flow{Proto: Proto(proto) % protoCount, Addr: addr, Port: port, Name: n, Pinned: n != ""}
		if !ok && n == "" || flow.Proto == ICMP && port != 0 {
			return
		}
		text := Target{Proto: flow.Proto, Addr: addr, Name: n, Port: port}.String()
		d, err := parseDestination(text)
		if err != nil {
			t.Fatalf("%+v is %q: %v", flow, text, err)
		}
		h := d.host
		if !d.scope.matches(flow.Proto, port) || n != "" && (h.kind != exactName || h.name != n) ||
			n == "" && (h.kind != addresses || len(h.prefixes) != 1 || h.prefixes[0] != netip.PrefixFrom(Embedded(addr), Embedded(addr).BitLen())) {
			t.Fatalf("%+v is %q: %+v", flow, text, d)
		}
	})
}
