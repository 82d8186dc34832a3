package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of the drawing, in pixels.
const (
	plotWidth = 760
	barsFrom  = 130 // left of it are names
	barsTo    = 600 // right of it are numbers
	barHeight = 8
	lineStep  = 13
)

// plotHead has colours for light and for dark surroundings.
const plotHead = `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="11" role="img">
<title>appfw and others, as ratios to the bare command</title>
<style>
.back { fill: #ffffff } text { fill: #24292f } .dim { fill: #656d76 } .head { font-size: 13px; font-weight: bold }
.bar { fill: #afb8c1 } .ours { fill: #0969da } .noisy { opacity: .4 } .one, .spread { stroke: #24292f } .one { stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #9198a1 }
.bar { fill: #57606a } .ours { fill: #4493f8 } .one, .spread { stroke: #e6edf3 }
}
</style>
<rect class="back" width="100%%" height="100%%"/>
`

// svg draws the ratios to the first tool of each table.
func (r report) svg() string {
	d := new(drawing)
	for i := range r.tables {
		d.table(&r.tables[i])
	}
	d.line(1.5)
	d.write(10, "dim", "Ratios to the bare command (dashed): medians, with the quartiles as a line. Faint: too noisy to quote.")
	for _, text := range []string{r.machine, r.how} {
		d.line(1)
		d.write(10, "dim", text)
	}
	d.line(1)
	return fmt.Sprintf(plotHead, plotWidth, d.y) + d.text.String() + "</svg>\n"
}

// drawing grows downwards.
type drawing struct {
	text strings.Builder
	y    int // of the line's baseline
}

func (d *drawing) line(steps float64) { d.y += int(steps * lineStep) }

func (d *drawing) write(x float64, class, text string) {
	fmt.Fprintf(&d.text, "<text class=%q x=\"%.1f\" y=\"%d\">%s</text>\n", class, x, d.y, html.EscapeString(text))
}

// table draws those of a table's figures that are to be plotted.
func (d *drawing) table(t *table) {
	scale, better := 1., ""
	t.ratios(func(_, _, _ int, figure figure, s summary) {
		scale = max(scale, s.ratio, s.highRatio)
		if better = "longer is better"; figure.less() {
			better = "shorter is better"
		}
	})
	if better == "" {
		return
	}
	d.line(1.5)
	d.write(10, "head", t.title)
	d.write(barsTo+10, "dim", better)
	x := func(ratio float64) float64 { return barsFrom + ratio/scale*(barsTo-barsFrom) }
	last := -1
	t.ratios(func(i, j, f int, figure figure, s summary) {
		if i != last {
			d.line(1.2)
			first, _ := t.summarize(i, 0, f)
			d.write(10, "", fmt.Sprintf("%s: bare %.*f %s", figure.name, digits(first.median), first.median, figure.unit))
			last = i
		}
		d.line(1)
		d.bar(t.tools[j].name, x(s.ratio), s.tooNoisy)
		fmt.Fprintf(&d.text, "<path class=\"spread\" d=\"M%.1f %dH%.1f\"/>\n", x(s.lowRatio), d.y-barHeight/2+1, x(s.highRatio))
		fmt.Fprintf(&d.text, "<path class=\"one\" d=\"M%.1f %dv-%d\"/>\n", x(1), d.y+2, lineStep)
		d.write(barsTo+10, "", fmt.Sprintf("%s (%.*f %s)", times(s.ratio), digits(s.median), s.median, figure.unit))
	})
}

func (d *drawing) bar(name string, to float64, tooNoisy bool) {
	class := "bar"
	if name == "appfw" {
		class = "ours"
	}
	if tooNoisy {
		class += " noisy"
	}
	fmt.Fprintf(&d.text, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", barsFrom-6, d.y, html.EscapeString(name))
	fmt.Fprintf(&d.text, "<rect class=%q x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", class, barsFrom, d.y-barHeight+1, to-barsFrom, barHeight)
}

// ratios calls draw for each ratio that is to be plotted: figure f of measure i in tool j.
func (t *table) ratios(draw func(i, j, f int, figure figure, s summary)) {
	for i, m := range t.measures {
		for f, figure := range m.figures {
			for j := 1; j < len(t.tools) && figure.plot; j++ {
				if s, ok := t.summarize(i, j, f); ok && !math.IsNaN(s.ratio) {
					draw(i, j, f, figure, s)
				}
			}
		}
	}
}
