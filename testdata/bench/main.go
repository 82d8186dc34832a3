// Command bench measures appfw beside the bare command and beside other tools, in one run: what gives one command a
// network of its own, explicit proxies and DNS caches, and policies of many rules. It prints Markdown tables, and
// draws the ratios to the bare command:
//
//	go run ./testdata/bench [-rounds N] [-time D] [-o FILE] [-plot FILE.svg]
//
// Started as root it runs in the simulated host of package internet, with all commands as an ordinary user; as an
// ordinary user it measures start-up, loopback and policies on the machine itself. Nothing leaves the machine either
// way.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		if do := map[string]func(args []string) error{clientCommand: client, relayCommand: relayFor}[os.Args[1]]; do != nil {
			if err := do(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	rounds := flag.Int("rounds", 5, "measure everything `N` times")
	span := flag.Duration("time", 500*time.Millisecond, "measure throughput and rates for `D` each")
	output := flag.String("o", "", "write the tables to `FILE` too")
	plot := flag.String("plot", "", "draw the ratios to `FILE`, an SVG")
	product := flag.String("appfw", "", "measure this `PROGRAM` instead of building appfw")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	t := new(tb)
	defer t.cleanup() // also of what Fatal ended
	if err := openManyFiles(); err != nil {
		t.Fatal("raising the limit of open files: ", err)
	}
	b := newBench(ctx, t, *product, *span)
	if err := b.measure(*rounds); err != nil {
		t.Fatal(err)
	}
	r := report{b.tables, b.machine(), fmt.Sprintf("%d rounds, interleaved; %v for each throughput and rate", *rounds, *span)}
	write(t, os.Stdout, r.markdown())
	for name, text := range map[string]func() string{*output: r.markdown, *plot: r.svg} {
		if name == "" {
			continue
		}
		file, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, text())
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *tb, to io.Writer, text string) {
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

// openManyFiles lets this program and all that it starts have as many connections as root lets it. Go does so for
// itself alone.
func openManyFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
