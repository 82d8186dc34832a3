// Command bench measures appfw against the bare command, against other tools that give one command a network of its
// own, and as an explicit proxy and a DNS cache against others, and prints Markdown tables:
//
//	go run ./testdata/bench [-rounds N] [-time D] [-o FILE]
//
// Started as root it runs in the simulated host of package internet, with all commands as an ordinary user; as an
// ordinary user it measures start-up and loopback on the machine itself. Nothing leaves the machine either way.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"
)

// patience is how long a command may take beyond the time it measures.
const patience = 20 * time.Second

func main() {
	if len(os.Args) > 1 && os.Args[1] == clientCommand {
		if err := client(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 7, "measure everything `N` times")
	span := flag.Duration("time", time.Second, "measure throughput and rates for `D` each")
	output := flag.String("o", "", "write the tables to `FILE` too")
	product := flag.String("appfw", "", "measure this `PROGRAM` instead of building appfw")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	t := new(tb)
	defer t.cleanup() // also of what Fatal ended
	b := newBench(ctx, t, *product, *span)
	b.measure(*rounds)
	if ctx.Err() != nil {
		t.Fatal("interrupted")
	}
	to := io.Writer(os.Stdout)
	if *output != "" {
		file, err := os.Create(*output)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		to = io.MultiWriter(to, file)
	}
	if err := report(to, b, *rounds); err != nil {
		t.Fatal(err)
	}
}

// place is where a measure's server is.
type place int

const (
	nowhere  place = iota
	far            // in the internet
	loopback       // on the host's 127.0.0.1
)

// figure is one number that a measure gives.
type figure struct{ name, unit string }

// measure is one run of a command in each tool.
type measure struct {
	mode    string // of the client; none: the start-up of date(1)
	place   place
	repeat  int      // runs in a round
	via     protocol // by which a proxy is asked; none: no proxy is used
	figures []figure
}

// table is what is measured in the same tools. The first is what the others are compared with.
type table struct {
	tools    []tool
	measures []measure
	results  [][]cell // by measure and tool
	missing  string   // why there is nothing of all this
}

var measures = []measure{
	{"", nowhere, 10, "", []figure{{"start to app", "ms"}, {"start to exit", "ms"}}},
	{"out", far, 1, "", []figure{{"bulk out", "Gbit/s"}}},
	{"in", far, 1, "", []figure{{"bulk in", "Gbit/s"}}},
	{"crr", far, 1, "", []figure{{"connect-request-response", "1/s"}, {"same, p50", "µs"}, {"same, p99", "µs"}}},
	{"dns", far, 1, "", []figure{{"DNS queries", "1/s"}}},
	{"out", loopback, 1, "", []figure{{"loopback, bulk out", "Gbit/s"}}},
	{"in", loopback, 1, "", []figure{{"loopback, bulk in", "Gbit/s"}}},
	{"crr", loopback, 1, "", []figure{{"loopback, connect-request-response", "1/s"}, {"same, p50", "µs"}, {"same, p99", "µs"}}},
}

// cell is what one tool gave for one measure: for each figure the samples of all rounds, or why there are none.
type cell struct {
	samples [][]float64
	failed  error
	none    bool // the tool does not do this
}

// measure runs everything and keeps the results in the tables.
func (b *bench) measure(rounds int) {
	for i := range b.tables {
		b.tables[i].prepare(b.internet == nil)
	}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "bench: round %d of %d\n", round+1, rounds)
		for _, t := range b.tables {
			for i, m := range t.measures {
				for range m.repeat {
					for k := range t.tools {
						j := (k + round) % len(t.tools) // nobody is always the first
						b.sample(t.tools[j], m, &t.results[i][j])
					}
				}
			}
		}
	}
}

// prepare makes the cells. alone tells that there is no internet.
func (t *table) prepare(alone bool) {
	t.results = make([][]cell, len(t.measures))
	for i, m := range t.measures {
		t.results[i] = make([]cell, len(t.tools))
		for j := range t.results[i] {
			t.results[i][j].samples = make([][]float64, len(m.figures))
			t.results[i][j].none = m.place == far && alone || m.mode != "" && t.tools[j].startOnly ||
				t.tools[j].proxy != "" && !slices.Contains(t.tools[j].speaks, m.via)
		}
	}
}

// sample runs a measure once more, unless it failed before.
func (b *bench) sample(t tool, m measure, c *cell) {
	if c.none || c.failed != nil || t.missing || b.ctx.Err() != nil {
		return
	}
	var values []float64
	if values, c.failed = b.run(t, m); c.failed != nil {
		return
	}
	for f, v := range values {
		c.samples[f] = append(c.samples[f], v)
	}
}

// copyProgram puts a program where every user can run it.
func copyProgram(from, dir, name string) (string, error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, name)
	return to, os.WriteFile(to, data, 0o755)
}
