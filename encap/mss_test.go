package encap

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// syn is a TCP segment with those flags and options, padded, and a right checksum
// over a pseudo-header's sum of pseudo.
func syn(flags uint8, options []byte, pseudo uint64) []byte {
	for len(options)%4 != 0 {
		options = append(options, tcpOptEnd)
	}
	b := make([]byte, TCPHeaderLen, TCPHeaderLen+len(options))
	b[12], b[13] = uint8(TCPHeaderLen+len(options))/4<<4, flags
	b = append(b, options...)
	binary.BigEndian.PutUint16(b[16:], ^Fold(Sum(b, pseudo)))
	return b
}

func TestClampMSS(t *testing.T) {
	for name, c := range map[string]struct {
		flags   uint8
		options []byte
		at      int // of the value in the options; 0 = untouched
	}{
		"SYN":              {TCPSYN, []byte{2, 4, 0x05, 0xb4}, 2},
		"SYN and ACK":      {TCPSYN | TCPACK, []byte{2, 4, 0x05, 0xb4, 1, 3, 3, 7}, 2},
		"behind others":    {TCPSYN, []byte{4, 2, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0x05, 0xb4}, 14},
		"at an odd place":  {TCPSYN, []byte{1, 2, 4, 0x05, 0xb4, 1}, 3},
		"no SYN":           {TCPACK, []byte{2, 4, 0x05, 0xb4}, 0},
		"small already":    {TCPSYN, []byte{2, 4, 0x05, 0x14}, 0}, // 1300
		"none":             {TCPSYN, []byte{1, 1, 1, 1}, 0},
		"behind the end":   {TCPSYN, []byte{0, 2, 4, 0x05, 0xb4, 0, 0, 0}, 0},
		"wrong length":     {TCPSYN, []byte{2, 3, 0x05, 1}, 0},
		"length of nought": {TCPSYN, []byte{3, 0, 2, 4, 5, 0xb4, 0, 0}, 0},
		"cut off":          {TCPSYN, []byte{1, 1, 2, 40}, 0},
		"kind alone":       {TCPSYN, []byte{1, 1, 1, 2}, 0},
	} {
		b := syn(c.flags, c.options, 12345)
		want := bytes.Clone(b)
		if c.at != 0 {
			binary.BigEndian.PutUint16(want[TCPHeaderLen+c.at:], 1300)
			binary.BigEndian.PutUint16(want[16:], 0)
			binary.BigEndian.PutUint16(want[16:], ^Fold(Sum(want, 12345)))
		}
		if got := ClampMSS(b, 1300, false); got != (c.at != 0) || !bytes.Equal(b, want) {
			t.Errorf("%s: %t\n% x, want\n% x", name, got, b, want)
		}
		partial := syn(c.flags, c.options, 12345)
		sum := TCP(partial).Checksum()
		if got := ClampMSS(partial, 1300, true); got != (c.at != 0) || TCP(partial).Checksum() != sum {
			t.Errorf("%s: a partial checksum was touched", name)
		}
	}
	for n := range 24 {
		ClampMSS(syn(TCPSYN, []byte{2, 4, 0x05, 0xb4}, 0)[:n], 1300, false)
	}
}

// Whatever the options, the checksum stays as right or wrong as it was, and
// nothing but the value changes.
func TestClampMSSKeepsTheSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		options := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte{0, 1, 2, 4})), 0, 40).Draw(t, "options")
		most := rapid.Uint16().Draw(t, "most")
		pseudo := uint64(rapid.Uint32().Draw(t, "pseudo"))
		b := syn(TCPSYN, options, pseudo)
		before := bytes.Clone(b)
		changed := ClampMSS(b, most, false)
		if sum := Fold(Sum(b, pseudo)); sum != 0xffff {
			t.Fatalf("the sum is %#x", sum)
		}
		if !changed && !bytes.Equal(b, before) {
			t.Fatal("changed all the same")
		}
		differs := 0
		for i := range b {
			if b[i] != before[i] && i != 16 && i != 17 {
				differs++
			}
		}
		if differs > 2 {
			t.Fatalf("%d bytes differ", differs)
		}
	})
}
