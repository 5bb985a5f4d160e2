package bench

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Measures of the picture, in pixels.
const (
	svgWidth    = 960
	svgLeft     = 370 // where bars begin
	svgRight    = 150 // room for what stands behind the longest
	svgBar      = 11
	svgBarStep  = 14
	svgGroupGap = 9
	svgLine     = 18 // of text
	svgMargin   = 16
)

// svgStyle has colours for light and for dark pages. The picture brings its own
// background, for where it is shown does not say which it is.
const svgStyle = `<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 15px; font-weight: 600; }
.note { fill: #59636e; }
.page { fill: #ffffff; }
.grid { stroke: #d1d9e0; }
.one { stroke: #1f2328; stroke-dasharray: 4 3; }
.plain { fill: #9aa4af; }
.out { fill: #0969da; }
.in { fill: #1b9e8a; }
.two { fill: #d4731c; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.note { fill: #9198a1; }
.page { fill: #0d1117; }
.grid { stroke: #30363d; }
.one { stroke: #e6edf3; }
.plain { fill: #6e7781; }
.out { fill: #4493f8; }
.in { fill: #3fb9a5; }
.two { fill: #e3924a; }
}
</style>
`

// barClass returns the style of a lane's bars.
func barClass(l Lane) string {
	switch {
	case l.Row == Plain || l.Row == Routed:
		return "plain"
	case l.Row == Overtap2 || l.Row == IPIP:
		return "two"
	case l.Reverse:
		return "in"
	}
	return "out"
}

// bar is one bar of the picture.
type bar struct {
	lane   Lane
	length float64 // in units of the kernel's
	text   string
}

// group is the bars of one figure of one load.
type group struct {
	label string
	bars  []bar
}

// groups returns what there is to draw of the underlay: all that has a ratio,
// but the kernel's row, which is the measure.
func (u Underlay) groups() (gs []group) {
	for _, l := range u.Loads {
		byFigure := map[string]*group{}
		var order []string
		for _, lane := range l.Lanes {
			for _, v := range lane.Values {
				if lane.Row == Kernel || v.Ratio <= 0 {
					continue
				}
				g := byFigure[v.Name]
				if g == nil {
					g = &group{label: l.Title}
					if len(lane.Values) > 1 {
						g.label += ": " + v.Name
					}
					byFigure[v.Name] = g
					order = append(order, v.Name)
				}
				length := v.Ratio
				if v.LowerIsBetter {
					length = 1 / v.Ratio
				}
				g.bars = append(g.bars, bar{lane.Lane, length,
					fmt.Sprintf("%.2f · %s %s", length, number(v.Median), v.Unit)})
			}
		}
		for _, name := range order {
			gs = append(gs, *byFigure[name])
		}
	}
	return gs
}

// picture writes SVG from top to bottom.
type picture struct {
	*bufio.Writer
	y     float64
	scale float64 // pixels for 1
	max   float64 // of the axis
}

// WriteSVG draws the ratios to the kernel as bars, longer is better.
func (r *Report) WriteSVG(w io.Writer) error {
	longest, height := 1.0, 0.0
	var lanes []Lane
	panels := make([][]group, len(r.Underlays))
	for i, u := range r.Underlays {
		panels[i] = u.groups()
		height += 3.5 * svgLine
		for _, g := range panels[i] {
			height += float64(len(g.bars)*svgBarStep + svgGroupGap)
			for _, b := range g.bars {
				longest = max(longest, b.length)
				if !slices.Contains(lanes, b.lane) {
					lanes = append(lanes, b.lane)
				}
			}
		}
	}
	height += 4*svgLine + 2*svgMargin
	p := &picture{Writer: bufio.NewWriter(w), y: svgMargin, max: math.Ceil(longest*4) / 4}
	p.scale = (svgWidth - svgLeft - svgRight) / p.max
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" role="img">`+"\n",
		svgWidth, height, svgWidth, height)
	fmt.Fprintf(p, "<title>overtap beside the kernel&#39;s vxlan, ratios in one run</title>\n%s", svgStyle)
	fmt.Fprintf(p, `<rect class="page" width="%d" height="%.0f"/>`+"\n", svgWidth, height)
	p.head(r, lanes)
	for i, u := range r.Underlays {
		p.panel(u.Title, panels[i])
	}
	p.WriteString("</svg>\n")
	return p.Flush()
}

func (p *picture) text(x float64, class, anchor, s string) {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	fmt.Fprintf(p, `<text class="%s" x="%.0f" y="%.0f" text-anchor="%s">%s</text>`+"\n", class, x, p.y, anchor, &b)
}

// head writes what the picture is of, and the legend.
func (p *picture) head(r *Report, lanes []Lane) {
	p.y += svgLine
	p.text(svgMargin, "title", "start", "Ratio to the kernel's vxlan, same run; longer is better")
	p.y += svgLine
	p.text(svgMargin, "note", "start", fmt.Sprintf("Linux %s, %s, %d cores, %s; medians of %d. Round trips are inverted.",
		r.Machine.Kernel, r.Machine.CPU, r.Machine.Cores, r.Started.Format("2006-01-02"), r.Runs))
	p.y += 1.5 * svgLine
	x := float64(svgMargin)
	for _, l := range lanes {
		fmt.Fprintf(p, `<rect class="%s" x="%.0f" y="%.0f" width="%d" height="%d"/>`+"\n", barClass(l), x, p.y-10, svgBar, svgBar)
		p.text(x+svgBar+5, "", "start", l.String())
		x += 150
	}
	p.y += 0.5 * svgLine
}

// panel draws one underlay.
func (p *picture) panel(title string, groups []group) {
	p.y += 1.5 * svgLine
	p.text(svgMargin, "title", "start", "Underlay: "+title)
	p.y += svgLine
	height := float64(svgGroupGap)
	for _, g := range groups {
		height += float64(len(g.bars)*svgBarStep + svgGroupGap)
	}
	step := 0.25
	for p.max/step > 8 {
		step *= 2
	}
	line := func(v float64, class string) {
		x := svgLeft + v*p.scale
		p.text(x, "note", "middle", fmt.Sprintf("%.4g", v))
		fmt.Fprintf(p, `<line class="%s" x1="%.1f" y1="%.0f" x2="%.1f" y2="%.0f"/>`+"\n", class, x, p.y+4, x, p.y+height)
	}
	for v := 0.0; v <= p.max; v += step {
		if v != 1 {
			line(v, "grid")
		}
	}
	line(1, "one")
	p.y += svgGroupGap
	for _, g := range groups {
		top := p.y
		p.y += float64(len(g.bars)*svgBarStep)/2 + 4
		p.text(svgLeft-10, "", "end", g.label)
		p.y = top
		for _, b := range g.bars {
			fmt.Fprintf(p, `<rect class="%s" x="%d" y="%.0f" width="%.1f" height="%d"/>`+"\n",
				barClass(b.lane), svgLeft, p.y, b.length*p.scale, svgBar)
			p.y += svgBar - 1
			p.text(svgLeft+b.length*p.scale+6, "note", "start", b.text)
			p.y += svgBarStep - svgBar + 1
		}
		p.y += svgGroupGap
	}
}
