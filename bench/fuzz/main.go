// Command fuzz runs every fuzz target of this module, one after the other, and
// prints what came of each.
//
//	go run ./bench/fuzz [-time 10s] [-targets REGEXP] [-parallel N] [-corpus DIR] [-keep]
//
// The tree is not written to unless -keep asks for the inputs that failed: they are
// put where `go test` finds them from then on, in testdata/fuzz of their package.
// -corpus names a directory for the inputs that reached new code, with which a later
// run begins. The exit status is 1 when a target failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
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
	root     string // the module's directory
	time     time.Duration
	targets  *regexp.Regexp
	parallel int
	corpus   string // "" = none is kept
	keep     bool
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	fs := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	fs.SetOutput(stderr)
	var targets string
	fs.DurationVar(&o.time, "time", 10*time.Second, "how long each target runs")
	fs.StringVar(&targets, "targets", "", "only those whose name matches the `REGEXP`")
	fs.IntVar(&o.parallel, "parallel", 1, "processes of a target")
	fs.StringVar(&o.corpus, "corpus", "", "`DIR` to keep inputs in that reach new code; \"\" = nowhere")
	fs.BoolVar(&o.keep, "keep", false, "put inputs that fail into testdata/fuzz")
	fs.StringVar(&o.root, "module", ".", "`DIR` of the module")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{err}
	}
	if fs.NArg() > 0 {
		return o, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	if o.time <= 0 {
		return o, usageError{fmt.Errorf("-time %v: want more than none", o.time)}
	}
	if o.parallel < 1 {
		return o, usageError{fmt.Errorf("-parallel %d: want 1 at least", o.parallel)}
	}
	if o.targets, err = regexp.Compile(targets); err != nil {
		return o, usageError{fmt.Errorf("-targets: %w", err)}
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	out, err := command(ctx, o.root, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	o.root = strings.TrimSpace(string(out))
	if o.corpus != "" {
		if o.corpus, err = filepath.Abs(o.corpus); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "overtap-fuzz")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bed{options: o, dir: dir}
	packages, err := b.list(ctx)
	if err != nil {
		return err
	}
	if err := copyTree(o.root, b.tree()); err != nil {
		return fmt.Errorf("copy the module: %w", err)
	}
	fmt.Fprintln(stdout, "| target | execs | new inputs | result |\n| --- | --- | --- | --- |")
	ran, failed := 0, 0
	for _, p := range packages {
		if err := b.build(ctx, p); err != nil {
			return err
		}
		for _, target := range p.targets {
			r, err := b.fuzz(ctx, p, target)
			if err != nil {
				return err
			}
			ran++
			result := "ok"
			if r.failed {
				failed++
				result = "**failed**"
				fmt.Fprintf(stderr, "%s of %s:\n%s\n", target, p.path, r.output)
			}
			fmt.Fprintf(stdout, "| %s.%s | %d | %d | %s |\n", p.short(), target, r.execs, r.interesting, result)
		}
	}
	switch {
	case ran == 0:
		return errors.New("there is no such target")
	case failed > 0:
		return fmt.Errorf("%d of %d targets failed", failed, ran)
	}
	return nil
}

// command runs a program in dir and returns its output.
func command(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return out, nil
}
