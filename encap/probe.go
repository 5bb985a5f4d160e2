package encap

import "encoding/binary"

// A probe is a frame that overtap's ends of a network exchange to see whether the
// other is alive and what the path takes. Its EtherType is the second of those
// that IEEE Std 802 sets aside for local experiments. It goes to an address that
// no bridge forwards, whichever end it reaches:
//
//	 0  destination, ProbeMAC
//	 6  source, the MAC of the sender's TAP
//	12  EtherType 0x88b6
//	14  "ovtp", for others use the EtherType too
//	18  version, 1
//	19  kind: 1 a request, 2 a reply
//	20  zero, 2 bytes
//	22  number that the requester chose, 8 bytes
//	30  length in bytes of the request, 4 bytes
//	34  of a reply, microseconds between request and reply, 4 bytes
//	38  zeros
//
// All numbers are in network byte order.
const (
	// EtherTypeProbe is Local Experimental Ethertype 2.
	EtherTypeProbe = 0x88b6
	// ProbeMAC is the address of MAC control frames (IEEE Std 802.3 annex 31B),
	// of those that bridges never forward the one that the kernel's bridge drops
	// before it learns from the frame (br_handle_frame).
	ProbeMAC = bridgeGroupMAC | 1
	// ProbeLen is the length of a probe that is not padded: Ethernet's least.
	ProbeLen = 60

	probeMagic   = 0x6f767470
	probeVersion = 1
	probeRequest = 1
	probeReply   = 2
	probeFields  = 38 // of which follow no others
)

// Probe is what a probe says.
type Probe struct {
	Reply bool
	ID    uint64 // chosen by the requester, repeated by the reply
	Len   int    // bytes of the request: as sent, in a reply as received
	Held  uint32 // microseconds that the request waited for its reply
}

// PutProbe writes a probe that is as long as b, at least ProbeLen bytes; what
// stood there does not matter.
func PutProbe(b []byte, src MAC, p Probe) {
	clear(b)
	ProbeMAC.Put(b)
	src.Put(b[MACLen:])
	binary.BigEndian.PutUint16(b[12:], EtherTypeProbe)
	binary.BigEndian.PutUint32(b[14:], probeMagic)
	b[18], b[19] = probeVersion, probeRequest
	if p.Reply {
		b[19] = probeReply
	}
	binary.BigEndian.PutUint64(b[22:], p.ID)
	binary.BigEndian.PutUint32(b[30:], uint32(p.Len))
	binary.BigEndian.PutUint32(b[34:], p.Held)
}

// ParseProbe reads a frame without VLAN tags and reports whether it is a probe. A
// request that is not as long as it says is none.
func ParseProbe(frame []byte) (p Probe, ok bool) {
	if len(frame) < probeFields || binary.BigEndian.Uint16(frame[12:]) != EtherTypeProbe ||
		binary.BigEndian.Uint32(frame[14:]) != probeMagic || frame[18] != probeVersion {
		return Probe{}, false
	}
	p = Probe{
		Reply: frame[19] == probeReply,
		ID:    binary.BigEndian.Uint64(frame[22:]),
		Len:   int(binary.BigEndian.Uint32(frame[30:])),
		Held:  binary.BigEndian.Uint32(frame[34:]),
	}
	return p, p.Reply || frame[19] == probeRequest && p.Len == len(frame)
}
