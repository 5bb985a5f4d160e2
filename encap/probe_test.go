package encap

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// A probe is byte for byte as the comment says.
func TestPutProbe(t *testing.T) {
	b := bytes.Repeat([]byte{0xff}, 64)
	PutProbe(b, 0x0242_c000_0201, Probe{ID: 0x0102030405060708, Len: 64, Held: 9})
	const want = "0180c2000001" + "0242c0000201" + "88b6" + "6f767470" + "01" + "01" + "0000" + "0102030405060708" + "00000040" + "00000009"
	if got := hex.EncodeToString(b[:probeFields]); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if !bytes.Equal(b[probeFields:], make([]byte, 64-probeFields)) {
		t.Errorf("padded with %x", b[probeFields:])
	}
	if !MACFrom(b).IsBridgeControl() {
		t.Error("a bridge may forward it")
	}
}

func TestParseProbe(t *testing.T) {
	for _, p := range []Probe{{ID: 1, Len: ProbeLen}, {ID: 1<<64 - 1, Len: 1464, Reply: true, Held: 1<<32 - 1}} {
		b := make([]byte, ProbeLen)
		PutProbe(b, 1, p)
		if got, ok := ParseProbe(b); !ok || got != p {
			t.Errorf("%+v came back as %+v, %t", p, got, ok)
		}
	}
	b := make([]byte, ProbeLen)
	PutProbe(b, 1, Probe{ID: 7, Len: ProbeLen})
	for name, spoil := range map[string]func([]byte) []byte{
		"nothing":           func(b []byte) []byte { return nil },
		"cut off":           func(b []byte) []byte { return b[:probeFields-1] },
		"shorter than sent": func(b []byte) []byte { return b[:ProbeLen-1] },
		"padded":            func(b []byte) []byte { return append(b, 0) },
		"another EtherType": func(b []byte) []byte { b[13]--; return b },
		"another protocol":  func(b []byte) []byte { b[14]++; return b },
		"another version":   func(b []byte) []byte { b[18]++; return b },
		"another kind":      func(b []byte) []byte { b[19] = 3; return b },
	} {
		if p, ok := ParseProbe(spoil(bytes.Clone(b))); ok {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// FuzzProbe wants whatever is read as a probe to be what PutProbe writes.
func FuzzProbe(f *testing.F) {
	for _, p := range []Probe{{ID: 1, Len: ProbeLen}, {ID: 1 << 63, Len: 1464, Reply: true, Held: 1}} {
		b := make([]byte, ProbeLen)
		PutProbe(b, 1, p)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := ParseProbe(b)
		if !ok {
			return
		}
		again := bytes.Repeat([]byte{0xff}, max(len(b), ProbeLen))
		PutProbe(again, MACFrom(b[MACLen:]), p)
		if got, ok := ParseProbe(again[:max(len(b), probeFields)]); !ok || got != p {
			t.Errorf("%+v came back as %+v, %t", p, got, ok)
		}
		if from := EthernetHeaderLen; !bytes.Equal(again[from:20], b[from:20]) || !bytes.Equal(again[22:probeFields], b[22:probeFields]) {
			t.Errorf("%x was read, and is written %x", b[:probeFields], again[:probeFields])
		}
	})
}
