package fdb

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// hashKey keys a multiply-and-fold hash (the mixing step of wyhash). Each table
// has its own random key: a container chooses its MACs and, with admission by
// prefix, a stranger its address, and neither shall be able to make them
// collide into one long probe.
type hashKey struct{ xor, mul uint64 }

func newHashKey() hashKey {
	return hashKey{xor: rand.Uint64(), mul: rand.Uint64() | 1}
}

// word hashes x; all bits of the result are usable.
func (h hashKey) word(x uint64) uint64 {
	hi, lo := bits.Mul64(x^h.xor, h.mul)
	return hi ^ lo
}

// addr hashes an address; the zone does not count.
func (h hashKey) addr(a netip.Addr) uint64 {
	b := a.As16()
	return h.word(h.word(binary.BigEndian.Uint64(b[:8])) ^ binary.BigEndian.Uint64(b[8:]))
}
