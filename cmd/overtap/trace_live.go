package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/time/rate"

	"overtap/cmd/internal/capture"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

const (
	// liveDuration bounds a live trace without --duration.
	liveDuration = 10 * time.Second
	// liveRate is how many frames a second it shows without --rate.
	liveRate = 10
	// liveWait is how long a frame is followed: batches take far less.
	liveWait = 100 * time.Millisecond
	// liveSnap is how much of each frame is captured: its headers.
	liveSnap = 256
)

// liveFlags are those of `overtap trace --live`.
type liveFlags struct {
	streamFlags
	rate int
	json bool
}

// add adds the flags that only a live trace has.
func (f *liveFlags) add(c *cobra.Command) {
	c.Flags().IntVar(&f.rate, "rate", liveRate, "with --live: show at most so `MANY` frames a second")
	c.Flags().IntVar(&f.count, "count", 0, "with --live: stop after so `MANY` frames; 0 = never")
	c.Flags().DurationVar(&f.duration, "duration", liveDuration, "with --live: stop after this `TIME`")
}

// onlyLive refuses the flags that describe a frame.
func onlyLive(flags *pflag.FlagSet) error {
	others := given(flags, func(name string) bool {
		return !slices.Contains([]string{"live", "rate", "count", "duration", "socket", "network", "json"}, name)
	})
	if len(others) == 0 {
		return nil
	}
	return fmt.Errorf("%s with --live: want a filter instead, such as ether src MAC, host ADDRESS, tcp, port N, arp, vlan ID, peer ADDRESS", strings.Join(others, ", "))
}

// notLive refuses the flags of a live trace without --live.
func notLive(flags *pflag.FlagSet) error {
	others := given(flags, func(name string) bool { return slices.Contains([]string{"rate", "count", "duration"}, name) })
	if len(others) == 0 {
		return nil
	}
	return fmt.Errorf("%s: want --live with it, which follows real frames", strings.Join(others, ", "))
}

// given are the flags of the command line for which kind is true.
func given(flags *pflag.FlagSet, kind func(name string) bool) (names []string) {
	flags.Visit(func(p *pflag.Flag) {
		if kind(p.Name) {
			names = append(names, "--"+p.Name)
		}
	})
	return names
}

// run follows frames and prints the path of each.
func (f *liveFlags) run(c *cobra.Command, client *control.Client, args []string) error {
	err := onlyLive(c.Flags())
	var want control.CaptureRequest
	if err == nil {
		want, err = f.request(c, args)
	}
	if err == nil && f.rate < 1 {
		err = fmt.Errorf("--rate %d: want 1 or more", f.rate)
	}
	if err == nil && f.duration == 0 {
		err = errors.New("--duration 0: a live trace is bounded: want a time such as 30s")
	}
	if err != nil {
		return usageError{err}
	}
	want.SnapLen = liveSnap
	ctx, stop := f.within(c.Context())
	defer stop()
	l := &liveTrace{flags: f, out: c.OutOrStdout(), limit: rate.NewLimiter(rate.Limit(f.rate), f.rate)}
	l.journeys.Show = l.show
	began := false
	var ticking sync.WaitGroup
	ticking.Go(func() { l.tick(ctx, stop) })
	err = client.Capture(ctx, want, control.Captured{
		Ready: func() error {
			began = true
			fmt.Fprintf(c.ErrOrStderr(), "tracing for %v, up to %d frames a second\n", f.duration, f.rate)
			return nil
		},
		Record: l.record,
		Lost:   func(n uint64) { l.missed += n },
	})
	stop()
	ticking.Wait()
	err = errors.Join(err, l.failed, l.flush(time.Now().Add(time.Hour)))
	if !began {
		return err
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s shown, %d skipped for --rate%s\n", plural(l.frames, "frame", "frames"), l.skipped, missed(l.missed))
	return err
}

// liveTrace puts the frames together.
type liveTrace struct {
	flags *liveFlags
	out   io.Writer

	missed uint64 // the stream's goroutine's alone
	failed error  // to print; tick's alone, until it has ended

	mu       sync.Mutex
	journeys capture.Journeys
	limit    *rate.Limiter
	begun    int // journeys to be shown
	frames   int // shown
	skipped  int
}

// show reports whether one more frame may be shown now; under mu.
func (l *liveTrace) show() bool {
	if l.begun > 0 && l.begun == l.flags.count || !l.limit.Allow() {
		l.skipped++
		return false
	}
	l.begun++
	return true
}

func (l *liveTrace) record(r *dataplane.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.journeys.Add(r, time.Now())
	return nil
}

// tick prints frames that were followed long enough, and calls stop once --count were
// printed, or printing failed.
func (l *liveTrace) tick(ctx context.Context, stop func()) {
	t := time.NewTicker(liveWait / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if l.failed = l.flush(now.Add(-liveWait)); l.failed != nil || l.enough() {
				stop()
				return
			}
		}
	}
}

// enough reports whether --count frames were shown.
func (l *liveTrace) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flags.count > 0 && l.frames >= l.flags.count
}

// flush prints the frames that were first read before the time.
func (l *liveTrace) flush(before time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.journeys.Ended(before) {
		l.frames++
		if l.flags.json {
			if err := json.NewEncoder(l.out).Encode(j); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			continue
		}
		if _, err := fmt.Fprintln(l.out, j); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	return nil
}
