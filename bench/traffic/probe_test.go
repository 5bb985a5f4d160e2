package traffic

import (
	"context"
	"errors"
	"testing"
	"time"

	"overtap/bench/netlab"
)

func TestProbeSummary(t *testing.T) {
	start := time.Now()
	samples := make([]sample, 200)
	for i := range samples {
		samples[i] = sample{at: start.Add(time.Duration(i) * time.Second), rtt: time.Duration(i+1) * time.Millisecond, answers: 1}
	}
	for i := 50; i < 60; i++ {
		samples[i].answers = 0
	}
	samples[100].answers = 0
	samples[0].answers = 3
	got := summary(samples)
	want := ProbeResult{Sent: 200, Lost: 11, Duplicates: 2, Median: 106 * time.Millisecond, P99: 199 * time.Millisecond,
		Max: 200 * time.Millisecond, Gap: 10 * time.Second}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := summary(samples[50:56]); got.Lost != 6 || got.Gap != 5*time.Second || got.Loss() != 1 {
		t.Errorf("of unanswered probes: %+v", got)
	}
	if got := summary(nil); got != (ProbeResult{}) || got.Loss() != 0 {
		t.Errorf("of nothing: %+v", got)
	}
}

// A probe sees the path cut, and heal, and leaves nothing behind.
func TestProbe(t *testing.T) {
	from, to := pair(t)
	leavesNothing(t, func() {
		p := must[*Probe](t)(StartProbe(from, to, 2*time.Millisecond))
		recover := func() {
			t.Helper()
			_, err := p.Recover(limit(t, 10*time.Second))
			check(t, err)
		}
		recover()
		p.Mark()
		time.Sleep(100 * time.Millisecond)
		p.Mark()
		check(t, to.Host.SetDown(netlab.ContainerDev))
		brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := p.Recover(brief); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with the path cut: %v", err)
		}
		check(t, to.Host.SetUp(netlab.ContainerDev))
		recover()
		p.Mark()
		time.Sleep(100 * time.Millisecond)
		r := p.Stop()
		if len(r) != 4 {
			t.Fatalf("%d phases, want 4", len(r))
		}
		for _, i := range []int{1, 3} {
			if r[i].Lost != 0 || r[i].Duplicates != 0 || r[i].Sent < 10 || r[i].Median <= 0 || r[i].P99 < r[i].Median || r[i].Max < r[i].P99 {
				t.Errorf("phase %d: %v", i, r[i])
			}
		}
		if r[2].Lost == 0 || r[2].Gap < 50*time.Millisecond {
			t.Errorf("with the path cut: %v", r[2])
		}
	})
}
