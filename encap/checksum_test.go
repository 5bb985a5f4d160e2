package encap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// slowSum is RFC 1071 word by word: the oracle.
func slowSum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSumVectors(t *testing.T) {
	for _, c := range []struct {
		bytes string
		want  uint16
	}{
		{"", 0},
		{"00", 0},
		{"01", 0x0100},
		{"0001", 0x0001},
		{"ffff", 0xffff},
		{"ffffffff", 0xffff},
		{"0001 f203 f4f5 f6f7", 0xddf2}, // RFC 1071 section 3
		{"4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7", 0xffff},
	} {
		equal(t, c.bytes, Fold(Sum(fromHex(t, c.bytes), 0)), c.want)
		equal(t, c.bytes+" by the oracle", slowSum(fromHex(t, c.bytes)), c.want)
	}
}

// checkSum compares Sum with its portable twin, bit by bit, and the twin with
// the oracle. initial is as if its bytes preceded b.
func checkSum(tb testing.TB, b []byte, initial uint64) {
	tb.Helper()
	got, twin := Sum(b, initial), sumGeneric(b, initial)
	if got != twin {
		tb.Fatalf("%d bytes onto %#x: %#x, by the twin %#x", len(b), initial, got, twin)
	}
	whole := append(binary.LittleEndian.AppendUint64(nil, initial), b...)
	if got, want := Fold(twin), slowSum(whole); got != want {
		tb.Fatalf("%d bytes onto %#x: %#04x, want %#04x", len(b), initial, got, want)
	}
}

// TestSumLengths goes through every length up to four rounds of the longest loop
// at every alignment, with data that carry seldom and data that always do.
func TestSumLengths(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random, ones := make([]byte, 544), make([]byte, 544)
	for i := range random {
		random[i], ones[i] = byte(rng.Uint32()), 0xff
	}
	for _, buf := range [][]byte{random, ones} {
		for n := range 513 {
			for align := range 32 {
				checkSum(t, buf[align:align+n], 0)
				checkSum(t, buf[align:align+n], rng.Uint64())
			}
		}
	}
}

// TestSumCarries starts from accumulators that are about to overflow. lows are
// words with an empty upper half but for the first: added up apart, as vectors
// do, their halves' sums carry only when they are put together.
func TestSumCarries(t *testing.T) {
	ones := bytes.Repeat([]byte{0xff}, 700)
	lows := bytes.Repeat([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 700/8)
	copy(lows, ones[:8])
	for _, initial := range []uint64{0, 1, ^uint64(0), ^uint64(0) - 1, 1 << 63, 1 << 32, 1<<32 - 1} {
		for n := range len(ones) {
			checkSum(t, ones[:n], initial)
			checkSum(t, make([]byte, n), initial)
			checkSum(t, lows[:min(n, len(lows))], initial)
		}
	}
}

// TestSumLong adds up what overflows first: a gsoPacket of ones.
func TestSumLong(t *testing.T) {
	ones := bytes.Repeat([]byte{0xff}, 1<<16)
	for n := 1; n <= len(ones); n++ {
		want := uint16(0xffff)
		if n%2 != 0 {
			want = 0xff00
		}
		if got := Fold(Sum(ones[:n], 0)); got != want {
			t.Fatalf("%d bytes of ones: %#04x, want %#04x", n, got, want)
		}
	}
	checkSum(t, ones, ^uint64(0))
}

func TestSumChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "bytes")
		sum, rest := uint64(0), whole
		for len(rest) > 0 {
			n := min(len(rest), 2*rapid.IntRange(1, 400).Draw(t, "words"))
			sum = Sum(rest[:n], sum)
			rest = rest[n:]
		}
		if got, want := Fold(sum), slowSum(whole); got != want {
			t.Fatalf("%#04x, want %#04x", got, want)
		}
	})
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint64(0), uint8(0))
	f.Add([]byte{1}, ^uint64(0), uint8(1))
	f.Add(make([]byte, 200), uint64(1)<<63, uint8(2))
	f.Add(bytes.Repeat([]byte{0xff}, 1448), ^uint64(0), uint8(6))
	f.Fuzz(func(t *testing.T, b []byte, initial uint64, align uint8) {
		checkSum(t, append(make([]byte, align%32), b...)[align%32:], initial)
	})
}

func TestPseudoSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "src"))
		dst := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "dst"))
		proto := rapid.Byte().Draw(t, "proto")
		length := rapid.Uint32().Draw(t, "length")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload")

		header := append(src[:len(src):len(src)], dst[:]...)
		header = binary.BigEndian.AppendUint32(header, length)
		header = append(header, 0, 0, 0, proto)
		if got, want := Fold(Sum(payload, PseudoSum6(src, dst, proto, length))), slowSum(append(header, payload...)); got != want {
			t.Fatalf("IPv6: %#04x, want %#04x", got, want)
		}

		header = append(src[:4:4], dst[:4]...)
		header = append(header, 0, proto)
		header = binary.BigEndian.AppendUint16(header, uint16(length))
		if got, want := Fold(Sum(payload, PseudoSum4([4]byte(src[:]), [4]byte(dst[:]), proto, length&0xffff))), slowSum(append(header, payload...)); got != want {
			t.Fatalf("IPv4: %#04x, want %#04x", got, want)
		}
	})
	ones := [16]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	equal(t, "all ones", Fold(PseudoSum6(ones, ones, 0, 1)), 1)
}

// TestTransportChecksums checks the sums that gopacket put into whole frames.
func TestTransportChecksums(t *testing.T) {
	for name, frame := range sampleFrames(t) {
		at, ok := FindTransport(frame)
		if !ok || at.Fragment || (at.Proto != ProtoTCP && at.Proto != ProtoUDP && at.Proto != ProtoICMPv6) ||
			name == "extensions6" || name == "options4" { // not summed for those headers
			continue
		}
		l4 := frame[at.L4:at.End]
		var pseudo uint64
		if ip := frame[at.L3:]; at.V6 {
			pseudo = PseudoSum6(IPv6(ip).SrcBytes(), IPv6(ip).DstBytes(), at.Proto, uint32(len(l4)))
		} else {
			pseudo = PseudoSum4(IPv4(ip).SrcBytes(), IPv4(ip).DstBytes(), at.Proto, uint32(len(l4)))
		}
		equal(t, name, Fold(Sum(l4, pseudo)), 0xffff)
	}
}

func TestUpdateChecksum(t *testing.T) {
	equal(t, "RFC 1624 section 4", UpdateChecksum(0xdd2f, 0x5555, 0x3285), 0x0000)
	rapid.Check(t, func(t *rapid.T) {
		header := rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "header")
		header[0] = 0x45 // no IP header is all zero
		word := 2 * rapid.IntRange(0, 4).Draw(t, "word")
		to := rapid.Uint16().Draw(t, "to")
		if word == 0 {
			to |= 0x4500
		}
		header[10], header[11] = 0, 0
		old, from := ^slowSum(header), binary.BigEndian.Uint16(header[word:])
		binary.BigEndian.PutUint16(header[word:], to)
		if got, want := UpdateChecksum(old, from, to), ^slowSum(header); got != want {
			t.Fatalf("checksum %#04x, word %#04x to %#04x: %#04x, want %#04x", old, from, to, got, want)
		}
	})
}

// sink keeps benchmarked results alive.
var sink uint64

// BenchmarkSum has Sum and its portable twin side by side.
func BenchmarkSum(b *testing.B) {
	for _, n := range []int{64, 256, 1448, 16384, 65000} {
		buf := make([]byte, n)
		for i := range buf {
			buf[i] = byte(i * 7)
		}
		b.Run(fmt.Sprintf("Sum/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				sink = Sum(buf, sink)
			}
		})
		b.Run(fmt.Sprintf("sumGeneric/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				sink = sumGeneric(buf, sink)
			}
		})
	}
}
