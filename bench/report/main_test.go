package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"overtap/bench"
	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-runs", "3", "-duration", "500ms", "-underlay", "none", "-rows", "kernel,overtap", "-loads", "rtt"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	p := o.plan
	if p.Runs != 3 || p.Options.Duration != 500*time.Millisecond || !slices.Equal(p.Underlays, []netlab.Offload{netlab.NoOffloads}) ||
		!slices.Equal(p.Rows, []bench.Row{bench.Kernel, bench.Overtap}) || len(p.Loads) != 1 || p.Loads[0].Name != "rtt" {
		t.Errorf("%+v", o)
	}
	o, err = parse(nil, io.Discard)
	if err != nil || len(o.plan.Underlays) != 3 || len(o.plan.Rows) != 4 || len(o.plan.Loads) != len(bench.Loads) ||
		o.plan.Runs != 5 || o.plan.Options.Duration != 2*time.Second || o.out != "bench/out" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestParseObserve(t *testing.T) {
	o, err := parse([]string{"-observe", "metrics,top"}, io.Discard)
	if err != nil || len(o.observe) != 2 || !slices.Equal(o.plan.Rows, []bench.Row{bench.Overtap}) || !slices.Equal(o.plan.Underlays, []netlab.Offload{netlab.AllOffloads}) ||
		len(o.plan.Loads) != 4 {
		t.Errorf("%+v, %v", o, err)
	}
	o, err = parse([]string{"-observe", "top", "-rows", "overtap2", "-underlay", "none", "-loads", "rtt"}, io.Discard)
	if err != nil || len(o.observe) != 1 || o.plan.Rows[0] != bench.Overtap2 || o.plan.Underlays[0] != netlab.NoOffloads || o.plan.Loads[0].Name != "rtt" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-runs 0", "-runs 0: want 1 at least"},
		{"-duration 1ms", "want 10ms to 1h"},
		{"-underlay some", `underlay "some": want some of all,notunnel,none`},
		{"-rows kernel,x", `row "x"`},
		{"-loads y", `load "y"`},
		{"-nothing", "-nothing"},
		{"all", `unexpected argument "all"`},
		{"-observe none", `observer "none": want some of metrics,top`},
		{"-observe top -rows kernel", "want one row that has a daemon"},
	} {
		err := run(t.Context(), strings.Fields(c.args), io.Discard, io.Discard)
		if !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want a usage error with %q", c.args, err, c.want)
		}
	}
	if err := run(t.Context(), []string{"-h"}, io.Discard, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

// TestRun measures the row that needs neither a binary nor a kernel's vxlan.
func TestRun(t *testing.T) {
	netlabtest.Root(t)
	dir := filepath.Join(t.TempDir(), "deep", "out")
	var out, progress bytes.Buffer
	args := []string{"-rows", "plain", "-loads", "udp64", "-underlay", "none", "-runs", "1", "-duration", "20ms", "-out", dir}
	if err := run(t.Context(), args, &out, &progress); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"bench.md": "| UDP 64 B flood | plain |", "bench.svg": "</svg>"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s: %v, want %q in\n%s", name, err, want, b)
		}
	}
	md, err := os.ReadFile(filepath.Join(dir, "bench.md"))
	if err != nil || !bytes.Equal(md, out.Bytes()) {
		t.Errorf("what is printed is not bench.md: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	var r bench.Report
	if err != nil || json.Unmarshal(b, &r) != nil || len(r.Underlays) != 1 || len(r.Underlays[0].Loads[0].Lanes[0].Samples) != 1 {
		t.Errorf("bench.json: %v\n%s", err, b)
	}
	if !strings.Contains(progress.String(), "turn 1 of 1") {
		t.Errorf("progress: %s", &progress)
	}
}
