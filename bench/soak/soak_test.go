package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab/netlabtest"
)

// TestSoak is a short one.
func TestSoak(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	var page, log bytes.Buffer
	if err := run(t.Context(), []string{"-time", "25s"}, &page, &log); err != nil {
		t.Errorf("%v\n%s", err, &log)
	}
	t.Logf("\n%s", &page)
	for _, want := range []string{"| reload |", "| move |", "| probe a1 → mover |", "Everything is as it should be"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page does not have %q", want)
		}
	}
}

func TestParse(t *testing.T) {
	for args, want := range map[string]string{
		"-time 1s": "want 10s at least", "-time x": "invalid value", "more": `unexpected argument "more"`,
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if o, err := parse(nil, io.Discard); err != nil || o.time != 30*time.Minute {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestTrend(t *testing.T) {
	ramp := func(n int, step float64) (v []float64) {
		for i := range n {
			v = append(v, 100+step*float64(i))
		}
		return v
	}
	for name, c := range map[string]struct {
		values []float64
		most   float64
		grown  bool
	}{
		"flat":                  {ramp(60, 0), 0, false},
		"shrinking":             {ramp(60, -1), 0, false},
		"leaking":               {ramp(60, 1), 0, true},
		"within a tenth":        {ramp(60, 0.2), 0, false},
		"warming up":            {append(make([]float64, 12), ramp(48, 0)...), 0, false},
		"filling late, bounded": {append(make([]float64, 40), ramp(20, 0)...), 100, false},
		"over the bound once":   {append(ramp(59, 0), 101), 100, true},
	} {
		got, ok := trendOf(c.values, 5, c.most)
		if !ok || got.grown != c.grown {
			t.Errorf("%s: %+v, %t", name, got, ok)
		}
	}
	if _, ok := trendOf(ramp(2, 0), 5, 0); ok {
		t.Error("two samples make a trend")
	}
}

// TestFailures wants each thing that is not as it should be to be named.
func TestFailures(t *testing.T) {
	sound := func() *report {
		r := &report{streams: 1, datagrams: tally{sent: 1}, pings: tally{sent: 1}, stations: tally{sent: 1},
			moving: []time.Duration{1}, probes: []probeResult{{name: "p", sent: 5, lost: 2, excused: 2}}}
		for i := range r.samples {
			r.samples[i] = make([]sample, 20)
		}
		return r
	}
	if all := sound().failures(); len(all) != 0 {
		t.Fatal(all)
	}
	for want, spoil := range map[string]func(*report){
		"1 frames were lost, of which the daemons and the kernel account for 0": func(r *report) { r.probes[0].excused = 1 },
		"2 frames were lost, of which the daemons and the kernel account for 1": func(r *report) {
			r.pings.lost = 2
			r.drops[1] = dropCounts{congestion[0]: 1}
		},
		"nothing came back":        func(r *report) { r.probes[0].lost, r.probes[0].excused = 5, 5 },
		"to nothing that was sent": func(r *report) { r.probes[0].strange = 1 },
		"too few samples":          func(r *report) { r.samples[1] = nil },
		"goroutines grew":          func(r *report) { r.samples[0][18][0], r.samples[0][19][0], r.samples[0][17][0] = 90, 90, 90 },
		"not every kind":           func(r *report) { r.moving = nil },
	} {
		r := sound()
		spoil(r)
		if all := strings.Join(r.failures(), "\n"); !strings.Contains(all, want) {
			t.Errorf("%q is not in %q", want, all)
		}
	}
}

func TestExcuses(t *testing.T) {
	at := time.Unix(1000, 0)
	p := &probe{name: "p"}
	for i := range 5 {
		p.sent = append(p.sent, at.Add(time.Duration(i)*time.Second))
	}
	p.back = []time.Duration{1, 0, 0, 0, 5}
	p.excuse(at.Add(time.Second), at.Add(2*time.Second))
	if r := p.result(); r.sent != 5 || r.lost != 3 || r.excused != 2 || len(r.worst) != 1 || r.max != 5 {
		t.Errorf("%+v", r)
	}
}
