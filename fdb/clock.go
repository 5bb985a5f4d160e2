package fdb

import "sync/atomic"

// Clock is a coarse clock in whole seconds, one per engine. The engine's tick
// sets it once a second; the path only loads it, which costs less than asking
// the kernel for every frame. It starts at 1 and must not run backward.
type Clock struct {
	seconds atomic.Uint32
}

// NewClock returns a clock that stands at second 1, so that 0 is never a time at
// which something happened.
func NewClock() *Clock {
	c := new(Clock)
	c.seconds.Store(1)
	return c
}

// Now returns the current second.
func (c *Clock) Now() uint32 { return c.seconds.Load() }

// Set moves the clock to second s.
func (c *Clock) Set(s uint32) { c.seconds.Store(s) }

// since returns the seconds from then to now, as a signed number because another
// worker may have stamped then by a newer reading of the clock than ours.
func since(now, then uint32) int32 { return int32(now - then) }
