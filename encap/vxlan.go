package encap

import "encoding/binary"

// VXLANHeaderLen is the length of the VXLAN header in bytes.
const VXLANHeaderLen = 8

// The header as one big-endian word: flags (8), reserved (24), VNI (24),
// reserved (8). RFC 7348 section 5.
const (
	vxlanFlagI    = uint64(0x08) << 56
	vxlanVNIShift = 8
	vxlanVNIMask  = uint64(MaxVNI) << vxlanVNIShift
)

// VXLAN is what a VXLAN header says.
type VXLAN struct {
	VNI VNI
	// Reserved reports a nonzero reserved bit. RFC 7348 has the receiver ignore
	// them; the kernel's vxlan_rcv drops such packets.
	Reserved bool
}

// PutVXLAN writes a header with only the I flag set to the first
// VXLANHeaderLen bytes of b, which must have them; what stood there does not
// matter. The VNI must be valid, as NewVNI makes them.
func PutVXLAN(b []byte, vni VNI) {
	binary.BigEndian.PutUint64(b, vxlanFlagI|uint64(vni)<<vxlanVNIShift)
}

// ParseVXLAN reads the header at the start of b. It requires the I flag
// (ErrNoVNIFlag) and VXLANHeaderLen bytes (ErrShort), and tolerates reserved
// bits.
func ParseVXLAN(b []byte) (VXLAN, error) {
	if len(b) < VXLANHeaderLen {
		return VXLAN{}, ErrShort
	}
	w := binary.BigEndian.Uint64(b)
	if w&vxlanFlagI == 0 {
		return VXLAN{}, ErrNoVNIFlag
	}
	return VXLAN{
		VNI:      VNI(w & vxlanVNIMask >> vxlanVNIShift),
		Reserved: w&^(vxlanFlagI|vxlanVNIMask) != 0,
	}, nil
}
