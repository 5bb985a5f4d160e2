package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
)

// maxFailures bounds how many of one kind are kept.
const maxFailures = 10

// tally counts what was sent one by one.
type tally struct{ sent, lost, twice int64 }

// report is what came of a soak. Its tasks add to it.
type report struct {
	options options
	began   time.Time
	took    time.Duration

	mu                         sync.Mutex
	wrong                      []string
	kinds                      map[string]int // of what is wrong
	deeds                      map[string]int
	moving                     []time.Duration
	streams                    int
	streamBytes, retransmits   int64
	datagrams, pings, stations tally
	probes                     []probeResult
	samples                    [2][]sample
	drops                      [2]dropCounts
	frames, socketDropped      [2]uint64
	kernelDrops                map[string]uint64 // by host and device
	misses                     []string          // the first losses of several frames
}

func (r *report) add(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *report) count(deed string) {
	if r.deeds == nil {
		r.deeds = make(map[string]int)
	}
	r.deeds[deed]++
}

// failed notes an error; nil is none.
func (r *report) failed(what string, err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kinds == nil {
		r.kinds = make(map[string]int)
	}
	if r.kinds[what]++; r.kinds[what] <= maxFailures {
		line := fmt.Sprintf("%s, after %v: %v", what, time.Since(r.began).Round(time.Second), err)
		r.wrong = append(r.wrong, line)
		fmt.Fprintln(r.options.log, line)
	}
}

// missed notes when several frames were lost together.
func (r *report) missed(what string, lost int64) {
	if lost == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.misses) < maxFailures {
		r.misses = append(r.misses, fmt.Sprintf("%s: %d lost, after %v", what, lost, time.Since(r.began).Round(time.Second)))
	}
}

// congestion is what honest frames may be dropped as on a machine that is too busy.
var congestion = []dataplane.Drop{dataplane.DropTapFull, dataplane.DropWireFull}

// losses are the frames that were lost without a move being the reason, and how many
// of them the daemons and the kernel say they dropped because the machine was too
// busy.
func (r *report) losses() (lost, named int64) {
	lost = r.datagrams.lost + r.pings.lost + r.stations.lost
	for _, p := range r.probes {
		lost += int64(p.lost - p.excused)
	}
	for i := range r.drops {
		named += int64(r.socketDropped[i])
		for _, d := range congestion {
			named += int64(r.drops[i][d])
		}
	}
	for _, n := range r.kernelDrops {
		named += int64(n)
	}
	return lost, min(named, lost)
}

// failures are all that is not as it should be.
func (r *report) failures() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, misses := slices.Clone(r.wrong), slices.Clone(r.misses)
	for _, p := range r.probes {
		if p.sent == 0 || p.sent == p.lost {
			all = append(all, fmt.Sprintf("probe %s: nothing came back", p.name))
		}
		if p.strange != 0 {
			all = append(all, fmt.Sprintf("probe %s: %d answers to nothing that was sent", p.name, p.strange))
		}
		for _, at := range p.worst {
			misses = append(misses, fmt.Sprintf("probe %s: lost after %v", p.name, at.Sub(r.began).Round(time.Millisecond)))
		}
	}
	if lost, named := r.losses(); lost > named {
		all = append(all, fmt.Sprintf("%d frames were lost, of which the daemons and the kernel account for %d", lost, named))
		all = append(all, misses...)
	}
	if r.streams == 0 || r.datagrams.sent == 0 || r.pings.sent == 0 || r.stations.sent == 0 || len(r.moving) == 0 {
		all = append(all, "not every kind of traffic and churn took place")
	}
	for i := range r.samples {
		for k, kind := range kinds {
			t, ok := r.trend(i, k)
			switch {
			case !ok:
				all = append(all, fmt.Sprintf("host %s: too few samples", hostNames[i]))
			case t.grown:
				all = append(all, fmt.Sprintf("host %s: %s grew from %.1f to %.1f, and were %.1f at the most", hostNames[i], kind.name, t.first, t.last, t.most))
			}
		}
	}
	return all
}

var hostNames = [2]string{"a", "b"}

