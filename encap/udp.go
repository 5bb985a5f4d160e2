package encap

import "encoding/binary"

// UDP is a view over one datagram (RFC 768), header and payload, ending where
// its length says.
type UDP []byte

// ParseUDP checks the datagram at the start of b, an IP packet's payload; what
// follows its length is not part of the view. ErrShort means that b ends before
// the header or the length does, as in a first fragment; ErrBadHeader a length
// below 8 bytes. The checksum is not looked at.
func ParseUDP(b []byte) (UDP, error) {
	if len(b) < UDPHeaderLen {
		return nil, ErrShort
	}
	length := UDP(b).Length()
	switch {
	case length < UDPHeaderLen:
		return nil, ErrBadHeader
	case length > len(b):
		return nil, ErrShort
	}
	return UDP(b[:length]), nil
}

// SrcPort returns the source port.
func (d UDP) SrcPort() uint16 { return binary.BigEndian.Uint16(d) }

// DstPort returns the destination port.
func (d UDP) DstPort() uint16 { return binary.BigEndian.Uint16(d[2:]) }

// Length returns the length of header and payload in bytes.
func (d UDP) Length() int { return int(binary.BigEndian.Uint16(d[4:])) }

// Checksum returns the checksum field as it stands: zero says that there is
// none, and a partial checksum is the folded pseudo-header sum.
func (d UDP) Checksum() uint16 { return binary.BigEndian.Uint16(d[6:]) }

// Payload returns what follows the header.
func (d UDP) Payload() []byte { return d[UDPHeaderLen:] }
