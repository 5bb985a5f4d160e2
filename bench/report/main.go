// Command report measures overtap beside the kernel's vxlan and writes what came
// of it: a Markdown table to standard output, and bench.md, bench.json and
// bench.svg to a directory.
//
//	go run ./bench/report [-runs 5] [-duration 2s] [-underlay all,notunnel,none]
//	    [-rows plain,kernel,overtap,overtap2] [-loads …] [-overtap FILE] [-out bench/out]
//
// The rows routed and ipip are IP-in-IP and what that is compared with.
//
//	go run ./bench/report -observe metrics,top [-runs 5] [-duration 2s] [-loads …]
//	    [-rows overtap] [-underlay all] [-overtap FILE]
//
// reports in place of that what it costs to watch the daemon: metrics are scraped every
// second and `overtap top` is open, or not. -runs are the pairs that are compared, and
// -duration is how long each half of one is.
//
// It needs root, for the hosts are network namespaces, and unless it is given a
// binary the go command and this module's source.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"overtap/bench"
	"overtap/bench/netlab"
)

func main() {
	// SIGPIPE too: `report | head` must leave no hosts behind.
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
	plan bench.Plan
	out  string
	// observe is who watches; none = the report is of the rows.
	observe []bench.Observer
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("report", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var underlays, rows, loads, observers string
	fs.IntVar(&o.plan.Runs, "runs", 5, "turns of each row in each load; with -observe pairs")
	fs.DurationVar(&o.plan.Options.Duration, "duration", 2*time.Second, "how long a turn sends; with -observe half a pair")
	fs.StringVar(&underlays, "underlay", names(netlab.Offloads, bench.UnderlayName),
		"kinds of underlay: with all offloads, without tunnel segmentation, with none")
	fs.StringVar(&rows, "rows", rowNames(bench.DefaultRows),
		"who makes the tunnel: some of "+rowNames(bench.Rows))
	fs.StringVar(&loads, "loads", names(installed(), loadName),
		"what is sent: some of "+names(bench.Loads, loadName)+"; those of iperf3 and sockperf need these programs")
	fs.StringVar(&o.plan.Binary, "overtap", "", "the `FILE` to run; \"\" = build it from this module")
	fs.StringVar(&o.out, "out", filepath.Join("bench", "out"), "`DIRECTORY` for bench.md, bench.json and bench.svg; \"\" = none")
	fs.StringVar(&observers, "observe", "", "report what it costs that these watch the daemon: some of "+
		names(bench.Observers, func(o bench.Observer) string { return o.Name }))
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{err}
	}
	if fs.NArg() > 0 {
		return o, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	var errs [3]error
	o.plan.Underlays, errs[0] = bench.ParseUnderlays(underlays)
	o.plan.Rows, errs[1] = bench.ParseRows(rows)
	o.plan.Loads, errs[2] = bench.ParseLoads(loads)
	if err := errors.Join(errs[:]...); err != nil {
		return o, usageError{err}
	}
	if observers != "" {
		if err := o.observed(fs, observers); err != nil {
			return o, usageError{err}
		}
	}
	if o.plan.Runs < 1 {
		return o, usageError{fmt.Errorf("-runs %d: want 1 at least", o.plan.Runs)}
	}
	if o.plan.Options.Duration < 10*time.Millisecond || o.plan.Options.Duration > time.Hour {
		return o, usageError{fmt.Errorf("-duration %v: want 10ms to 1h", o.plan.Options.Duration)}
	}
	return o, nil
}

// observed are the observers, and what is observed where the command line does not
// say: one row on one underlay.
func (o *options) observed(fs *flag.FlagSet, list string) (err error) {
	if o.observe, err = bench.ParseObservers(list); err != nil {
		return err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["rows"] {
		o.plan.Rows = []bench.Row{bench.Overtap}
	}
	if !given["underlay"] {
		o.plan.Underlays = o.plan.Underlays[:1]
	}
	if !given["loads"] {
		if o.plan.Loads, err = bench.ParseLoads("tcp1,tcp4,udp64,udp1400"); err != nil {
			return err
		}
	}
	if len(o.plan.Rows) != 1 || !o.plan.Rows[0].NeedsBinary() || len(o.plan.Underlays) != 1 {
		return errors.New("-observe: want one row that has a daemon, and one underlay")
	}
	return nil
}

func loadName(l bench.Load) string { return l.Name }

// installed are the loads whose program is there.
func installed() []bench.Load {
	return slices.DeleteFunc(slices.Clone(bench.Loads), func(l bench.Load) bool { return !l.Installed() })
}

func rowNames(rows []bench.Row) string {
	return names(rows, func(r bench.Row) string { return string(r) })
}

// names joins the names of all.
func names[T any](all []T, name func(T) string) string {
	var list []string
	for _, v := range all {
		list = append(list, name(v))
	}
	return strings.Join(list, ",")
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("this needs root: the hosts are network namespaces; try: sudo env PATH=\"$PATH\" go run ./bench/report")
	}
	if o.plan.Binary == "" && slices.ContainsFunc(o.plan.Rows, bench.Row.NeedsBinary) {
		dir, err := os.MkdirTemp("", "overtap-bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if o.plan.Binary, err = bench.Build(ctx, dir); err != nil {
			return err
		}
	}
	o.plan.Progress = func(line string) { fmt.Fprintln(stderr, line) }
	if len(o.observe) > 0 {
		r, err := bench.ObservePlan{
			Row: o.plan.Rows[0], Underlay: o.plan.Underlays[0], Loads: o.plan.Loads, Observers: o.observe,
			Runs: o.plan.Runs, Options: o.plan.Options, Binary: o.plan.Binary, Progress: o.plan.Progress,
		}.Run(ctx)
		if err != nil {
			return err
		}
		return r.WriteMarkdown(stdout)
	}
	r, err := o.plan.Run(ctx)
	if err != nil {
		return err
	}
	if err := write(r, o.out, stdout); err != nil {
		return err
	}
	if f := r.Failures(); len(f) > 0 {
		return fmt.Errorf("%d rows were not measured whole; see the end of the table", len(f))
	}
	return nil
}

// write prints the table and leaves the files in the directory.
func write(r *bench.Report, dir string, stdout io.Writer) error {
	if err := r.WriteMarkdown(stdout); err != nil {
		return err
	}
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		to   func(io.Writer) error
	}{{"bench.md", r.WriteMarkdown}, {"bench.json", r.WriteJSON}, {"bench.svg", r.WriteSVG}} {
		var b bytes.Buffer
		if err := f.to(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
