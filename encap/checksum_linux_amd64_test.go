//go:build !purego

package encap

import (
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSumUsesAVX2 asks the kernel whether the CPU has AVX2, so that a wrong
// detection is noticed, and lets Sum fault to see which code was reading.
func TestSumUsesAVX2(t *testing.T) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^flags\s*:.*\bavx2\b`).Match(info) {
		t.Skip("this CPU has no AVX2")
	}
	page := fencedPage(t)
	if err := unix.Mprotect(page, unix.PROT_NONE); err != nil {
		t.Fatalf("closing the page: %v", err)
	}
	for n, want := range map[int]string{
		1:             "overtap/encap.sumGeneric",
		vectorMin - 1: "overtap/encap.sumGeneric",
		vectorMin:     "overtap/encap.sumAVX2",
		1398:          "overtap/encap.sumAVX2", // a full segment's payload
	} {
		if readers := faulting(func() { sink = Sum(page[:n], 0) }); !slices.Contains(readers, want) {
			t.Errorf("%d bytes are summed by %q, want %s", n, readers, want)
		}
	}
}

// faulting returns the functions on the stack when f touches what it must not.
func faulting(f func()) (names []string) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() == nil {
			return
		}
		pcs := make([]uintptr, 32)
		frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
		for more := true; more; {
			var frame runtime.Frame
			frame, more = frames.Next()
			names = append(names, frame.Function)
		}
	}()
	f()
	return nil
}
