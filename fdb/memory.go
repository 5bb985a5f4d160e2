package fdb

import "unsafe"

// Memory gives a table its array: so many words, zero and untouched. It is asked
// with the table to be, and may take the array back once that is unreachable. nil
// is Go's heap.
type Memory func(t *Table, words int) []uint64

// slotsOf makes n empty slots of m.
func (m Memory) slotsOf(t *Table, n int) []slot {
	if m == nil {
		return make([]slot, n)
	}
	const words = int(unsafe.Sizeof(slot{}) / unsafe.Sizeof(uint64(0)))
	return unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(m(t, n*words)))), n)
}
