package encap

import "encoding/binary"

// VnetHdr is struct virtio_net_hdr (Linux include/uapi/linux/virtio_net.h,
// VIRTIO 1.2 section 5.1.6): what a TAP opened with IFF_VNET_HDR says of each
// frame. It travels beside a frame through every edge. The zero value says: one
// ordinary frame, checksums complete or not looked at.
type VnetHdr struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // bytes of headers; a hint, wrong on forwarded frames: derive it
	GSOSize    uint16 // payload bytes a segment
	CsumStart  uint16 // where the partial checksum's coverage begins, from the frame's first byte
	CsumOffset uint16 // where the checksum field stands, from CsumStart
}

// VnetHdrLen is the length of struct virtio_net_hdr in bytes.
const VnetHdrLen = 10

// Values of VnetHdr.Flags.
const (
	VnetNeedsCsum = 1 // the checksum field holds the pseudo-header sum only
	VnetDataValid = 2 // checksums were verified
)

// Values of VnetHdr.GSOType; VnetGSOECN is a flag beside the TCP types.
const (
	VnetGSONone  = 0
	VnetGSOTCPv4 = 1
	VnetGSOTCPv6 = 4
	VnetGSOUDPL4 = 5 // UDP segmentation, kernel 6.2 and later
	VnetGSOECN   = 0x80
)

// GSO returns the type without the ECN flag.
func (h VnetHdr) GSO() uint8 { return h.GSOType &^ VnetGSOECN }

// Put writes the header to the first VnetHdrLen bytes of b, which must have
// them, in little-endian order, as TUNSETVNETLE selects.
func (h VnetHdr) Put(b []byte) {
	_ = b[VnetHdrLen-1]
	b[0], b[1] = h.Flags, h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CsumOffset)
}

// ParseVnetHdr reads the first VnetHdrLen bytes of b, which must have them.
func ParseVnetHdr(b []byte) VnetHdr {
	_ = b[VnetHdrLen-1]
	return VnetHdr{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
	}
}
