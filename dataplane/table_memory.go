package dataplane

import (
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/fdb"
)

// tableMemory gives a forwarding table an array of pages that the kernel fills as
// entries come. Go's heap gives such pages only at first: once it has collected
// garbage it reuses that memory, and has touched every page to clear it. A network
// would then cost 2 MiB without an entry.
//
// Pages of a table that is unreachable go back to the kernel, and their addresses
// to the next table of the size. They are never unmapped: a reader that is in
// the last instructions of its lookup by then reads nothing, and does not fault.
func tableMemory(t *fdb.Table, words int) []uint64 {
	const word = int(unsafe.Sizeof(uint64(0)))
	b := freeTables.take(words * word)
	if b == nil {
		var err error
		b, err = unix.Mmap(-1, 0, words*word, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
		if err != nil {
			return make([]uint64, words)
		}
	}
	runtime.AddCleanup(t, freeTables.put, b)
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), words)
}

// freeTables are the arrays of tables that are gone.
var freeTables tablePool

type tablePool struct {
	mu   sync.Mutex
	free map[int][][]byte // by size
}

func (p *tablePool) take(size int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.free[size]
	if len(all) == 0 {
		return nil
	}
	p.free[size] = all[:len(all)-1]
	return all[len(all)-1]
}

func (p *tablePool) put(b []byte) {
	if unix.Madvise(b, unix.MADV_DONTNEED) != nil {
		clear(b)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == nil {
		p.free = make(map[int][][]byte)
	}
	p.free[len(b)] = append(p.free[len(b)], b)
}
