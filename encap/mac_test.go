package encap

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestMAC(t *testing.T) {
	const text, word = "02:42:c0:00:02:01", MAC(0x0242_c000_0201)
	for _, s := range []string{text, strings.ToUpper(text)} {
		m, err := ParseMAC(s)
		if err != nil {
			t.Errorf("ParseMAC(%q): %v", s, err)
		}
		equal(t, s, m, word)
	}
	equal(t, "String", word.String(), text)
	wire := putInto(t, MACLen, word.Put)
	equalBytes(t, "Put", wire, fromHex(t, "0242c0000201"))
	equal(t, "MACFrom", MACFrom(wire), word)

	js, err := json.Marshal(word)
	if err != nil || string(js) != `"`+text+`"` {
		t.Errorf("JSON = %s, %v", js, err)
	}
	var back MAC
	if err := json.Unmarshal(js, &back); err != nil || back != word {
		t.Errorf("from JSON = %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`"nonsense"`), &back); err == nil || back != word {
		t.Errorf("from bad JSON = %v, %v; want an error and the old value", back, err)
	}
}

func TestParseMACRefused(t *testing.T) {
	for _, s := range []string{
		"", "02:42:c0:00:02", "02:42:c0:00:02:01:", "02-42-c0-00-02-01", "0242.c000.0201",
		"02:42:c0:00:02:0g", "02:42:c0:00:02:g0", "2:42:c0:00:02:011", " 2:42:c0:00:02:01", "02:42:c0:00:02:1",
	} {
		m, err := ParseMAC(s)
		if err == nil || m != 0 {
			t.Errorf("ParseMAC(%q) = %v, %v, want an error", s, m, err)
		} else if !strings.Contains(err.Error(), `"`+s+`"`) {
			t.Errorf("ParseMAC(%q): error %q does not quote the input", s, err)
		}
	}
}

func TestMACKinds(t *testing.T) {
	for _, c := range []struct {
		mac                                             string
		multicast, broadcast, zero, source, bridgeGroup bool
	}{
		{"00:00:00:00:00:00", false, false, true, false, false},
		{"00:00:00:00:00:01", false, false, false, true, false},
		{"02:42:c0:00:02:01", false, false, false, true, false},
		{"fe:ff:ff:ff:ff:ff", false, false, false, true, false},
		{"01:00:00:00:00:00", true, false, false, false, false},
		{"01:00:5e:00:00:fb", true, false, false, false, false},
		{"33:33:00:00:00:01", true, false, false, false, false},
		{"ff:ff:ff:ff:ff:ff", true, true, false, false, false},
		{"01:80:c2:00:00:00", true, false, false, false, true},
		{"01:80:c2:00:00:0f", true, false, false, false, true},
		{"01:80:c2:00:00:10", true, false, false, false, false},
		{"01:80:c1:ff:ff:ff", true, false, false, false, false},
	} {
		m, err := ParseMAC(c.mac)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, c.mac+" multicast", m.IsMulticast(), c.multicast)
		equal(t, c.mac+" broadcast", m.IsBroadcast(), c.broadcast)
		equal(t, c.mac+" zero", m.IsZero(), c.zero)
		equal(t, c.mac+" source", m.IsSource(), c.source)
		equal(t, c.mac+" bridge control", m.IsBridgeControl(), c.bridgeGroup)
	}
}

func TestNewVNI(t *testing.T) {
	for _, n := range []int64{0, 1, 100, 1<<24 - 1} {
		v, err := NewVNI(n)
		if err != nil || int64(v) != n {
			t.Errorf("NewVNI(%d) = %d, %v", n, v, err)
		}
	}
	for _, n := range []int64{-1, 1 << 24, 1 << 32, 1<<32 + 1} {
		if v, err := NewVNI(n); err == nil || v != 0 {
			t.Errorf("NewVNI(%d) = %d, %v, want an error", n, v, err)
		}
	}
}
