package policy

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
)

// fromFile compiles word @list, with the list in memory, and the lines.
func fromFile(tb testing.TB, word string, list []byte, lines ...string) *Policy {
	tb.Helper()
	all := []Line{{Word: word, Arg: "@list", Pos: Pos{File: "--" + word, Column: 1}}}
	for i := 0; i < len(lines); i += 2 {
		all = append(all, Line{Word: lines[i], Arg: lines[i+1], Pos: Pos{File: "--" + lines[i], Column: 1}})
	}
	p, err := Compile(Config{Lines: all, Open: func(string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(list)), nil
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// listed is one of the names of nameList.
func listed(i int) Name { return Name(fmt.Sprintf("ad%06d.t%03d.test", i, i%1000)) }

// nameList has n names of 18 characters, as blocking lists have them, each
// after the prefix.
func nameList(n int, prefix string) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintln(&b, prefix+string(listed(i)))
	}
	return b.Bytes()
}

func prefixList(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%d.%d.%d.0/24\n", 20+i>>16, i>>8&255, i&255)
	}
	return b.Bytes()
}

func BenchmarkDecide(b *testing.B) {
	addr := netip.MustParseAddr("93.184.216.34")
	flow := func(name Name, addr netip.Addr) Flow {
		return Flow{Proto: TCP, Addr: addr, Port: 443, Name: name, Pinned: name != ""}
	}
	names := func(n int) *Policy { return fromFile(b, "deny", nameList(n, "")) }
	for _, n := range []int{1, 1000, 1000000} {
		p := names(n)
		b.Run(fmt.Sprintf("names=%d/miss", n), decide(p, flow("www.shop.example", addr), true))
		b.Run(fmt.Sprintf("names=%d/hit", n), decide(p, flow(listed(n/2), addr), false))
	}
	p := fromFile(b, "deny", prefixList(100000))
	b.Run("prefixes=100000/miss", decide(p, flow("", addr), true))
	b.Run("prefixes=100000/hit", decide(p, flow("", netip.MustParseAddr("20.1.2.3")), false))
	p = fromFile(b, "allow", []byte("a.example"))
	b.Run("no rule allows it", decide(p, flow("www.shop.example", addr), false))
	p = fromFile(b, "deny", nameList(1000, ""), "deny", "any", "allow", "*.shop.example:443")
	b.Run("carve-out", decide(p, flow("www.shop.example", addr), true))
}

func decide(p *Policy, f Flow, allow bool) func(*testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := p.Decide(f); v.Allowed() != allow {
				b.Fatal(v)
			}
		}
	}
}

// BenchmarkNames asks for other names all the time, as they are found in no cache
// of the processor.
func BenchmarkNames(b *testing.B) {
	p := fromFile(b, "deny", nameList(1000000, ""))
	var hits, misses [4096]Name
	for i := range hits {
		hits[i], misses[i] = listed(i*243%1000000), "www."+listed(i*243%1000000)
	}
	addr := netip.MustParseAddr("93.184.216.34")
	run := func(name string, names *[4096]Name, decide func(Name) Verdict, allow bool) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if v := decide(names[i%len(names)]); v.Allowed() != allow {
					b.Fatal(v)
				}
			}
		})
	}
	flow := func(n Name) Verdict {
		return p.Decide(Flow{Proto: TCP, Addr: addr, Port: 443, Name: n, Pinned: true})
	}
	run("Decide/hit", &hits, flow, false)
	run("Decide/miss", &misses, flow, true)
	run("DecideName/hit", &hits, p.DecideName, false)
	run("DecideName/miss", &misses, p.DecideName, true)
	aliases := []Name{"edge.cdn.example"}
	run("DecideAnswer/miss", &misses, func(n Name) Verdict { return p.DecideAnswer(n, aliases, addr) }, true)
	run("DecideAnswer/alias", &hits, func(n Name) Verdict { return p.DecideAnswer("www.shop.example", []Name{n}, addr) }, false)
	p = fromFile(b, "allow", nameList(1000000, ""))
	run("DecideName/no rule allows it", &misses, p.DecideName, false)
	var words int
	run("words", &hits, func(n Name) Verdict { v := p.DecideName(n); words += len(withHint(v)); return v }, true)
}

// BenchmarkCompile measures policies that are written by hand.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1, 1000} {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "allow host%d.example:443\n", i)
		}
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				lines, err := ReadLines("p", strings.NewReader(text.String()))
				if err == nil {
					_, err = Compile(Config{Lines: lines})
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoad measures how long a list takes to load and what it keeps.
func BenchmarkLoad(b *testing.B) {
	names := nameList(1000000, "")
	for _, of := range []struct {
		name, word string
		list       []byte
	}{
		{"names", "deny", names},
		{"hosts", "deny", nameList(1000000, "0.0.0.0 ")},
		{"wildcards", "deny", nameList(1000000, "*.")},
		{"mixed", "deny", append(nameList(500000, ""), nameList(500000, ".")...)},
		{"allowed", "allow", names},
		{"prefixes", "deny", prefixList(100000)},
	} {
		b.Run(of.name, func(b *testing.B) {
			b.ReportAllocs()
			list := of.list
			rules := bytes.Count(list, []byte{'\n'})
			var p *Policy
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				p = fromFile(b, of.word, list)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rules), "ns/rule")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(rules), "bytes/rule")
			runtime.KeepAlive(p)
			runtime.KeepAlive(list)
		})
	}
}
