package bench

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// Observers see a daemon that both ends of the load go through.
func TestObserve(t *testing.T) {
	needs(t)
	turns := 0
	var looked []bool
	counting := Observer{"counting", func(context.Context, *Bed) (*watch, error) {
		turns++
		return &watch{stop: func() error { return nil }, pause: func(away bool) error { looked = append(looked, !away); return nil }}, nil
	}}
	r, err := ObservePlan{
		Row: Overtap2, Loads: []Load{loadNamed(t, "udp64"), loadNamed(t, "rtt")}, Observers: append([]Observer{counting}, Observers...),
		Runs: 1, Options: Options{Duration: 300 * time.Millisecond}, Binary: program(t),
	}.Run(t.Context())
	check(t, err)
	if turns != 3 || len(r.Lanes) != 3 || r.IdleWatched <= 0 { // one of them without traffic
		t.Fatalf("%d turns were observed; %+v", turns, r)
	}
	for _, l := range r.Lanes {
		want := l.Watched.Median / l.Alone.Median
		if l.Figure.LowerIsBetter {
			want = 1 / want
		}
		if l.Alone.Median <= 0 || l.Watched.Median <= 0 || l.Ratio/want > 1.001 || l.Ratio/want < 0.999 {
			t.Errorf("%+v", l)
		}
	}
	if want := []bool{false, true, true}; !slices.Equal(looked, want) {
		t.Errorf("in the slices and after them the observers looked: %v, want %v", looked, want)
	}
	var b bytes.Buffer
	check(t, r.WriteMarkdown(&b))
	for _, want := range []string{"1 times 0.3 s without and with counting and metrics and top, ", "| UDP 64 B flood | overtap → overtap | "} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

// The ratio is of neighbours: what slows two turns of a pair alike is not in it.
func TestPairRatio(t *testing.T) {
	tcp := func(bits ...float64) (s []Sample) {
		for _, b := range bits {
			s = append(s, Sample{TCP: &TCPSample{BitsPerSecond: b}, RTT: &RTTSample{HalfMedian: time.Duration(b)}})
		}
		return s
	}
	alone, watched := tcp(100, 200, 400, 50, 10), tcp(50, 198, 396, 49.5, 40)
	if r, low, high := tcpRate.pairRatio(watched, alone); r != 0.99 || low != 0 || high != 0 {
		t.Errorf("%v, %v to %v; want 0.99, and no bounds of five", r, low, high)
	}
	if r, _, _ := rttMedian.pairRatio(tcp(100, 100, 100), tcp(50, 50, 0)); r != 0.5 {
		t.Errorf("where less is better: %v, want 0.5", r)
	}
	// binomial(10, 1/2) leaves 2.1 % outside the second and the ninth.
	if r, low, high := tcpRate.pairRatio(tcp(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), tcp(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)); math.Round(r) != 5 || math.Round(low) != 2 || math.Round(high) != 9 {
		t.Errorf("%v, %v to %v", r, low, high)
	}
}

// An observer that fails is an error of the run: its turn was not observed.
func TestObserverFails(t *testing.T) {
	needs(t)
	gone := errors.New("gone")
	for _, o := range []Observer{
		{"never", func(context.Context, *Bed) (*watch, error) { return nil, gone }},
		{"not to the end", func(context.Context, *Bed) (*watch, error) {
			return &watch{stop: func() error { return gone }, pause: func(bool) error { return nil }}, nil
		}},
	} {
		_, err := ObservePlan{
			Row: Overtap2, Loads: []Load{loadNamed(t, "udp64")}, Observers: []Observer{o}, Runs: 1,
			Options: Options{Duration: 20 * time.Millisecond}, Binary: program(t),
		}.Run(t.Context())
		if !errors.Is(err, gone) {
			t.Errorf("%s: %v", o.Name, err)
		}
	}
	if _, err := (ObservePlan{Row: Kernel}).Run(t.Context()); err == nil {
		t.Error("a row without a daemon was observed")
	}
}
