package bench

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"overtap/bench/netlab"
)

// ObservePlan is a run that tells what observers cost: each load with and without
// all of them on one bed. Where a load can be cut in slices it goes on while they
// look and look away, for two flows differ by more than one flow in two moments;
// else there are turns.
type ObservePlan struct {
	Row       Row // with a daemon
	Underlay  netlab.Offload
	Loads     []Load
	Observers []Observer
	Runs      int // slices or turns with, and as many without; 0 = 5
	Options   Options
	Binary    string
	// Progress is called for every turn; nil = not at all.
	Progress func(string)
}

// Observed is what came of an ObservePlan.
type Observed struct {
	Machine   Machine
	Started   time.Time
	Runs      int
	Seconds   float64 // of a slice or turn
	Underlay  string
	Observers []string
	// Idle and IdleWatched are the CPU seconds that daemons and observers take
	// in a second without traffic, without the observers and with them.
	Idle, IdleWatched float64
	Lanes             []ObservedLane
}

// ObservedLane is one load in one direction.
type ObservedLane struct {
	Load, Lane string
	Figure     Figure
	// Alone and Watched are the figure without and with the observers. Ratio is
	// the median of the ratios of a turn with them and the one before it without,
	// turned round where less is better: below 1 they cost something. What the
	// machine does beside the run falls on both turns of a pair.
	Alone, Watched Value
	Ratio          float64
	// RatioLow and RatioHigh hold the median of all such pairs between them with
	// a certainty of 95 %; 0 = there are too few to say.
	RatioLow, RatioHigh float64
}

