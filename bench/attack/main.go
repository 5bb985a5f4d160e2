// Command attack attacks a host, first where overtap ends the
// tunnel and then where the kernel's vxlan device does, and says how an honest
// flow fared meanwhile and what the attack left behind.
//
//	go run ./bench/attack [-attacks macs,stranger,…] [-runs 3] [-duration 3s]
//	    [-markdown|-json] [-overtap FILE]
//
//	        site a                          site b (the kernel's device)
//	container a1 ── the tunnel's end ═════════ container b1   the honest flow
//	                     ▲
//	                site c: peer or stranger, sends VXLAN by a plain socket
//
// The hosts are network namespaces of this machine, and the attacker shares its
// CPUs: what it takes of them is part of the figures, and the same in each column
// only as far as the column lets it be. It needs root.
//
//	main.go     the command line
//	attacks.go  the attacks and the columns
//	scene.go    the hosts, and one run of one attack
//	result.go   what a run came to, medians, and how they are printed
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"overtap/bench"
)

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
	attacks  []attack
	runs     int
	lasting  time.Duration // of each phase
	json     bool
	binary   string
	progress io.Writer
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("attack", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var all []string
	for _, a := range attacks {
		all = append(all, a.name)
	}
	var names string
	var markdown bool
	fs.StringVar(&names, "attacks", strings.Join(all, ","), "what to do")
	fs.IntVar(&o.runs, "runs", 3, "runs of each attack in each column, of which the medians are printed")
	fs.DurationVar(&o.lasting, "duration", 3*time.Second, "how long an attack lasts, and each time before and after it")
	fs.BoolVar(&markdown, "markdown", false, "print tables in Markdown (the default)")
	fs.BoolVar(&o.json, "json", false, "print every run as JSON")
	fs.StringVar(&o.binary, "overtap", "", "the `FILE` to run; \"\" = build it from this module")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{err}
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name })
		if i < 0 {
			return o, usageError{fmt.Errorf("-attacks: there is no %q; want some of %s", name, strings.Join(all, ","))}
		}
		o.attacks = append(o.attacks, attacks[i])
	}
	switch {
	case fs.NArg() > 0:
		return o, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	case markdown && o.json:
		return o, usageError{errors.New("-markdown and -json: want one of them")}
	case o.runs < 1 || o.runs > 100:
		return o, usageError{fmt.Errorf("-runs %d: want 1 to 100", o.runs)}
	case o.lasting < 100*time.Millisecond || o.lasting > time.Minute:
		return o, usageError{fmt.Errorf("-duration %v: want 100ms to 1m", o.lasting)}
	}
	o.progress = stderr
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("this needs root: the hosts are network namespaces; try: sudo env PATH=\"$PATH\" go run ./bench/attack")
	}
	if err := bench.Sweep(); err != nil {
		return err
	}
	if o.binary == "" {
		dir, err := os.MkdirTemp("", "overtap-attack")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if o.binary, err = bench.Build(ctx, dir); err != nil {
			return err
		}
	}
	r := report{Machine: bench.ThisMachine(ctx, o.binary), Seconds: o.lasting.Seconds(), Runs: o.runs}
	for _, a := range o.attacks {
		results, err := o.measure(ctx, a)
		if err != nil {
			return err
		}
		r.Results = append(r.Results, results...)
	}
	if o.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	return r.writeMarkdown(stdout)
}

// measure does one attack to every column, and again, so that whatever else the
// machine does falls on all of them.
func (o options) measure(ctx context.Context, a attack) (all []Result, err error) {
	for n := range o.runs {
		for _, c := range a.columns() {
			r, err := strike(ctx, a, c, o.lasting, o.binary)
			if err != nil {
				return nil, fmt.Errorf("attack %s, %s: %w", a.name, c.title, err)
			}
			fmt.Fprintf(o.progress, "%s, %s, run %d of %d: %.0f frames/s; probe %v\n", a.name, c.title, n+1, o.runs, r.rate(), r.During)
			all = append(all, r)
		}
	}
	return all, nil
}
