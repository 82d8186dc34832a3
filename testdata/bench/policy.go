package main

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"appfw/policy"
)

var policyMeasures = []measure{{"policy", 0, "", []figure{
	{"load", "ms", false}, {"memory", "MiB", false}, {"decide, no rule matches", "ns", false}, {"decide, a rule matches", "ns", false},
}}}

// policies lists policies by their sizes.
func policies() table {
	var list []tool
	for _, size := range []struct {
		name  string
		rules int
	}{{"1 rule", 1}, {"1,000 rules", 1000}, {"1,000,000 rules", 1000000}} {
		list = append(list, tool{name: size.name, rules: size.rules, wrap: bare})
	}
	return table{title: "Policies that deny so many names", tools: list, measures: policyMeasures}
}

// policy loads N rules and decides by them.
func (j job) policy() ([]float64, error) {
	name := func(i int) policy.Name { return policy.Name(fmt.Sprintf("ad%06d.t%03d.test", i, i%1000)) }
	var list bytes.Buffer
	for i := range j.N {
		fmt.Fprintln(&list, name(i))
	}
	config := policy.Config{
		Lines: []policy.Line{{Word: "deny", Arg: "@list", Pos: policy.Pos{File: "--deny", Column: 1}}},
		Open:  func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(list.Bytes())), nil },
	}
	before, began := heap(), time.Now()
	p, err := policy.Compile(config)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	figures := []float64{milliseconds(took), (heap() - before) / (1 << 20)}
	runtime.KeepAlive(config) // the list was there before, too
	for _, asked := range []policy.Name{"www.shop.example", name(j.N / 2)} {
		flow := policy.Flow{Proto: policy.TCP, Addr: netip.MustParseAddr("93.184.216.34"), Port: 443, Name: asked, Pinned: true}
		decisions, began := 0, time.Now()
		for ; time.Since(began) < j.Span/2; decisions += 1000 {
			for range 1000 {
				if v := p.Decide(flow); v.Allowed() != (len(figures) == 2) {
					return nil, fmt.Errorf("%v", v)
				}
			}
		}
		figures = append(figures, float64(time.Since(began))/float64(decisions))
	}
	return figures, nil
}

// heap is how many bytes are in use.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
