package bench

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// WriteMarkdown writes the report as tables, one for each underlay.
func (r *Report) WriteMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	r.writeHead(b)
	for _, u := range r.Underlays {
		fmt.Fprintf(b, "\n### Underlay: %s\n\n%s\n\n", u.Title, featureList(u.Features))
		b.WriteString("| load | row | figure (range) | ÷ kernel | offered | received | lost | retransmits | CPU s/GB | daemon CPU s/GB | daemon peak RSS |\n")
		b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
		for _, l := range u.Loads {
			for _, lane := range l.Lanes {
				lane.writeRows(b, l.Title)
			}
		}
	}
	if f := r.Failures(); len(f) > 0 {
		b.WriteString("\nNot measured:\n\n")
		for _, line := range f {
			fmt.Fprintf(b, "- %s\n", plainText(line))
		}
	}
	return b.Flush()
}

func (r *Report) writeHead(b *bufio.Writer) {
	m := r.Machine
	or := func(s string) string {
		if s == "" {
			return "unknown"
		}
		return plainText(s)
	}
	fmt.Fprintf(b, "- Date: %s\n", r.Started.Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(b, "- Kernel: Linux %s, %s\n", m.Kernel, m.Arch)
	fmt.Fprintf(b, "- CPU: %s, %d cores; load average before the run: %s\n", or(m.CPU), m.Cores, or(m.Load))
	fmt.Fprintf(b, "- Versions: %s; benchmarks built by %s\n", or(m.Overtap), m.Go)
	fmt.Fprintf(b, "- Method: turns of %g s, rows taking turns; medians of %d. Counts and costs are those of the median turn. "+
		"Both hosts and the load's generators share this machine's CPUs: read ratios. "+
		"For round trips less is better.\n", r.Seconds, r.Runs)
}

// plainText makes a line of s that Markdown takes for no markup of HTML.
func plainText(s string) string {
	return strings.NewReplacer("\n", " ", "&", "&amp;", "<", "&lt;").Replace(s)
}

// featureList returns which features are on and which are off.
func featureList(features map[string]bool) string {
	var on, off []string
	for name, is := range features {
		if is {
			on = append(on, name)
		} else {
			off = append(off, name)
		}
	}
	slices.Sort(on)
	slices.Sort(off)
	list := func(names []string) string {
		if len(names) == 0 {
			return "none"
		}
		return "`" + strings.Join(names, "` `") + "`"
	}
	return fmt.Sprintf("On: %s. Off: %s.", list(on), list(off))
}

// writeRows writes a row for each value.
func (l LaneResult) writeRows(b *bufio.Writer, load string) {
	if len(l.Values) == 0 {
		fmt.Fprintf(b, "| %s | %s | not measured%s\n", load, l.Title, strings.Repeat(" | –", 8)+" |")
		return
	}
	for _, v := range l.Values {
		s := l.Samples[v.Turn]
		name := load
		if len(l.Values) > 1 {
			name += ": " + v.Name
		}
		ratio := "–"
		if v.Ratio > 0 {
			ratio = strconv.FormatFloat(v.Ratio, 'f', 2, 64)
		}
		fmt.Fprintf(b, "| %s | %s | %s %s (%s–%s) | %s | %s |\n", name, l.Title,
			number(v.Median), v.Unit, number(v.Min), number(v.Max), ratio, strings.Join(s.columns(v), " | "))
	}
}

// columns are what stands beside the figure: offered, received, lost,
// retransmits, CPU seconds per Gbyte of the machine and the daemons, and memory.
func (s Sample) columns(v Value) []string {
	cost := []string{"–", "–", "–"}
	if s.Cost.PerGB > 0 {
		cost[0] = number(s.Cost.PerGB)
	}
	if s.Cost.PeakRSS > 0 {
		if s.payload() > 0 {
			cost[1] = number(s.Cost.DaemonPerGB)
		}
		cost[2] = fmt.Sprintf("%.0f MiB", float64(s.Cost.PeakRSS)/(1<<20))
	}
	switch v.Name {
	case tcpRate.Name:
		c := s.TCP.Counts
		return append([]string{byteCount(c.Offered), byteCount(c.Received), share(c), strconv.FormatInt(s.TCP.Retransmits, 10)}, cost...)
	case udpRate.Name, daemonPerPacket.Name:
		lost := share(s.UDP.Counts)
		if own := (Counts{Offered: s.UDP.Offered, Lost: s.UDP.Overflowed}); own.LossShare() >= 0.01 {
			lost += fmt.Sprintf(" (%s at the receiver's socket)", share(own))
		}
		return append([]string{count(s.UDP.Offered), count(s.UDP.Received), lost, "–"}, cost...)
	}
	c := s.RTT.Counts
	return append([]string{count(c.Offered), count(c.Received), share(c), "–"}, cost...)
}

func share(c Counts) string {
	if c.Lost == 0 {
		return "0"
	}
	return strconv.FormatFloat(100*c.LossShare(), 'f', 2, 64) + " %"
}

// count writes a count to three digits.
func count(n int64) string {
	switch {
	case n >= 1e6:
		return number(float64(n)/1e6) + " M"
	case n >= 10e3:
		return number(float64(n)/1e3) + " k"
	}
	return strconv.FormatInt(n, 10)
}

// byteCount writes a number of bytes to three digits.
func byteCount(n int64) string {
	if n >= 1e9 {
		return number(float64(n)/1e9) + " GB"
	}
	return number(float64(n)/1e6) + " MB"
}

// number writes three significant digits without an exponent.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	return strconv.FormatFloat(v, 'f', min(digits, 6), 64)
}
