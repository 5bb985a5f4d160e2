// Command soak lets overtap run for long under mixed traffic and churn, and looks
// whether it stays as it was: goroutines, descriptors, memory and entries flat, every
// frame accounted for, none lost but those that were for a container on its way from
// host to host.
//
//	go run ./bench/soak [-time 30m] [-overtap FILE] [-seed N]
//
// What came of it is a Markdown page on standard output; the exit status is 1 when
// something was not as it should be. It needs root, for the hosts are network
// namespaces, and unless it is given a binary the go command and this module's
// source.
//
//	world.go    four hosts: two overtap, two with the kernel's device
//	probe.go    datagrams of which each must come back
//	load.go     streams, datagrams, pings, stations
//	churn.go    reloads, entries, flushes, attachments, moves
//	watch.go    what the processes hold, and whether it grows
//	report.go   the page
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"overtap/bench"
)

// least is the shortest soak that says anything.
const least = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// options are the command line.
type options struct {
	time   time.Duration
	binary string // "" = build it
	seed   uint64 // of the churn's order
	log    io.Writer
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("soak", flag.ContinueOnError)
	fs.SetOutput(stderr)
	o.log = stderr
	fs.DurationVar(&o.time, "time", 30*time.Minute, "how long")
	fs.StringVar(&o.binary, "overtap", "", "the `FILE` to run; \"\" = build it from this module")
	fs.Uint64Var(&o.seed, "seed", rand.Uint64(), "of the order in which things are changed")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{err}
	}
	if fs.NArg() > 0 {
		return o, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	if o.time < least {
		return o, usageError{fmt.Errorf("-time %v: want %v at least", o.time, least)}
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("this needs root: the hosts are network namespaces; try: sudo env PATH=\"$PATH\" go run ./bench/soak")
	}
	if o.binary == "" {
		dir, err := os.MkdirTemp("", "overtap-soak")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if o.binary, err = bench.Build(ctx, dir); err != nil {
			return err
		}
	}
	r, err := soak(ctx, o)
	if err != nil {
		return err
	}
	if err := r.write(stdout); err != nil {
		return err
	}
	if n := len(r.failures()); n > 0 {
		return fmt.Errorf("%d things are not as they should be; see the page's end", n)
	}
	return nil
}

// soak builds the world, lets it run, and says what came of it.
func soak(ctx context.Context, o options) (r *report, err error) {
	w, err := newWorld(ctx, o.binary)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	r = &report{options: o, began: time.Now(), kernelDrops: make(map[string]uint64)}
	if err := w.run(ctx, o, r); err != nil {
		return nil, err
	}
	return r, nil
}
