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

	"overtap/cmd/internal/capture"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

const (
	// liveDuration bounds a live trace that is not told for how long.
	liveDuration = 10 * time.Second
	// liveRate is how many frames a second it shows when it is not told.
	liveRate = 10
	// liveWait is how long a frame is followed: batches take far less.
	liveWait = 100 * time.Millisecond
	// liveSnap is what of each frame is looked at: its headers.
	liveSnap = 256
)

// liveFlags are those of `overtap trace --live`.
type liveFlags struct {
	roadFlags
	live bool
	rate int
	json bool
}

// addLive adds --live to a verb: with it the arguments are a filter, and real
// frames are followed. The flags that the verb has already are its own.
func addLive(c *cobra.Command) {
	f := &liveFlags{}
	flags := c.Flags()
	flags.BoolVar(&f.live, "live", false, "follow real frames, those that match the filter")
	flags.IntVar(&f.rate, "rate", liveRate, "with --live: show at most so many frames a second")
	flags.IntVar(&f.count, "count", 0, "with --live: stop after so many frames; 0 = never")
	flags.DurationVar(&f.duration, "duration", liveDuration, "with --live: stop after so long")
	var d daemonFlags
	if flags.Lookup("socket") == nil {
		d.add(c)
	}
	if flags.Lookup("network") == nil {
		addNetwork(c, &f.network)
	}
	if flags.Lookup("json") == nil {
		flags.BoolVar(&f.json, "json", false, "print JSON; with --live an object a line")
	}
	explain := c.RunE
	c.Args = func(_ *cobra.Command, a []string) error {
		if !f.live && len(a) > 0 {
			return fmt.Errorf("%q: a filter wants --live", strings.Join(a, " "))
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, a []string) error {
		if !f.live {
			if err := notLive(flags); err != nil {
				return usageError{c.CommandPath(), err}
			}
			return explain(c, a)
		}
		if err := onlyLive(flags); err != nil {
			return usageError{c.CommandPath(), err}
		}
		f.network, f.json = flags.Lookup("network").Value.String(), flags.Lookup("json").Value.String() == "true"
		return f.run(c, control.NewClient(flags.Lookup("socket").Value.String()), a)
	}
}

// onlyLive refuses flags that describe a frame, which a live trace has none of.
func onlyLive(flags *pflag.FlagSet) error {
	others := given(flags, func(name string) bool {
		return !slices.Contains([]string{"live", "rate", "count", "duration", "socket", "network", "json"}, name)
	})
	if len(others) == 0 {
		return nil
	}
	return fmt.Errorf("%s with --live: want a filter in its place, of words such as ether src MAC, host ADDRESS, tcp, port N, arp, vlan ID, peer ADDRESS", strings.Join(others, ", "))
}

// notLive refuses flags that bound a live trace, where none is asked for.
func notLive(flags *pflag.FlagSet) error {
	others := given(flags, func(name string) bool { return slices.Contains([]string{"rate", "count", "duration"}, name) })
	if len(others) == 0 {
		return nil
	}
	return fmt.Errorf("%s: want --live beside it, which follows real frames", strings.Join(others, ", "))
}

// given are those flags of the command line that are of a kind.
func given(flags *pflag.FlagSet, kind func(name string) bool) (names []string) {
	flags.Visit(func(p *pflag.Flag) {
		if kind(p.Name) {
			names = append(names, "--"+p.Name)
		}
	})
	return names
}

// run follows frames and prints what became of each.
func (f *liveFlags) run(c *cobra.Command, client *control.Client, args []string) error {
	want, err := f.request(args)
	if err == nil {
		err = emptyNetwork(c)
	}
	if err == nil && f.rate < 1 {
		err = fmt.Errorf("--rate %d: want 1 or more", f.rate)
	}
	if err == nil && f.duration == 0 {
		err = errors.New("--duration 0: a live trace is bounded: want a time such as 30s")
	}
	if err != nil {
		return usageError{c.CommandPath(), err}
	}
	want.SnapLen = liveSnap
	ctx, stop := f.within(c.Context())
	defer stop()
	l := &liveTrace{flags: f, out: c.OutOrStdout()}
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
	fmt.Fprintf(c.ErrOrStderr(), "%s shown, %d passed over for --rate%s\n", counted(l.frames, "frame"), l.skipped, missed(l.missed))
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
	second   time.Time // the current one began
	used     int       // of its rate
	begun    int       // journeys to be shown
	frames   int       // shown
	skipped  int
}

// show reports whether one more frame may be shown now; under mu.
func (l *liveTrace) show() bool {
	if now := time.Now(); now.Sub(l.second) >= time.Second {
		l.second, l.used = now, 0
	}
	if l.used == l.flags.rate || l.begun > 0 && l.begun == l.flags.count {
		l.skipped++
		return false
	}
	l.used++
	l.begun++
	return true
}

func (l *liveTrace) record(r *dataplane.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.journeys.Add(r, time.Now())
	return nil
}

// tick prints frames that were followed long enough, and calls stop when there
// were as many as shall be, or nobody reads them.
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

// enough reports whether as many frames were shown as shall be.
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
