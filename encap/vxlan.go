package encap

import "encoding/binary"

// VXLANHeaderLen is the length of the VXLAN header in bytes.
const VXLANHeaderLen = 8

// The header as one big-endian word: flags (8), reserved (24), VNI (24),
// reserved (8). RFC 7348 section 5.
const (
	vxlanFlagI = uint64(0x08) << 56
	// vxlanFlagsGPE are the P bit (0x04) and the O bit (0x01) of VXLAN-GPE
	// (draft-ietf-nvo3-vxlan-gpe section 3.1).
	vxlanFlagsGPE = uint64(0x05) << 56
	vxlanVNIShift = 8
	vxlanVNIMask  = uint64(MaxVNI) << vxlanVNIShift
)

// VXLAN is what a VXLAN header says.
type VXLAN struct {
	VNI VNI
	// Reserved reports a nonzero reserved bit. RFC 7348 has the receiver ignore
	// them; the kernel's vxlan_rcv drops such packets.
	Reserved bool
	// GPE reports the P or the O bit of VXLAN-GPE, which are among the reserved
	// bits: the payload is of another protocol than Ethernet (P), or belongs to
	// OAM (O), and must not be taken for a frame. The bits of VXLAN-GBP are not
	// among them: they describe the frame and leave it a frame.
	GPE bool
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
		GPE:      w&vxlanFlagsGPE != 0,
	}, nil
}
