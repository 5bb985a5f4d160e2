package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"overtap/bench"
	"overtap/bench/traffic"
)

// Result is what one run of one attack came to in one column.
type Result struct {
	Attack string `json:"attack"`
	Title  string `json:"title"`
	Column string `json:"column"`

	Sent      int64   `json:"sent"`    // frames of the attack that the sender's kernel took
	Took      float64 `json:"seconds"` // of sending
	Delivered uint64  `json:"delivered"`

	Before traffic.ProbeResult `json:"probe_before"`
	During traffic.ProbeResult `json:"probe_during"`
	After  traffic.ProbeResult `json:"probe_after"`

	TCPBefore float64 `json:"tcp_before"` // bit/s; 0 = not measured
	TCPDuring float64 `json:"tcp_during"`

	Entries int   `json:"entries"`        // learned by the tunnel's end, in all
	Bridge  int   `json:"bridge_entries"` // learned by the bridge before it, at all its ports
	Memory  int64 `json:"memory_kib"`     // grown by the attack: resident, or of the kernel its slabs

	// Of overtap.
	Unlearned     uint64            `json:"unlearned"` // frames delivered without learning
	Moves         uint64            `json:"moves"`
	Frozen        int               `json:"frozen"`
	Drops         map[string]uint64 `json:"drops"`
	SocketDropped uint64            `json:"socket_dropped"`
}

// compare fills in what the attack left behind.
func (r *Result) compare(before, after seen) {
	r.Delivered = after.delivered - before.delivered
	r.Entries, r.Bridge = after.entries, after.bridge
	r.Memory = after.memory - before.memory
	for i, n := range after.stats.Networks {
		was := before.stats.Networks[i]
		r.Unlearned += n.LearnRefused + n.LearnQuota + n.LearnFrozen + n.LearnBusy -
			was.LearnRefused - was.LearnQuota - was.LearnFrozen - was.LearnBusy
		r.Moves += n.LearnMoved - was.LearnMoved
		r.Frozen += n.Frozen
	}
	r.Drops = map[string]uint64{}
	for _, d := range after.stats.Drops {
		r.Drops[d.Reason.String()] += d.Count
	}
	for _, d := range before.stats.Drops {
		if r.Drops[d.Reason.String()] -= d.Count; r.Drops[d.Reason.String()] == 0 {
			delete(r.Drops, d.Reason.String())
		}
	}
	for i, w := range after.stats.Wire {
		r.SocketDropped += w.SocketDropped - before.stats.Wire[i].SocketDropped
	}
}

func (r *Result) rate() float64 {
	if r.Took == 0 {
		return 0
	}
	return float64(r.Sent) / r.Took
}

// report is a run of the command.
type report struct {
	Machine bench.Machine `json:"machine"`
	Seconds float64       `json:"seconds"` // of each phase
	Runs    int           `json:"runs"`
	Results []Result      `json:"results"`
}

// figure is a line of a table: the median of its parts over the runs, printed
// together.
type figure struct {
	title string
	parts []func(*Result) float64
	print func(v []float64) string
}

func part[T int | int64 | uint64 | float64 | time.Duration](f func(*Result) T) func(*Result) float64 {
	return func(r *Result) float64 { return float64(f(r)) }
}

