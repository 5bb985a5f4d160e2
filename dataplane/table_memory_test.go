package dataplane

import (
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// resident returns this process's resident memory in KiB.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s*(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no VmRSS in\n%s", text)
	}
	kib, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// garbage is what is allocated between two tables.
var garbage []byte

// Tables without an entry take next to nothing, also of a heap that is used for other
// things meanwhile.
func TestTableMemory(t *testing.T) {
	const tables, entries = 100, 1 << 16 // 2 MiB of address space each
	clock := fdb.NewClock()
	fill := func() {
		for i := range 100 {
			garbage = make([]byte, 1000*i)
		}
	}
	for range tables {
		fill() // until the heap is as large as it gets by that
	}
	before := resident(t)
	var all []*fdb.Table
	for range tables {
		all = append(all, fdb.NewTableIn(tableMemory, entries, 300, clock))
		fill()
	}
	if grown := resident(t) - before; grown > tables*512 {
		t.Errorf("%d empty tables take %d KiB", tables, grown)
	}
	if _, ok := all[0].Lookup(0x0242_0000_0001); ok {
		t.Error("an empty table has an entry")
	}
	runtime.KeepAlive(all)
}

// The memory of a table that is gone is that of the next of its size, and is empty.
func TestTableMemoryAgain(t *testing.T) {
	const entries = 3 << 10 // a size that no other test has
	clock := fdb.NewClock()
	const mac = encap.MAC(0x0242_0000_0001)
	size := 0
	func() {
		table := fdb.NewTableIn(func(t *fdb.Table, words int) []uint64 {
			size = 8 * words
			return tableMemory(t, words)
		}, entries, 300, clock)
		for i := range encap.MAC(1000) {
			if err := table.Put(mac+i, 1, fdb.Static); err != nil {
				t.Fatal(err)
			}
		}
	}()
	free := func() int {
		freeTables.mu.Lock()
		defer freeTables.mu.Unlock()
		return len(freeTables.free[size])
	}
	for deadline := time.Now().Add(30 * time.Second); free() == 0; time.Sleep(10 * time.Millisecond) {
		if runtime.GC(); time.Now().After(deadline) {
			t.Fatal("the memory of a table that is gone was not given back")
		}
	}
	next := fdb.NewTableIn(tableMemory, entries, 300, clock)
	if free() != 0 {
		t.Error("the next table has other memory")
	}
	if n := next.Len(); n != 0 {
		t.Errorf("the next table has %d entries", n)
	}
	for i := range encap.MAC(1000) {
		if _, ok := next.Lookup(mac + i); ok {
			t.Fatalf("the next table knows %s", mac+i)
		}
	}
}
