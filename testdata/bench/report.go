package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// noisy is the spread, as a share of the median, above which a figure is marked.
const noisy = 0.25

// report writes the tables.
func report(w io.Writer, b *bench, rounds int) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %d cores, Linux %s. %d rounds, interleaved; %v for each throughput and rate.\n",
		processor(), runtime.NumCPU(), kernel(), rounds, b.span)
	fmt.Fprintf(&text, "Each cell: median ± half the interquartile range (median ratio to the first column). "+
		"\"noisy\": interquartile range above %.0f %% of the median.\n", noisy*100)
	if b.internet == nil {
		text.WriteString("Not root: start-up and loopback only, on the machine's own network.\n")
	}
	for _, table := range b.tables {
		if table.missing != "" {
			fmt.Fprintln(&text, table.missing)
		}
		for _, t := range table.tools {
			if t.missing {
				fmt.Fprintf(&text, "%s: not measured, as %s is not installed.\n", t.name, t.needs)
			}
		}
	}
	for _, table := range b.tables {
		table.write(&text, b.internet == nil)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// write writes the table. alone tells that there is no internet.
func (t *table) write(text *strings.Builder, alone bool) {
	if t.missing != "" {
		return
	}
	text.WriteString("\n|  |")
	for _, t := range t.tools {
		fmt.Fprintf(text, " %s |", t.name)
	}
	text.WriteString("\n|---|" + strings.Repeat("---:|", len(t.tools)) + "\n")
	for i, m := range t.measures {
		if m.place == far && alone {
			continue
		}
		for f, figure := range m.figures {
			fmt.Fprintf(text, "| %s, %s |", figure.name, figure.unit)
			for j := range t.tools {
				fmt.Fprintf(text, " %s |", format(t.results[i][j], t.results[i][0], f))
			}
			text.WriteString("\n")
		}
	}
}

// format is the text of a cell, compared with the first of its row.
func format(c, first cell, figure int) string {
	switch {
	case c.failed != nil:
		return "failed: " + strings.NewReplacer("|", "/", "\n", " ").Replace(c.failed.Error())
	case len(c.samples[figure]) == 0:
		return "–"
	}
	samples := slices.Sorted(slices.Values(c.samples[figure]))
	median := quantile(samples, 0.5)
	spread := quantile(samples, 0.75) - quantile(samples, 0.25)
	digits := min(max(2-int(math.Floor(math.Log10(median))), 0), 3)
	text := fmt.Sprintf("%.*f ± %.*f", digits, median, digits, spread/2)
	var ratios []float64 // of runs next to each other
	for i := range min(len(c.samples[figure]), len(first.samples[figure])) {
		ratios = append(ratios, c.samples[figure][i]/first.samples[figure][i])
	}
	if len(ratios) > 0 {
		slices.Sort(ratios)
		text += fmt.Sprintf(" (%.2f×)", quantile(ratios, 0.5))
	}
	if spread > noisy*median {
		text += " noisy"
	}
	return text
}

// quantile interpolates between the two nearest of sorted values, of which there is at least one.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // none is none
	if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(info); m != nil {
		return string(m[1])
	}
	return runtime.GOARCH
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}
