package encap

import "encoding/binary"

// EtherTypes (IEEE 802 numbers) that are distinguished here.
const (
	EtherTypeIPv4  = 0x0800
	EtherTypeARP   = 0x0806
	EtherTypeVLAN  = 0x8100 // 802.1Q tag
	EtherTypeIPv6  = 0x86dd
	EtherTypeSVLAN = 0x88a8 // 802.1ad service tag
)

// maxVLANTags is how many tags are looked through: a service and a customer
// tag. A third is left as payload.
const maxVLANTags = 2

// vlanIDMask selects the VLAN identifier of a tag's control information.
const vlanIDMask = 0x0fff

// Ethernet is a view over a frame without preamble and frame check sequence.
type Ethernet struct {
	frame     []byte
	etherType uint16
	l3        uint8 // offset of the network header
}

// ParseEthernet checks the header of frame and its tags. ErrShort means fewer
// than 14 bytes, or a tag that is cut off.
func ParseEthernet(frame []byte) (Ethernet, error) {
	if len(frame) < EthernetHeaderLen {
		return Ethernet{}, ErrShort
	}
	etherType, l3 := binary.BigEndian.Uint16(frame[12:]), EthernetHeaderLen
	for range maxVLANTags {
		if etherType != EtherTypeVLAN && etherType != EtherTypeSVLAN {
			break
		}
		if len(frame) < l3+VLANTagLen {
			return Ethernet{}, ErrShort
		}
		etherType = binary.BigEndian.Uint16(frame[l3+2:])
		l3 += VLANTagLen
	}
	return Ethernet{frame: frame, etherType: etherType, l3: uint8(l3)}, nil
}

// Dst returns the destination address.
func (e Ethernet) Dst() MAC { return MACFrom(e.frame) }

// Src returns the source address.
func (e Ethernet) Src() MAC { return MACFrom(e.frame[MACLen:]) }

// EtherType returns the type after the tags. A value below 0x600 is an 802.3
// length; after more than two tags it is the third one's type.
func (e Ethernet) EtherType() uint16 { return e.etherType }

// L3Offset returns where the network header starts, in bytes from the start of
// the frame.
func (e Ethernet) L3Offset() int { return int(e.l3) }

// Tags returns the number of 802.1Q and 802.1ad tags, at most two.
func (e Ethernet) Tags() int { return (int(e.l3) - EthernetHeaderLen) / VLANTagLen }

// VLANID returns the outer tag's identifier, 0 for a frame without tags or with
// a mere priority tag.
func (e Ethernet) VLANID() uint16 {
	if e.Tags() == 0 {
		return 0
	}
	return binary.BigEndian.Uint16(e.frame[EthernetHeaderLen:]) & vlanIDMask
}

// Payload returns what follows the tags, padding included.
func (e Ethernet) Payload() []byte { return e.frame[e.l3:] }
