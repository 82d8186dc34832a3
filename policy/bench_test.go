package policy

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"runtime"
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

// nameList has n names of 18 characters, as blocking lists have them.
func nameList(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "ad%06d.t%03d.test\n", i, i%1000)
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
	names := func(n int) *Policy { return fromFile(b, "deny", nameList(n)) }
	for _, n := range []int{1, 1000, 1000000} {
		p := names(n)
		b.Run(fmt.Sprintf("names=%d/miss", n), decide(p, flow("www.shop.example", addr), true))
		b.Run(fmt.Sprintf("names=%d/hit", n), decide(p, flow(Name(fmt.Sprintf("ad%06d.t%03d.test", n/2, n/2%1000)), addr), false))
	}
	p := fromFile(b, "deny", prefixList(100000))
	b.Run("prefixes=100000/miss", decide(p, flow("", addr), true))
	b.Run("prefixes=100000/hit", decide(p, flow("", netip.MustParseAddr("20.1.2.3")), false))
	p = fromFile(b, "allow", []byte("a.example"))
	b.Run("no rule allows it", decide(p, flow("www.shop.example", addr), false))
	p = fromFile(b, "deny", nameList(1000), "deny", "any", "allow", "*.shop.example:443")
	b.Run("carve-out", decide(p, flow("www.shop.example", addr), true))
}

func decide(p *Policy, f Flow, allow bool) func(*testing.B) {
	return func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := p.Decide(f); v.Allow != allow {
				b.Fatal(v)
			}
		}
	}
}

// BenchmarkLoad measures how long a list takes to load and what it keeps.
func BenchmarkLoad(b *testing.B) {
	for name, list := range map[string][]byte{"names": nameList(1000000), "prefixes": prefixList(100000)} {
		b.Run(name, func(b *testing.B) {
			rules := bytes.Count(list, []byte{'\n'})
			var p *Policy
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				p = fromFile(b, "deny", list)
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
