package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// minimize bounds the tries at a smaller input that does the same: for an
	// execution of thousands of steps the default minute is all there is.
	minimize = "100x"
	// grace is how long a target has to end after its time.
	grace = time.Minute
)

// bed is where the targets run: a copy of the module, for a target writes an input
// that fails to the directory it runs in, and reads what stands beside its package.
type bed struct {
	options
	dir string
}

func (b *bed) tree() string { return filepath.Join(b.dir, "tree") }

// pkg is a package with fuzz targets.
type pkg struct {
	path    string // to import it
	rel     string // its directory in the module
	targets []string
}

func (p *pkg) short() string { return filepath.Base(p.path) }

// binary is the package's test, compiled.
func (b *bed) binary(p *pkg) string {
	return filepath.Join(b.dir, strings.ReplaceAll(p.rel, string(filepath.Separator), "-")+".test")
}

// list finds the targets of the whole module.
func (b *bed) list(ctx context.Context) ([]*pkg, error) {
	out, err := command(ctx, b.root, "go", "test", "-list", "^Fuzz", "./...")
	if err != nil {
		return nil, err
	}
	module, err := command(ctx, b.root, "go", "list", "-m")
	if err != nil {
		return nil, err
	}
	var all []*pkg
	for _, p := range listed(string(out)) {
		rel := strings.TrimPrefix(strings.TrimPrefix(p.path, strings.TrimSpace(string(module))), "/")
		p.rel = filepath.FromSlash(rel)
		var some []string
		for _, t := range p.targets {
			if b.targets.MatchString(t) {
				some = append(some, t)
			}
		}
		if p.targets = some; len(some) > 0 {
			all = append(all, p)
		}
	}
	return all, nil
}

// listed reads what `go test -list` prints: a package's targets, and then a line
// with its name.
func listed(out string) (all []*pkg) {
	var targets []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 1 && strings.HasPrefix(f[0], "Fuzz"):
			targets = append(targets, f[0])
		case len(f) >= 2 && f[0] == "ok":
			if len(targets) > 0 {
				all = append(all, &pkg{path: f[1], targets: targets})
			}
			targets = nil
		}
	}
	return all
}

// build compiles the package's test with what guides a fuzzer.
func (b *bed) build(ctx context.Context, p *pkg) error {
	_, err := command(ctx, b.root, "go", "test", "-c", "-fuzz=^Fuzz", "-o", b.binary(p), p.path)
	return err
}

// result is what came of one target.
type result struct {
	execs, interesting int64
	failed             bool
	output             []byte
}

// fuzz runs one target. The error says that it could not be run.
func (b *bed) fuzz(ctx context.Context, p *pkg, target string) (result, error) {
	corpus := filepath.Join(b.dir, "corpus", p.rel)
	if b.corpus != "" {
		corpus = filepath.Join(b.corpus, p.rel)
	}
	limit, cancel := context.WithTimeout(ctx, b.time+grace)
	defer cancel()
	cmd := exec.CommandContext(limit, b.binary(p), "-test.run=^$", "-test.fuzz=^"+target+"$",
		"-test.fuzztime="+b.time.String(), "-test.fuzzminimizetime="+minimize,
		"-test.fuzzcachedir="+corpus, "-test.parallel="+strconv.Itoa(b.parallel))
	cmd.Dir = filepath.Join(b.tree(), p.rel)
	// Its processes are a group, which a target that hangs leaves none of.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err := ctx.Err(); err != nil {
		return result{}, err
	}
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		return result{}, fmt.Errorf("run %s of %s: %w", target, p.path, err)
	}
	r := result{output: out.Bytes(), failed: err != nil && !timeWasUp(out.Bytes())}
	r.execs, r.interesting = progress(out.Bytes())
	if at := failing.FindSubmatch(r.output); at != nil && r.failed && b.keep {
		return r, b.keepInput(p, string(at[1]))
	}
	return r, nil
}

var (
	progressed = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+)`)
	failing    = regexp.MustCompile(`Failing input written to (testdata/fuzz/\S+)`)
	deadline   = regexp.MustCompile(`(?m)^--- FAIL: .*\n    context deadline exceeded\n`)
)

// timeWasUp reports whether a target failed only because its time ended within an
// execution, as testing's coordinator says at times.
func timeWasUp(out []byte) bool { return deadline.Match(out) && !failing.Match(out) }

// progress reads the last of the lines in which a target says how far it is.
func progress(out []byte) (execs, interesting int64) {
	if all := progressed.FindAllSubmatch(out, -1); len(all) > 0 {
		last := all[len(all)-1]
		// What is too large for a number is not printed by testing.
		execs, _ = strconv.ParseInt(string(last[1]), 10, 64)
		interesting, _ = strconv.ParseInt(string(last[2]), 10, 64)
	}
	return execs, interesting
}

// keepInput copies an input that failed to the module.
func (b *bed) keepInput(p *pkg, name string) error {
	input, err := os.ReadFile(filepath.Join(b.tree(), p.rel, name))
	if err != nil {
		return fmt.Errorf("keep an input that failed: %w", err)
	}
	to := filepath.Join(b.root, p.rel, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("keep an input that failed: %w", err)
	}
	if err := os.WriteFile(to, input, 0o644); err != nil {
		return fmt.Errorf("keep an input that failed: %w", err)
	}
	return nil
}

// copyTree copies the files of a module, but not what begins with a dot.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case rel != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}
