package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patience is how long a command may take beyond the time it measures.
const patience = 20 * time.Second

// table is what is measured in the same tools. The first is what the others are compared with.
type table struct {
	title    string
	place    place // of the server
	repeat   int   // runs in a round; none: one
	tools    []tool
	measures []measure
	missing  string                  // why nothing of this is measured
	start    func() (serving, error) // what runs on the simulated host for a round; nil: nothing
	results  [][]cell                // by measure and tool
}

// place is where a measure's server is.
type place int

const (
	nowhere  place = iota
	far            // in the internet
	loopback       // on the host's 127.0.0.1
)

// measure is one run of a command in each tool.
type measure struct {
	mode    string   // of the client, or one of those below
	n       int      // streams, connections, bytes of a datagram or rules, as the client takes it
	via     protocol // by which a proxy is asked; none: no proxy is used
	figures []figure
}

const (
	starting = "start"  // of date(1)
	cached   = "cached" // by dnsperf(1)
	uncached = "uncached"
)

// figure is one number that a measure gives.
type figure struct {
	name, unit string
	plot       bool
}

// less reports whether less is better.
func (f figure) less() bool { return !strings.HasSuffix(f.unit, "/s") }

// absolute reports whether the first tool has none of it to compare with.
func (f figure) absolute() bool { return f.unit == "%" || f.unit == "KiB" }

// cell is what one tool gave for one measure: for each figure the samples of all rounds, or why there are none.
type cell struct {
	samples [][]float64
	failed  error
	none    bool // the tool does not do this
}

// rates are the figures of what is done again and again.
func rates(name string, plot bool) []figure {
	return []figure{{name, "1/s", plot}, {"same, p50", "µs", false}, {"same, p99", "µs", false}}
}

const (
	manyStreams     = 8
	idleConnections = 2000
)

var startMeasures = []measure{
	{starting, 0, "", []figure{{"start to program", "ms", true}, {"start to exit", "ms", false}}},
}

var farMeasures = []measure{
	{"out", 1, "", []figure{{"TCP out", "Gbit/s", true}}},
	{"in", 1, "", []figure{{"TCP in", "Gbit/s", true}}},
	{"out", manyStreams, "", []figure{{"TCP out, 8 streams", "Gbit/s", true}}},
	{"in", manyStreams, "", []figure{{"TCP in, 8 streams", "Gbit/s", false}}},
	{"crr", 1, "", rates("connect, request, response", true)},
	{"get", 1, keep, rates("HTTP requests in one connection", true)},
	{"idle", idleConnections, "", []figure{{"memory for each of 2,000 idle connections", "KiB", false}}},
	{"datagrams", 64, "", []figure{{"UDP out, datagrams of 64 bytes", "1/s", true}, {"same, lost", "%", false}}},
	{"paced", 64, "", []figure{{"UDP out, 20,000 datagrams of 64 bytes a second", "1/s", false}, {"same, lost", "%", false}}},
	{"flood", 1400, "", []figure{{"UDP out, datagrams of 1,400 bytes", "Gbit/s", true}, {"same, lost", "%", false}}},
	{"echo", 64, "", rates("UDP request, response", true)},
	{"dns", 8, "", rates("DNS questions, 8 at a time", true)},
}

var loopbackMeasures = []measure{
	{"out", 1, "", []figure{{"TCP out", "Gbit/s", true}}},
	{"in", 1, "", []figure{{"TCP in", "Gbit/s", true}}},
	{"crr", 1, "", rates("connect, request, response", true)},
}

// measure runs everything and keeps the results in the tables.
func (b *bench) measure(rounds int) error {
	for i := range b.tables {
		b.tables[i].prepare()
	}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", round+1, rounds)
		for i := range b.tables {
			if err := b.round(&b.tables[i], round); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare makes the cells.
func (t *table) prepare() {
	t.results = make([][]cell, len(t.measures))
	for i, m := range t.measures {
		t.results[i] = make([]cell, len(t.tools))
		for j, tool := range t.tools {
			t.results[i][j].samples = make([][]float64, len(m.figures))
			t.results[i][j].none = tool.proxy != "" && !slices.Contains(tool.speaks, m.via) ||
				tool.inKernel && m.mode == "idle" || tool.only != "" && tool.only != m.mode
		}
	}
}

// round measures a table once.
func (b *bench) round(t *table, round int) error {
	if t.missing != "" {
		return nil
	}
	if t.start != nil {
		running, err := t.start()
		defer running.stop()
		if err != nil {
			return err
		}
	}
	for i, m := range t.measures {
		for range max(t.repeat, 1) {
			for k := range t.tools {
				j := (k + round) % len(t.tools) // nobody is always the first
				if b.ctx.Err() != nil {
					return errors.New("interrupted")
				}
				if t.tools[j].missing == "" {
					t.results[i][j].sample(func() ([]float64, error) { return b.run(t.place, t.tools[j], m) })
				}
			}
		}
	}
	return nil
}

// sample runs a measure once more, unless it failed before.
func (c *cell) sample(run func() ([]float64, error)) {
	if c.none || c.failed != nil {
		return
	}
	values, err := run()
	if err == nil && len(values) != len(c.samples) {
		err = fmt.Errorf("%d figures", len(values))
	}
	if c.failed = err; err != nil {
		return
	}
	for f, v := range values {
		c.samples[f] = append(c.samples[f], v)
	}
}

// run runs a measure once in a tool and returns its figures.
func (b *bench) run(where place, t tool, m measure) ([]float64, error) {
	switch m.mode {
	case starting:
		began := time.Now()
		said, err := b.output(t, []string{"date", "+%s%N"}, "localhost:"+b.loopbackPort)
		if err != nil {
			return nil, err
		}
		took := time.Since(began)
		started, err := strconv.ParseInt(strings.TrimSpace(said), 10, 64)
		toProgram := time.Unix(0, started).Sub(began.Round(0)) // Round: by the wall clock
		return []float64{milliseconds(toProgram), milliseconds(took)}, err
	case cached, uncached:
		return b.dnsperf(t, m.mode)
	}
	j := job{Mode: m.mode, N: m.n, Via: m.via, Proxy: t.proxy, Span: b.span}
	switch where {
	case far:
		j.Addr = net.JoinHostPort(farAddr, strconv.Itoa(farPort))
	case loopback:
		j.Addr = net.JoinHostPort(t.loopback, b.loopbackPort)
	}
	allow := j.Addr
	switch {
	case m.mode == "dns":
		j.Addr, allow = t.dns, dnsName
	case m.mode == "policy":
		j.N = t.rules
	case where == loopback:
		allow = "localhost:" + b.loopbackPort
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	said, err := b.output(t, []string{b.self, clientCommand, string(text)}, allow)
	if err != nil {
		return nil, err
	}
	var values []float64
	if err := json.Unmarshal([]byte(said), &values); err != nil {
		return nil, fmt.Errorf("the client said %q", said)
	}
	return values, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
