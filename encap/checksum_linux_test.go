package encap

import (
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// fencedPage returns a page between two that fault when touched.
func fencedPage(tb testing.TB) []byte {
	tb.Helper()
	size := unix.Getpagesize()
	area, err := unix.Mmap(-1, 0, 3*size, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		tb.Fatalf("mapping three pages: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Munmap(area); err != nil {
			tb.Errorf("unmapping three pages: %v", err)
		}
	})
	page := area[size : 2*size : 2*size]
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		tb.Fatalf("opening the middle page: %v", err)
	}
	return page
}

// TestSumStaysWithin sums up to the last byte, and from the first, of what may
// be read at all.
func TestSumStaysWithin(t *testing.T) {
	page := fencedPage(t)
	for i := range page {
		page[i] = byte(i * 7)
	}
	n := 0
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("summing %d bytes: %v", n, r)
		}
	}()
	for n = range len(page) + 1 {
		checkSum(t, page[len(page)-n:], 0)
		checkSum(t, page[:n], 0)
	}
}
