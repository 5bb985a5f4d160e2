package encap

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) as an accumulator: a 64-bit ones'-complement
// sum of little-endian words, begun at zero or at a pseudo-header's sum, grown
// by Sum, ended by Fold. Words are read little-endian on every machine, which
// costs no swap on nearly all of them; the sum's byte order is turned once, in
// Fold (RFC 1071 section 2(B)). So accumulators may be added to by Sum and the
// Pseudo functions only, and mean nothing in themselves.
//
//	sum := Sum(payload, Sum(header, PseudoSum4(src, dst, ProtoTCP, n)))
//	binary.BigEndian.PutUint16(header[16:], ^Fold(sum))

// Sum adds the bytes of b to the accumulator initial. Data may come in chunks,
// of which only the last may have an odd length: it is padded by a zero byte.
// With the same bytes and initial, every machine returns the same accumulator.
func Sum(b []byte, initial uint64) uint64 {
	return sum(b, initial)
}

// sumGeneric is Sum in portable Go, and its oracle where assembly does the work:
// on amd64 with AVX2, unless built with the tag purego.
func sumGeneric(b []byte, initial uint64) uint64 {
	sum, carry := initial, uint64(0)
	for len(b) >= 128 {
		w := (*[128]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[0:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[56:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[64:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[72:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[80:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[88:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[96:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[104:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[112:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[120:]), carry)
		b = b[128:]
	}
	for len(b) >= 32 {
		w := (*[32]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[0:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	sum, carry = bits.Add64(sum, tail(b), carry)
	// The tail is below 2^56, so a sum that carried is too: this carries no more.
	return sum + carry
}

// tail returns up to seven bytes as the low end of a little-endian word.
func tail(b []byte) uint64 {
	var w uint64
	shift := 0
	if len(b) >= 4 {
		w, shift = uint64(binary.LittleEndian.Uint32(b)), 32
		b = b[4:]
	}
	if len(b) >= 2 {
		w |= uint64(binary.LittleEndian.Uint16(b)) << shift
		shift += 16
		b = b[2:]
	}
	if len(b) > 0 {
		w |= uint64(b[0]) << shift
	}
	return w
}

// Fold returns the accumulator's 16-bit ones'-complement sum as a number to be
// written big-endian. It is not complemented: ^Fold(sum) is a checksum, Fold of
// a pseudo-header's sum is what a partial checksum field holds, and 0xffff over
// data that include their checksum says that it is right. UDP writes a checksum
// of zero as 0xffff (RFC 768).
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffff_ffff
	sum = sum>>32 + sum&0xffff_ffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum))
}

// PseudoSum4 returns the accumulator of IPv4's pseudo-header (RFC 9293 section
// 3.1). length is that of transport header and payload in bytes.
func PseudoSum4(src, dst [4]byte, proto uint8, length uint32) uint64 {
	return uint64(binary.LittleEndian.Uint32(src[:])) +
		uint64(binary.LittleEndian.Uint32(dst[:])) +
		pseudoTail(proto, length)
}

// PseudoSum6 returns the accumulator of IPv6's pseudo-header (RFC 8200 section
// 8.1). length is that of transport header and payload in bytes, without
// extension headers. With a routing header, dst is the final destination.
func PseudoSum6(src, dst [16]byte, proto uint8, length uint32) uint64 {
	sum, carry := bits.Add64(binary.LittleEndian.Uint64(src[:]), binary.LittleEndian.Uint64(src[8:]), 0)
	sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(dst[:]), carry)
	sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(dst[8:]), carry)
	sum, carry = bits.Add64(sum, pseudoTail(proto, length), carry)
	return sum + carry
}

// pseudoTail sums the words for protocol and length. Both families may use it:
// the upper half of IPv6's length is zero over IPv4.
func pseudoTail(proto uint8, length uint32) uint64 {
	return uint64(proto)<<8 + uint64(bits.ReverseBytes32(length))
}

// UpdateChecksum returns the checksum old after one 16-bit word that it covers
// changed from from to to (RFC 1624 equation 3). All are numbers as read from
// network byte order.
func UpdateChecksum(old, from, to uint16) uint16 {
	sum := uint32(^old) + uint32(^from) + uint32(to)
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum)
}