// Run measures. What fails ends it.
func (p ObservePlan) Run(ctx context.Context) (*Observed, error) {
	if !p.Row.NeedsBinary() {
		return nil, fmt.Errorf("row %s has no daemon to observe", p.Row)
	}
	if len(p.Loads) == 0 || len(p.Observers) == 0 {
		return nil, errors.New("nothing to measure: want a load and an observer at least")
	}
	if p.Runs == 0 {
		p.Runs = 5
	}
	if p.Progress == nil {
		p.Progress = func(string) {}
	}
	p.Options = p.Options.withDefaults()
	if err := Sweep(); err != nil {
		return nil, err
	}
	machine, err := readMachine(ctx, p.Binary)
	if err != nil {
		return nil, err
	}
	r := &Observed{
		Machine: machine, Started: time.Now().UTC().Truncate(time.Second), Runs: p.Runs,
		Seconds: p.Options.Duration.Seconds(), Underlay: p.Underlay.String(),
	}
	for _, o := range p.Observers {
		r.Observers = append(r.Observers, o.Name)
	}
	for _, l := range p.Loads {
		if err := p.load(ctx, l, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// load measures one load on a bed of its own.
func (p ObservePlan) load(ctx context.Context, l Load, r *Observed) (err error) {
	spec := l.bedSpec(p.Options)
	spec.Row, spec.Offload, spec.Binary, spec.Metrics = p.Row, p.Underlay, p.Binary, true
	b, err := NewBed(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if r.IdleWatched == 0 {
		if err := p.idle(ctx, b, r); err != nil {
			return err
		}
	}
	for _, lane := range lanes(p.Row, l) {
		measure := p.turns
		if l.slice != nil {
			measure = p.slices
		}
		alone, watched, err := measure(ctx, b, l, lane)
		if err != nil {
			return err
		}
		for _, f := range l.Figures {
			o := ObservedLane{Load: l.Title, Lane: title(lane, l), Figure: f, Alone: f.value(alone), Watched: f.value(watched)}
			o.Ratio, o.RatioLow, o.RatioHigh = f.pairRatio(watched, alone)
			r.Lanes = append(r.Lanes, o)
		}
	}
	return nil
}

// turns measures turns without observers, each beside one with them.
func (p ObservePlan) turns(ctx context.Context, b *Bed, l Load, lane Lane) (alone, watched []Sample, err error) {
	for n := range p.Runs {
		p.Progress(fmt.Sprintf("%s, %s: turn %d of %d", l.Title, lane, n+1, p.Runs))
		s, err := b.Measure(ctx, l, lane.Reverse, p.Options)
		if err != nil {
			return nil, nil, err
		}
		alone = append(alone, s)
		if s, err = p.watched(ctx, b, l, lane.Reverse); err != nil {
			return nil, nil, err
		}
		watched = append(watched, s)
	}
	return alone, watched, nil
}

// warmUp is how long a load runs before its first slice.
const warmUp = time.Second

// slices measures one turn, in parts: the observers look, and look away. Which of
// two parts is the first changes from pair to pair.
func (p ObservePlan) slices(ctx context.Context, b *Bed, l Load, lane Lane) (alone, watched []Sample, err error) {
	p.Progress(fmt.Sprintf("%s, %s: %d pairs of %v", l.Title, lane, p.Runs, p.Options.Duration))
	o := p.Options
	o.Duration = 2*warmUp + time.Duration(2*p.Runs)*(p.Options.Duration+p.Options.Duration/50)
	var arrived atomic.Int64
	var ended error
	over := make(chan struct{})
	slice := func() (Sample, error) {
		from, start := arrived.Load(), time.Now()
		select {
		case <-over:
			return Sample{}, cmp.Or(ended, errors.New("the load ended before its slices"))
		case <-time.After(p.Options.Duration):
		}
		return l.slice(arrived.Load()-from, time.Since(start)), nil
	}
	err = p.whileWatched(ctx, b, func(all []*watch) (err error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			defer close(over)
			_, ended = b.measureCounted(ctx, l, lane.Reverse, o, &arrived)
		}()
		defer func() {
			if err != nil {
				cancel()
			}
			<-over
			err = cmp.Or(err, ended)
		}()
		time.Sleep(warmUp)
		for n := range p.Runs {
			for _, look := range []bool{n%2 == 1, n%2 == 0} {
				if err := pause(all, !look); err != nil {
					return err
				}
				s, err := slice()
				switch {
				case err != nil:
					return err
				case look:
					watched = append(watched, s)
				default:
					alone = append(alone, s)
				}
			}
		}
		return pause(all, false)
	})
	return alone, watched, err
}

// pause lets observers look away, or go on.
func pause(all []*watch, away bool) error {
	var errs []error
	for _, w := range all {
		errs = append(errs, w.pause(away))
	}
	return errors.Join(errs...)
}

// pairRatio returns the median of what each sample has of the one beside it in by;
// of an even number the lower of the two in the middle, as value does. Between low
// and high lies with a certainty of 95 % the median of which these are a sample: the
// ranks are those of a sign test, by the normal distribution.
func (f Figure) pairRatio(of, by []Sample) (ratio, low, high float64) {
	ratios := make([]float64, len(of))
	for i := range of {
		a, b := f.of(of[i]), f.of(by[i])
		if f.LowerIsBetter {
			a, b = b, a
		}
		if b > 0 {
			ratios[i] = a / b
		}
	}
	slices.Sort(ratios)
	n := len(ratios)
	if out := int(math.Round((float64(n) - 1.96*math.Sqrt(float64(n))) / 2)); out >= 1 {
		low, high = ratios[out-1], ratios[n-out]
	}
	return ratios[(n-1)/2], low, high
}

// watched measures a turn that all observers watch.
func (p ObservePlan) watched(ctx context.Context, b *Bed, l Load, reverse bool) (s Sample, err error) {
	err = p.whileWatched(ctx, b, func([]*watch) error {
		s, err = b.Measure(ctx, l, reverse, p.Options)
		return err
	})
	return s, err
}

// whileWatched calls f while all observers watch.
func (p ObservePlan) whileWatched(ctx context.Context, b *Bed, f func([]*watch) error) (err error) {
	var all []*watch
	for _, o := range p.Observers {
		w, failed := o.watch(ctx, b)
		if failed != nil {
			return fmt.Errorf("observer %s: %w", o.Name, failed)
		}
		defer func() {
			if e := w.stop(); e != nil {
				err = errors.Join(err, fmt.Errorf("observer %s: %w", o.Name, e))
			}
		}()
		all = append(all, w)
	}
	return f(all)
}

// idleTime is how long a bed without traffic is measured.
const idleTime = 5 * time.Second

// idle measures what the observers cost where nothing else is to do.
func (p ObservePlan) idle(ctx context.Context, b *Bed, r *Observed) (err error) {
	p.Progress("without traffic")
	var daemons []int
	for _, d := range b.daemons {
		daemons = append(daemons, d.PID())
	}
	if r.Idle, err = busy(ctx, daemons, idleTime); err != nil {
		return err
	}
	return p.whileWatched(ctx, b, func(all []*watch) error {
		programs := daemons
		for _, w := range all {
			programs = append(programs, w.programs...)
		}
		r.IdleWatched, err = busy(ctx, programs, idleTime)
		return err
	})
}

// busy returns which part of a CPU the processes take for a while.
func busy(ctx context.Context, pids []int, d time.Duration) (float64, error) {
	ticks := func() (n uint64, err error) {
		for _, pid := range pids {
			t, err := processTicks(pid)
			if err != nil {
				return 0, err
			}
			n += t
		}
		return n, nil
	}
	before, err := ticks()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(d):
	}
	after, err := ticks()
	if err != nil {
		return 0, err
	}
	return float64(after-before) / userHZ / time.Since(start).Seconds(), nil
}

// WriteMarkdown writes the run as a table.
func (r *Observed) WriteMarkdown(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "- Date: %s\n- Kernel: Linux %s, %s; CPU: %s, %d cores\n- Underlay: %s\n", r.Started.Format("2006-01-02 15:04 MST"),
		r.Machine.Kernel, r.Machine.Arch, plainText(r.Machine.CPU), r.Machine.Cores, r.Underlay)
	fmt.Fprintf(b, "- Method: %d times %g s without and with %s, of one flow where its rate is told, else turns; medians; the ratio is of neighbours, "+
		"with the bounds of 95 %% certainty.\n\n", r.Runs, r.Seconds, strings.Join(r.Observers, " and "))
	fmt.Fprintf(b, "Without traffic daemon and observers take %.1f %% of a CPU, the daemon alone %.1f %%.\n\n", 100*r.IdleWatched, 100*r.Idle)
	b.WriteString("| load | row | unobserved (range) | observed (range) | ratio |\n| --- | --- | --- | --- | --- |\n")
	for _, o := range r.Lanes {
		figure := func(v Value) string { return fmt.Sprintf("%.4g %s (%.4g–%.4g)", v.Median, v.Unit, v.Min, v.Max) }
		fmt.Fprintf(b, "| %s | %s | %s | %s | %.3f", o.Load, o.Lane, figure(o.Alone), figure(o.Watched), o.Ratio)
		if o.RatioLow > 0 {
			fmt.Fprintf(b, " (%.3f–%.3f)", o.RatioLow, o.RatioHigh)
		}
		b.WriteString(" |\n")
	}
	return b.Flush()
}
