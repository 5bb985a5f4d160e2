package encap

import (
	"errors"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

func TestVXLAN(t *testing.T) {
	for _, c := range []struct {
		bytes    string
		vni      VNI
		reserved bool
		gpe      bool
	}{
		{"08 000000 000000 00", 0, false, false},
		{"08 000000 000064 00", 100, false, false},
		{"08 000000 123456 00", 0x123456, false, false},
		{"08 000000 ffffff 00", MaxVNI, false, false},
		{"88 000000 000064 00", 100, true, false},
		{"88 480fff 000064 00", 100, true, false}, // GBP: G, D and A, and a group of 0x0fff
		{"fa ffffff 000064 ff", 100, true, false},
		{"0c 000001 000064 00", 100, true, true}, // GPE: P, next protocol IPv4
		{"0c 000003 000064 00", 100, true, true}, // GPE: P, next protocol Ethernet
		{"09 000000 000064 00", 100, true, true}, // GPE: O
		{"0a 000000 000064 00", 100, true, false},
		{"ff ffffff 000064 ff", 100, true, true},
		{"08 800000 000064 00", 100, true, false},
		{"08 000001 000064 00", 100, true, false},
		{"08 000004 000064 00", 100, true, false},
		{"08 000000 000064 01", 100, true, false},
		{"08 000000 000064 05", 100, true, false},
		{"08 000000 000064 80", 100, true, false},
	} {
		wire := fromHex(t, c.bytes)
		got, err := ParseVXLAN(append(wire, guard))
		if err != nil {
			t.Errorf("ParseVXLAN(%s): %v", c.bytes, err)
		}
		equal(t, c.bytes, got, VXLAN{c.vni, c.reserved, c.gpe})
		if !c.reserved {
			equalBytes(t, c.bytes, putInto(t, VXLANHeaderLen, func(b []byte) { PutVXLAN(b, c.vni) }), wire)
		}
	}
}

func TestVXLANRefused(t *testing.T) {
	for _, c := range []struct {
		bytes string
		want  error
	}{
		{"", ErrShort},
		{"08 000000 000064", ErrShort},
		{"00 000000 000064 00", ErrNoVNIFlag},
		{"f7 ffffff ffffff ff", ErrNoVNIFlag},
	} {
		if got, err := ParseVXLAN(fromHex(t, c.bytes)); !errors.Is(err, c.want) || got != (VXLAN{}) {
			t.Errorf("ParseVXLAN(%s) = %v, %v, want %v", c.bytes, got, err, c.want)
		}
	}
}

func FuzzVXLAN(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0, 0, 100, 0})
	f.Add([]byte{0x88, 0x40, 1, 2, 0xff, 0xff, 0xff, 1, 2, 3})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{8, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseVXLAN(b)
		var ref layers.VXLAN
		refErr := ref.DecodeFromBytes(b, gopacket.NilDecodeFeedback)
		if accepts := refErr == nil && ref.ValidIDFlag; accepts != (err == nil) {
			t.Fatalf("ParseVXLAN: %v; gopacket: %v, I flag %t", err, refErr, ref.ValidIDFlag)
		}
		if err != nil {
			return
		}
		equal(t, "VNI", got.VNI, VNI(ref.VNI))
		wire := putInto(t, VXLANHeaderLen, func(b []byte) { PutVXLAN(b, got.VNI) })
		again, err := ParseVXLAN(wire)
		if err != nil || again != (VXLAN{VNI: got.VNI}) {
			t.Errorf("Put and parsed again: %v, %v", again, err)
		}
		equal(t, "Put of Parse gives the same bytes", string(wire) == string(b[:VXLANHeaderLen]), !got.Reserved)
	})
}

func BenchmarkParseVXLAN(b *testing.B) {
	buf := make([]byte, VXLANHeaderLen)
	PutVXLAN(buf, 100)
	b.SetBytes(VXLANHeaderLen)
	b.ReportAllocs()
	for b.Loop() {
		v, err := ParseVXLAN(buf)
		if err != nil || v.VNI != 100 {
			b.Fatal(v, err)
		}
	}
}

func BenchmarkPutVXLAN(b *testing.B) {
	buf := make([]byte, VXLANHeaderLen)
	b.SetBytes(VXLANHeaderLen)
	b.ReportAllocs()
	for b.Loop() {
		PutVXLAN(buf, 100)
	}
}
