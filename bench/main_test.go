package bench

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"overtap/bench/netlab"
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
func program(tb testing.TB) string {
	tb.Helper()
	binary.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "overtap-bench"); binary.err == nil {
			binary.path, binary.err = Build(context.Background(), binary.dir)
		}
	})
	check(tb, binary.err)
	return binary.path
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// needs skips the test without root or, for rows that need it, the kernel's
// vxlan.
func needs(tb testing.TB, rows ...Row) {
	tb.Helper()
	netlabtest.Root(tb)
	for _, r := range rows {
		if r.NeedsKernel() && !netlab.HaveKernelVXLAN() {
			tb.Skip("this kernel has no vxlan")
		}
	}
}

// newBed builds a bed that goes away with the test.
func newBed(tb testing.TB, s BedSpec) *Bed {
	tb.Helper()
	if s.Row.NeedsBinary() {
		s.Binary = program(tb)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := NewBed(ctx, s)
	check(tb, err)
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// missing skips the test for lack of a program, or fails it when REQUIRE_ROOT is 1.
func missing(tb testing.TB, program string) {
	tb.Helper()
	if os.Getenv("REQUIRE_ROOT") == "1" {
		tb.Fatalf("there is no %s, and REQUIRE_ROOT=1 forbids to skip: install it", program)
	}
	tb.Skipf("there is no %s", program)
}

func loadNamed(tb testing.TB, name string) Load {
	tb.Helper()
	ls, err := ParseLoads(name)
	check(tb, err)
	return ls[0]
}
