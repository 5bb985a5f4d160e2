package fdb

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// hashKey keys a hash: multiply and fold (the mixing step of wyhash), then the
// upper half of one product more. The fold alone is uneven for one key in a
// hundred: addresses that count up then make runs of thousands of slots.
//
// Each table has its own random key: a container chooses its MACs and, with
// admission by prefix, an unlisted sender its address, and neither must be able to make
// them collide into one long probe.
type hashKey struct{ xor, mul uint64 }

func newHashKey() hashKey {
	return hashKey{xor: rand.Uint64(), mul: rand.Uint64() | 1}
}

// word hashes x to 32 bits.
func (h hashKey) word(x uint64) uint64 {
	hi, lo := bits.Mul64(x^h.xor, h.mul)
	return (hi ^ lo) * goldenRatio >> 32
}

// goldenRatio is 2^64 divided by it, made odd (Knuth, TAOCP 6.4).
const goldenRatio = 0x9e37_79b9_7f4a_7c15

// addr hashes an address; the zone does not count.
func (h hashKey) addr(a netip.Addr) uint64 {
	if a.Is4() {
		b := a.As4()
		return h.word(uint64(binary.BigEndian.Uint32(b[:])))
	}
	b := a.As16()
	upper, lower := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	return h.word(h.word(upper)<<32 ^ lower)
}
