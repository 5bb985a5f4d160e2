//go:build !purego

package encap

import "golang.org/x/sys/cpu"

const (
	// vectorMin is the length in bytes from which sumAVX2 is used. Of a constant
	// length it wins from about 100 on, but of lengths that vary, and so are
	// mispredicted, only from about this one.
	vectorMin = 256
	// vectorMax keeps sumAVX2 far below the 32 GiB up to which it is exact.
	vectorMax = 1 << 30
)

func sum(b []byte, initial uint64) uint64 {
	if len(b) >= vectorMin && cpu.X86.HasAVX2 {
		n := min(len(b), vectorMax) &^ 31
		initial = sumAVX2(b[:n], initial)
		b = b[n:]
	}
	return sumGeneric(b, initial)
}

// sumAVX2 is sumGeneric for multiples of 32 bytes below 32 GiB, on CPUs that have
// AVX2. It reads b and nothing around it, which the race detector does not see.
//
//go:noescape
func sumAVX2(b []byte, initial uint64) uint64