// trend is that of a kind at a host.
func (r *report) trend(host, kind int) (trend, bool) {
	var values []float64
	for _, s := range r.samples[host] {
		values = append(values, s[kind])
	}
	t, ok := trendOf(values, kinds[kind].room, kinds[kind].most)
	t.grown = t.grown && r.took >= kinds[kind].after
	return t, ok
}

// write prints the page.
func (r *report) write(w io.Writer) error {
	wrong := r.failures()
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	var u unix.Utsname
	_ = unix.Uname(&u) // without it the page has no kernel's name
	fmt.Fprintf(&b, "# Soak of %v\n\nLinux %s, %d CPUs, seed %d. Hosts a and b run overtap, c and d the kernel's vxlan.\n",
		r.took.Round(time.Second), unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), r.options.seed)

	b.WriteString("\n| host | held | median after warm-up | at the end | most | |\n| --- | --- | --- | --- | --- | --- |\n")
	for i := range r.samples {
		for k, kind := range kinds {
			t, _ := r.trend(i, k)
			fmt.Fprintf(&b, "| %s | %s | %.4g | %.4g | %.4g | %s |\n", hostNames[i], kind.name, t.first, t.last, t.most, verdict(t.grown, "grows", "flat"))
		}
	}

	b.WriteString("\n| traffic | sent | lost | while it moved | twice | p50 | p99 | longest |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, p := range r.probes {
		fmt.Fprintf(&b, "| probe %s | %d | %d | %d | %d | %v | %v | %v |\n", p.name, p.sent, p.lost, p.excused, p.twice,
			p.p50.Round(time.Microsecond), p.p99.Round(time.Microsecond), p.max.Round(time.Microsecond))
	}
	for _, t := range []struct {
		name string
		tally
	}{{"UDP 64 B", r.datagrams}, {"ping 1300 B after ARP or ND", r.pings}, {"broadcasts of 300 stations", r.stations}} {
		fmt.Fprintf(&b, "| %s | %d | %d | | %d | | | |\n", t.name, t.sent, t.lost, t.twice)
	}
	fmt.Fprintf(&b, "\n%d TCP streams, %.1f MB, every byte compared; %d segments sent again.\n",
		r.streams, float64(r.streamBytes)/1e6, r.retransmits)

	b.WriteString("\n| done meanwhile | times |\n| --- | --- |\n")
	for _, deed := range slices.Sorted(maps.Keys(r.deeds)) {
		fmt.Fprintf(&b, "| %s | %d |\n", deed, r.deeds[deed])
	}
	if n := len(r.moving); n > 0 {
		slices.Sort(r.moving)
		fmt.Fprintf(&b, "\nA move, from detach to attached, took %v (median of %d).\n", r.moving[n/2].Round(time.Millisecond), n)
	}

	b.WriteString("\n| host | frames taken | dropped as | count |\n| --- | --- | --- | --- |\n")
	for i, drops := range r.drops {
		fmt.Fprintf(&b, "| %s | %d | | |\n", hostNames[i], r.frames[i])
		byCount := slices.SortedFunc(maps.Keys(drops), func(x, y dataplane.Drop) int {
			return cmp.Or(cmp.Compare(drops[y], drops[x]), cmp.Compare(x, y))
		})
		for _, d := range byCount {
			fmt.Fprintf(&b, "| %s | | %s | %d |\n", hostNames[i], d, drops[d])
		}
		if r.socketDropped[i] > 0 {
			fmt.Fprintf(&b, "| %s | | at the socket's full buffer | %d |\n", hostNames[i], r.socketDropped[i])
		}
	}
	for _, dev := range slices.Sorted(maps.Keys(r.kernelDrops)) {
		fmt.Fprintf(&b, "| %s | | by the kernel, which had no room | %d |\n", dev, r.kernelDrops[dev])
	}
	lost, named := r.losses()
	fmt.Fprintf(&b, "\nLost without a move: %d, of which the daemons and the kernel name %d. What each daemon took it sent, answered or dropped: %s.\n",
		lost, named, verdict(r.kinds["conservation"] > 0, "no", "yes, to the frame"))
	if len(wrong) == 0 {
		b.WriteString("\nEverything is as it should be.\n")
	} else {
		b.WriteString("\n## Not as it should be\n\n")
		for _, f := range wrong {
			fmt.Fprintf(&b, "- %s\n", f)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func verdict(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}
