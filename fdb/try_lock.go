package fdb

import (
	"runtime"
	"sync/atomic"
)

// tryLock admits one writer at a time. It does not block: a writer that cannot have it on the
// path goes on without it.
type tryLock struct{ taken atomic.Bool }

// tries is how often the path asks for a taken tryLock. Another worker that
// learns one address holds it for less time than so many loads take.
const tries = 8

// try takes the lock if it is free, or comes free at once.
func (t *tryLock) try() bool {
	for range tries {
		if !t.taken.Load() && t.taken.CompareAndSwap(false, true) {
			return true
		}
	}
	return false
}

// take waits for the lock. Control only.
func (t *tryLock) take() {
	for !t.try() {
		runtime.Gosched()
	}
}

func (t *tryLock) release() { t.taken.Store(false) }
