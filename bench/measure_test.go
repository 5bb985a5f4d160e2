package bench

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"overtap/bench/netlab"
)

// short is for tests: that something is measured is all they look at.
var short = Options{Duration: 60 * time.Millisecond, TableSize: 300}

// TestEveryLoad runs each once on the row with two different ends, both ways.
func TestEveryLoad(t *testing.T) {
	needs(t, Overtap)
	beds := map[BedSpec]*Bed{}
	for _, l := range Loads {
		spec := l.bedSpec(short)
		spec.Row = Overtap
		if beds[spec] == nil {
			beds[spec] = newBed(t, spec)
		}
		t.Run(l.Name, func(t *testing.T) {
			if !l.Installed() {
				missing(t, l.Program)
			}
			for _, lane := range lanes(Overtap, l) {
				s, err := beds[spec].Measure(context.Background(), l, lane.Reverse, short)
				check(t, err)
				verify(t, l, s)
				if s.Cost.PeakRSS < 1<<20 {
					t.Errorf("%s: the daemon's peak is %d bytes", lane, s.Cost.PeakRSS)
				}
			}
		})
	}
}

// TestEveryRow runs two loads on the rows that the other test leaves out, and on
// every underlay.
func TestEveryRow(t *testing.T) {
	for i, row := range []Row{Plain, Kernel, Overtap2, Routed, IPIP} {
		t.Run(string(row), func(t *testing.T) {
			needs(t, row)
			o := netlab.Offloads[i%len(netlab.Offloads)]
			b := newBed(t, BedSpec{Row: row, Offload: o})
			features, err := b.features()
			check(t, err)
			if on := features["tx-udp_tnl-segmentation"]; on != (o == netlab.AllOffloads) {
				t.Errorf("%s: tx-udp_tnl-segmentation is on: %v", o, on)
			}
			for _, name := range []string{"tcp1", "udp64"} {
				l := loadNamed(t, name)
				s, err := b.Measure(context.Background(), l, false, short)
				check(t, err)
				verify(t, l, s)
				if has := s.Cost.PeakRSS > 0; has != row.NeedsBinary() {
					t.Errorf("%s: a daemon's peak of %d bytes", name, s.Cost.PeakRSS)
				}
			}
		})
	}
}

// verify holds a sample to what every sample must be.
func verify(t *testing.T, l Load, s Sample) {
	t.Helper()
	for _, f := range l.Figures {
		// In a short turn a daemon may work for less than a tick of /proc.
		if v := f.of(s); v <= 0 && f.Name != daemonPerPacket.Name {
			t.Errorf("%s: %v %s", f.Name, v, f.Unit)
		}
	}
	parts := 0
	for name, c := range s.parts() {
		parts++
		if c.Offered <= 0 || c.Received <= 0 || c.Lost < 0 || c.Offered != c.Received+c.Lost {
			t.Errorf("%s: offered %d, received %d, lost %d", name, c.Offered, c.Received, c.Lost)
		}
	}
	if parts == 0 {
		t.Error("nothing was sent")
	}
	if s.RTT == nil && s.payload() <= 0 {
		t.Error("no payload arrived")
	}
	if s.RTT != nil && s.RTT.HalfP99 < s.RTT.HalfMedian {
		t.Errorf("p99 %v, median %v", s.RTT.HalfP99, s.RTT.HalfMedian)
	}
	if s.Cost.MachineSeconds < 0 || s.Cost.DaemonSeconds < 0 || s.Cost.WallSeconds < 0.001 {
		t.Errorf("cost %+v", s.Cost)
	}
}

// parts returns the counts of what the sample has.
func (s Sample) parts() map[string]Counts {
	m := map[string]Counts{}
	if s.TCP != nil {
		m["TCP"] = s.TCP.Counts
	}
	if s.UDP != nil {
		m["UDP"] = s.UDP.Counts
	}
	if s.RTT != nil {
		m["RTT"] = s.RTT.Counts
	}
	return m
}

func TestPlan(t *testing.T) {
	needs(t, Kernel, Overtap)
	var lines []string
	p := Plan{
		Rows:      []Row{Kernel, Overtap},
		Underlays: []netlab.Offload{netlab.NoTunnelSegmentation},
		Loads:     []Load{loadNamed(t, "udp64"), loadNamed(t, "rtt")},
		Runs:      2, Options: short, Binary: program(t),
		Progress: func(s string) { lines = append(lines, s) },
	}
	r, err := p.Run(context.Background())
	check(t, err)
	if f := r.Failures(); f != nil {
		t.Fatal(f)
	}
	udp := r.Underlays[0].Loads[0]
	if len(udp.Lanes) != 3 || len(r.Underlays[0].Loads[1].Lanes) != 2 {
		t.Fatalf("lanes: %+v", r.Underlays[0].Loads)
	}
	for _, lane := range udp.Lanes {
		if len(lane.Samples) != 2 || len(lane.Values) != 1 || lane.Values[0].Ratio <= 0 {
			t.Errorf("%s: %d samples, %+v", lane.Title, len(lane.Samples), lane.Values)
		}
	}
	// A B C A B C.
	var order []string
	for _, l := range lines {
		if strings.Contains(l, "UDP") {
			order = append(order, strings.Split(strings.Split(l, ", ")[3], ":")[0])
		}
	}
	want := []string{"kernel", "overtap → kernel", "kernel → overtap"}
	if !slices.Equal(order, append(want, want...)) {
		t.Errorf("turns: %q", order)
	}
}