var figures = []figure{
	{"attack", []func(*Result) float64{(*Result).rate}, func(v []float64) string { return count(v[0]) + "/s" }},
	{"frames that reached the container", []func(*Result) float64{part(func(r *Result) uint64 { return r.Delivered })}, counts},
	{"probe lost: before, during, after", []func(*Result) float64{
		func(r *Result) float64 { return 100 * r.Before.Loss() },
		func(r *Result) float64 { return 100 * r.During.Loss() },
		func(r *Result) float64 { return 100 * r.After.Loss() },
	}, each(func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) + " %" })},
	{"probe's round trip, p99: before, during, after", []func(*Result) float64{
		part(func(r *Result) time.Duration { return r.Before.P99 }),
		part(func(r *Result) time.Duration { return r.During.P99 }),
		part(func(r *Result) time.Duration { return r.After.P99 }),
	}, each(func(v float64) string {
		if v == 0 {
			return "none returned"
		}
		return strconv.FormatFloat(v/1e6, 'f', 2, 64) + " ms"
	})},
	{"TCP: before, during", []func(*Result) float64{
		func(r *Result) float64 { return r.TCPBefore }, func(r *Result) float64 { return r.TCPDuring },
	}, each(func(v float64) string { return strconv.FormatFloat(v/1e9, 'f', 2, 64) + " Gbit/s" })},
	{"MACs learned by the tunnel's end", []func(*Result) float64{part(func(r *Result) int { return r.Entries })}, counts},
	{"MACs learned by the bridge before it", []func(*Result) float64{part(func(r *Result) int { return r.Bridge })}, counts},
	{"memory grown (overtap: resident; kernel: slabs)", []func(*Result) float64{part(func(r *Result) int64 { return r.Memory })},
		each(func(v float64) string { return strconv.FormatFloat(v/1024, 'f', 1, 64) + " MiB" })},
	{"frames not learned from", []func(*Result) float64{part(func(r *Result) uint64 { return r.Unlearned })}, counts},
	{"moves, MACs frozen", []func(*Result) float64{
		part(func(r *Result) uint64 { return r.Moves }), part(func(r *Result) int { return r.Frozen }),
	}, counts},
	{"dropped under a name", []func(*Result) float64{part(func(r *Result) (n uint64) {
		for _, d := range r.Drops {
			n += d
		}
		return n
	})}, counts},
	{"dropped at the socket's queue", []func(*Result) float64{part(func(r *Result) uint64 { return r.SocketDropped })}, counts},
}

// each prints parts one after the other.
func each(one func(float64) string) func([]float64) string {
	return func(v []float64) (s string) {
		for i, x := range v {
			if i > 0 {
				s += ", "
			}
			s += one(x)
		}
		return s
	}
}

func counts(v []float64) string { return each(count)(v) }

// count writes a count to three digits.
func count(n float64) string {
	switch {
	case n >= 1e6:
		return strconv.FormatFloat(n/1e6, 'f', 2, 64) + " M"
	case n >= 1e3:
		return strconv.FormatFloat(n/1e3, 'f', 1, 64) + " k"
	}
	return strconv.FormatFloat(n, 'f', 0, 64)
}

// median returns that of each part over the runs.
func (f figure) median(runs []*Result) []float64 {
	var out []float64
	for _, p := range f.parts {
		var all []float64
		for _, r := range runs {
			all = append(all, p(r))
		}
		slices.Sort(all)
		out = append(out, all[(len(all)-1)/2])
	}
	return out
}

// writeMarkdown writes a table for each attack, a column for each who ended the
// tunnel. A line that is zero everywhere is left out.
func (r *report) writeMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	m := r.Machine
	fmt.Fprintf(b, "Linux %s, %s, %s, %d cores; %s. Phases of %g s, medians of %d.\n", m.Kernel, m.Arch, m.CPU, m.Cores, m.Overtap, r.Seconds, r.Runs)
	for start := 0; start < len(r.Results); {
		end := start
		var columns []string
		runs := map[string][]*Result{}
		for ; end < len(r.Results) && r.Results[end].Attack == r.Results[start].Attack; end++ {
			one := &r.Results[end]
			if runs[one.Column] == nil {
				columns = append(columns, one.Column)
			}
			runs[one.Column] = append(runs[one.Column], one)
		}
		fmt.Fprintf(b, "\n### %s\n\n| |", r.Results[start].Title)
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", c)
		}
		fmt.Fprintf(b, "\n| --- |")
		for range columns {
			fmt.Fprintf(b, " --- |")
		}
		fmt.Fprintln(b)
		for _, f := range figures {
			line, something := "| "+f.title+" |", false
			for _, c := range columns {
				v := f.median(runs[c])
				something = something || slices.ContainsFunc(v, func(x float64) bool { return x != 0 })
				line += " " + f.print(v) + " |"
			}
			if something {
				fmt.Fprintln(b, line)
			}
		}
		start = end
	}
	return b.Flush()
}
