package encap

import (
	"errors"
	"fmt"
)

// MAC is an IEEE 802 48-bit address in the low 48 bits of a word; the first
// octet on the wire is the most significant. The upper 16 bits are zero. A
// word, not an array, because the forwarding table hashes and compares it on
// every frame.
type MAC uint64

// Well-known addresses.
const (
	// BroadcastMAC is ff:ff:ff:ff:ff:ff.
	BroadcastMAC MAC = 0xffff_ffff_ffff
	// bridgeGroupMAC is 01:80:c2:00:00:00, the first of the sixteen
	// addresses that IEEE 802.1D (clause 7.12.6) reserves for bridge
	// protocols: they never cross a bridge.
	bridgeGroupMAC MAC = 0x0180_c200_0000
)

// MACLen is the length of an address on the wire in bytes.
const MACLen = 6

var errMAC = errors.New("want six hexadecimal octets separated by colons, such as 02:42:c0:00:02:01")

// MACFrom reads the address in the first six bytes of b, which must have them.
func MACFrom(b []byte) MAC {
	_ = b[5]
	return MAC(b[0])<<40 | MAC(b[1])<<32 | MAC(b[2])<<24 | MAC(b[3])<<16 | MAC(b[4])<<8 | MAC(b[5])
}

// Put writes the address to the first six bytes of b, which must have them.
func (m MAC) Put(b []byte) {
	_ = b[5]
	b[0], b[1], b[2], b[3], b[4], b[5] =
		byte(m>>40), byte(m>>32), byte(m>>24), byte(m>>16), byte(m>>8), byte(m)
}

// ParseMAC reads six hexadecimal octets of two digits, separated by colons.
func ParseMAC(s string) (MAC, error) {
	if len(s) != 17 {
		return 0, fmt.Errorf("MAC address %q: %w", s, errMAC)
	}
	var m MAC
	for i := 0; i < 17; i += 3 {
		hi, ok1 := hexDigit(s[i])
		lo, ok2 := hexDigit(s[i+1])
		if !ok1 || !ok2 || (i < 15 && s[i+2] != ':') {
			return 0, fmt.Errorf("MAC address %q: %w", s, errMAC)
		}
		m = m<<8 | hi<<4 | lo
	}
	return m, nil
}

func hexDigit(c byte) (MAC, bool) {
	switch {
	case '0' <= c && c <= '9':
		return MAC(c - '0'), true
	case 'a' <= c && c <= 'f':
		return MAC(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return MAC(c-'A') + 10, true
	}
	return 0, false
}

// IsMulticast reports whether the group bit is set; broadcast is multicast.
func (m MAC) IsMulticast() bool { return m>>40&1 != 0 }

// IsBroadcast reports whether m is ff:ff:ff:ff:ff:ff.
func (m MAC) IsBroadcast() bool { return m == BroadcastMAC }

// IsZero reports whether m is 00:00:00:00:00:00.
func (m MAC) IsZero() bool { return m == 0 }

// IsSource reports whether m may stand as a source address: neither zero nor
// multicast (kernel is_valid_ether_addr).
func (m MAC) IsSource() bool { return m != 0 && !m.IsMulticast() }

// IsBridgeControl reports whether m is one of 01:80:c2:00:00:00 to :0f.
func (m MAC) IsBridgeControl() bool { return m&^0xf == bridgeGroupMAC }

// String formats m as six lower-case octets separated by colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x",
		byte(m>>40), byte(m>>32), byte(m>>24), byte(m>>16), byte(m>>8), byte(m))
}

// MarshalText formats m as String does.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what ParseMAC reads.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}
