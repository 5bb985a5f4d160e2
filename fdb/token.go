package fdb

import (
	"runtime"
	"sync/atomic"
)

// token admits one writer at a time. It is no lock: who cannot have it on the
// road goes on without.
type token struct{ taken atomic.Bool }

// tries is how often the road asks for a taken token. Another worker that
// learns one address holds it for less time than so many loads take.
const tries = 8

// try takes the token if it is free, or comes free at once.
func (t *token) try() bool {
	for range tries {
		if !t.taken.Load() && t.taken.CompareAndSwap(false, true) {
			return true
		}
	}
	return false
}

// take waits for the token. Control only.
func (t *token) take() {
	for !t.try() {
		runtime.Gosched()
	}
}

func (t *token) release() { t.taken.Store(false) }
