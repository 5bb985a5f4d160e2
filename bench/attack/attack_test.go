package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"overtap/bench"
	"overtap/bench/netlab/netlabtest"
)

var binary struct {
	sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := os.RemoveAll(binary.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// program returns the path of the overtap binary, built once.
func program(t *testing.T) string {
	t.Helper()
	binary.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "overtap-attack"); binary.err == nil {
			binary.path, binary.err = bench.Build(context.Background(), binary.dir)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// TestAttacks does each attack once, for a short time, and looks at what was
// counted; how fast anything was depends on what else the machine does.
func TestAttacks(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	const count = 100_000
	for _, a := range attacks {
		for _, c := range a.columns() {
			t.Run(a.name+"/"+c.title, func(t *testing.T) {
				r := strikeShortly(t, a, c, count)
				t.Logf("%+v", r)
				if r.Before.Sent == 0 || r.During.Sent == 0 || r.After.Sent == 0 || r.Sent == 0 {
					t.Fatalf("nothing was measured: %+v", r)
				}
				if a.tcp && (r.TCPBefore == 0 || r.TCPDuring == 0) {
					t.Errorf("no TCP: %v before, %v meanwhile", r.TCPBefore, r.TCPDuring)
				}
				judge(t, a, c, &r, count)
			})
		}
	}
}

func strikeShortly(t *testing.T, a attack, c column, count int) (r Result) {
	t.Helper()
	const lasting = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), strikeLimit)
	defer cancel()
	s, err := newScene(ctx, a, c, lasting, program(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	s.most = count
	if r, err = s.strike(ctx, a); err != nil {
		t.Fatal(err)
	}
	return r
}

// judge looks at what an attack left in a column.
func judge(t *testing.T, a attack, c column, r *Result, count int) {
	t.Helper()
	// What a queue lost before the tunnel's end saw it.
	atLeast := func(what string, got uint64, share float64) {
		t.Helper()
		if want := uint64(share * float64(r.Sent)); got+r.SocketDropped < want {
			t.Errorf("%s: %d, and %d lost at the socket, want at least %d of %d", what, got, r.SocketDropped, want, r.Sent)
		}
	}
	const (
		table = 65536
		few   = 10 // MACs that are there without an attack
	)
	switch {
	case a.name == "macs" && c.kernel:
		if r.Entries < count/2 {
			t.Errorf("the kernel learned %d of %d MACs: is it bounded now?", r.Entries, count)
		}
	case a.name == "macs":
		if r.Entries > table/2+few || r.Bridge > 2*table {
			t.Errorf("%d entries, want a peer's share at most; %d of the bridge", r.Entries, r.Bridge)
		}
		atLeast("not learned from", r.Unlearned+table/2, 0.9)
		atLeast("delivered", r.Delivered, 0.9)
	case a.name == "stranger" && c.kernel:
		if r.Delivered == 0 || r.Entries < 2 {
			t.Errorf("the kernel took nothing of a stranger: %+v", r)
		}
	case a.name == "stranger":
		atLeast("refused", r.Drops["peer_not_admitted"], 0.9)
		if r.Entries > 3 {
			t.Errorf("%d MACs learned, of a stranger", r.Entries)
		}
	case a.name == "storm" && c.lines != nil:
		atLeast("bounded", r.Drops["storm_broadcast"], 0.3)
	case a.name == "flap" && !c.kernel:
		if r.Moves != 4 || r.Frozen != 1 {
			t.Errorf("%d moves and %d frozen, want 4 and 1", r.Moves, r.Frozen)
		}
	case a.name == "theft" && c.pins:
		atLeast("refused", r.Drops["vxlan_entry_exists"], 0.9)
		if r.Moves > 0 || r.After.Loss() > 0.1 {
			t.Errorf("%d moves; the MAC's owner afterwards: %v", r.Moves, r.After)
		}
	case a.name == "theft" && !c.kernel:
		if r.Moves > 4 {
			t.Errorf("%d moves, want 4 at most", r.Moves)
		}
	}
}

// Figures are medians, columns stand in their order, and what is zero everywhere
// is left out.
func TestMarkdown(t *testing.T) {
	r := report{Seconds: 3, Runs: 3}
	for _, rate := range []int64{30, 10, 20} {
		for _, c := range []string{"overtap", "kernel"} {
			one := Result{Attack: "x", Title: "An attack", Column: c, Sent: rate * 1000, Took: 1}
			if c == "kernel" {
				one.Entries = 1_000_000
			}
			r.Results = append(r.Results, one)
		}
	}
	var b bytes.Buffer
	if err := r.writeMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"### An attack\n\n| | overtap | kernel |\n| --- | --- | --- |\n",
		"| attack | 20.0 k/s | 20.0 k/s |\n", "| MACs learned by the tunnel's end | 0 | 1.00 M |\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	if strings.Contains(b.String(), "TCP") {
		t.Errorf("what was not measured is shown:\n%s", &b)
	}
	out, err := json.Marshal(r)
	if err != nil || !bytes.Contains(out, []byte(`"entries":1000000`)) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-attacks", "macs,none"}, `no "none"`}, {[]string{"-runs", "0"}, "-runs 0"},
		{[]string{"-duration", "1ms"}, "-duration 1ms"}, {[]string{"x"}, `"x"`}, {[]string{"-json", "-markdown"}, "one of them"},
	} {
		if _, err := parse(c.args, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
	o, err := parse([]string{"-attacks", "flap,macs"}, new(bytes.Buffer))
	if err != nil || len(o.attacks) != 2 || !slices.Equal([]string{o.attacks[0].name, o.attacks[1].name}, []string{"flap", "macs"}) {
		t.Errorf("%+v, %v", o.attacks, err)
	}
}
