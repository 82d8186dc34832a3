package main

import (
	"fmt"
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

// report is what was measured, where and how.
type report struct {
	tables       []table
	machine, how string
}

// summary is what a tool's samples of a figure come to.
type summary struct {
	median, spread      float64 // spread is the interquartile range
	ratio               float64 // the median of those to the first tool, of runs next to each other; NaN: none
	lowRatio, highRatio float64 // its quartiles
	tooNoisy            bool    // to be quoted
}

// summarize returns the summary of figure f of measure i for tool j, unless there is none.
func (t *table) summarize(i, j, f int) (s summary, ok bool) {
	all, first := t.results[i][j].samples[f], t.results[i][0].samples[f]
	if len(all) == 0 || t.results[i][j].failed != nil {
		return s, false
	}
	samples := slices.Sorted(slices.Values(all))
	s.median, s.spread = quantile(samples, 0.5), quantile(samples, 0.75)-quantile(samples, 0.25)
	s.ratio = math.NaN()
	figure := t.measures[i].figures[f]
	s.tooNoisy = figure.unit != "%" && s.spread > noisy*s.median // a loss may be none
	if len(first) == 0 || figure.absolute() {
		return s, true
	}
	var ratios []float64
	for k := range min(len(all), len(first)) {
		ratios = append(ratios, all[k]/first[k])
	}
	slices.Sort(ratios)
	s.ratio, s.lowRatio, s.highRatio = quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75)
	s.tooNoisy = s.tooNoisy || s.highRatio-s.lowRatio > noisy*s.ratio
	return s, true
}

// markdown is the report as tables.
func (r report) markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s. %s.\n", r.machine, r.how)
	fmt.Fprintf(&text, "Each cell: median ± half the interquartile range (median ratio to the first column). "+
		"\"noisy\", too much to quote: interquartile range of the figure or of the ratio above %.0f %% of its median.\n", noisy*100)
	for i := range r.tables {
		r.tables[i].markdown(&text)
	}
	return text.String()
}

func (t *table) markdown(text *strings.Builder) {
	fmt.Fprintf(text, "\n**%s**\n\n", t.title)
	if t.missing != "" {
		fmt.Fprintf(text, "Not measured: %s.\n", t.missing)
		return
	}
	for _, tool := range t.tools {
		if tool.missing != "" {
			fmt.Fprintf(text, "%s: not measured, as %s.\n\n", tool.name, tool.missing)
		}
	}
	text.WriteString("|  |")
	for _, tool := range t.tools {
		fmt.Fprintf(text, " %s |", tool.name)
	}
	text.WriteString("\n|---|" + strings.Repeat("---:|", len(t.tools)) + "\n")
	for i, m := range t.measures {
		for f, figure := range m.figures {
			fmt.Fprintf(text, "| %s, %s |", figure.name, figure.unit)
			for j := range t.tools {
				fmt.Fprintf(text, " %s |", t.format(i, j, f))
			}
			text.WriteString("\n")
		}
	}
}

// format is the text of a cell.
func (t *table) format(i, j, f int) string {
	if failed := t.results[i][j].failed; failed != nil {
		return "failed: " + strings.NewReplacer("|", "/", "\n", " ").Replace(failed.Error())
	}
	s, ok := t.summarize(i, j, f)
	if !ok {
		return "–"
	}
	text := fmt.Sprintf("%.*f ± %.*f", digits(s.median), s.median, digits(s.median), s.spread/2)
	if !math.IsNaN(s.ratio) {
		text += " (" + times(s.ratio) + ")"
	}
	if s.tooNoisy {
		text += " noisy"
	}
	return text
}

// digits is how many to show behind the point, of three that tell something.
func digits(x float64) int {
	if x <= 0 {
		return 0
	}
	return min(max(2-int(math.Floor(math.Log10(x))), 0), 3)
}

// times is the text of a ratio.
func times(ratio float64) string { return fmt.Sprintf("%.*f", min(digits(ratio), 2), ratio) }

// quantile interpolates between the two nearest of sorted values, of which there is at least one.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// machine describes where this runs.
func (b *bench) machine() string {
	processor := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo") // none is none
	if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(info); m != nil {
		processor = string(m[1])
	}
	kernel, memory := "?", 0.
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	var system unix.Sysinfo_t
	if unix.Sysinfo(&system) == nil {
		memory = float64(system.Totalram) * float64(system.Unit) / (1 << 30)
	}
	user := ""
	if b.internet == nil {
		user = ", on the machine's own network, not as root"
	}
	return fmt.Sprintf("%s, %d cores, %.0f GiB, Linux %s%s", processor, runtime.NumCPU(), memory, kernel, user)
}