// TestPlanGoesOn has a row fail, and the other measured nevertheless.
func TestPlanGoesOn(t *testing.T) {
	needs(t, Kernel)
	p := Plan{
		Rows:      []Row{Plain, Overtap2},
		Underlays: []netlab.Offload{netlab.AllOffloads},
		Loads:     []Load{loadNamed(t, "rtt")},
		Runs:      1, Options: short, Binary: brokenBinary(t),
	}
	r, err := p.Run(context.Background())
	check(t, err)
	lanes := r.Underlays[0].Loads[0].Lanes
	if len(lanes[0].Samples) != 1 || lanes[0].Error != "" {
		t.Errorf("plain: %+v", lanes[0])
	}
	if len(lanes[1].Samples) != 0 || !strings.Contains(lanes[1].Error, "out of order") {
		t.Errorf("overtap2: %+v", lanes[1])
	}
	if f := r.Failures(); len(f) != 1 || !strings.Contains(f[0], "out of order") {
		t.Errorf("failures: %q", f)
	}
}

// brokenBinary says its version, and fails at everything else.
func brokenBinary(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "overtap")
	check(t, os.WriteFile(path, []byte("#!/bin/sh\n[ $1 = version ] && exit 0\necho out of order >&2\nexit 1\n"), 0o755))
	return path
}

// TestDaemonDies has it killed: the turn's error says so, and so does Close.
func TestDaemonDies(t *testing.T) {
	needs(t, Overtap2)
	ctx := context.Background()
	b, err := NewBed(ctx, BedSpec{Row: Overtap2, Binary: program(t)})
	check(t, err)
	check(t, b.daemons[1].cmd.Process.Kill())
	<-b.daemons[1].ended
	if _, err := b.Measure(ctx, loadNamed(t, "tcp1"), false, short); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Measure: %v", err)
	}
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Close: %v", err)
	}
	if names, err := netlab.List(); err != nil || slices.Contains(names, b.lab.Name()) {
		t.Errorf("the lab is still there: %v, %v", names, err)
	}
}

func TestSweep(t *testing.T) {
	needs(t)
	// A process that is no more has an unused id.
	dead := exec.Command("true")
	check(t, dead.Run())
	pid := dead.ProcessState.Pid()
	if syscall.Kill(pid, 0) == nil {
		t.Skip("the process id was taken again")
	}
	theirs, err := netlab.New(labNameOf(pid, 1))
	check(t, err)
	_, err = theirs.AddHost("a")
	check(t, err)
	ours, err := netlab.New(newLabName())
	check(t, err)
	defer ours.Destroy()
	_, err = ours.AddHost("a")
	check(t, err)
	dir := filepath.Join(os.TempDir(), labNameOf(pid, 2)+"-files")
	check(t, os.Mkdir(dir, 0o700))
	defer os.RemoveAll(dir)
	check(t, Sweep())
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
	names, err := netlab.List()
	check(t, err)
	if slices.Contains(names, theirs.Name()) || !slices.Contains(names, ours.Name()) {
		t.Errorf("labs after the sweep: %v; want %s, not %s", names, ours.Name(), theirs.Name())
	}
}

// TestTurnFails has a lane fail in its second turn: what was measured stays, and
// it gets no third.
func TestTurnFails(t *testing.T) {
	needs(t)
	turns := 0
	l := loadNamed(t, "rtt")
	l.run = func(context.Context, turn) (Sample, error) {
		if turns++; turns == 2 {
			return Sample{}, errors.New("lost its way")
		}
		return Sample{RTT: &RTTSample{HalfMedian: 1, HalfP99: 1}}, nil
	}
	p := Plan{
		Rows: []Row{Plain}, Underlays: []netlab.Offload{netlab.AllOffloads}, Loads: []Load{l}, Runs: 3, Options: short,
	}
	r, err := p.Run(context.Background())
	check(t, err)
	lane := r.Underlays[0].Loads[0].Lanes[0]
	if turns != 2 || len(lane.Samples) != 1 || len(lane.Values) != len(l.Figures) || !strings.Contains(lane.Error, "lost its way") {
		t.Errorf("%d turns, %d samples, %d values, error %q", turns, len(lane.Samples), len(lane.Values), lane.Error)
	}
}

func TestPlanEndsWithItsContext(t *testing.T) {
	needs(t)
	ctx, cancel := context.WithCancel(context.Background())
	p := Plan{
		Rows: []Row{Plain}, Underlays: []netlab.Offload{netlab.AllOffloads}, Loads: []Load{loadNamed(t, "tcp1")},
		Runs: 100, Options: short, Progress: func(string) { cancel() },
	}
	if _, err := p.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
