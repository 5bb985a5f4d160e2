package encap

import "encoding/binary"

// TCPHeaderLen is the length of a TCP header without options in bytes.
const TCPHeaderLen = 20

// Bits of TCP.Flags.
const (
	TCPFIN = 1 << iota
	TCPSYN
	TCPRST
	TCPPSH
	TCPACK
	TCPURG
	TCPECE
	TCPCWR
)

// TCP is a view over one segment (RFC 9293), header and payload.
type TCP []byte

// ParseTCP checks the segment that is b: an IP packet's whole payload, without
// padding. ErrShort means that the header is cut off, ErrBadHeader a data
// offset below 20 bytes. The checksum is not looked at.
func ParseTCP(b []byte) (TCP, error) {
	if len(b) < TCPHeaderLen {
		return nil, ErrShort
	}
	offset := TCP(b).DataOffset()
	switch {
	case offset < TCPHeaderLen:
		return nil, ErrBadHeader
	case offset > len(b):
		return nil, ErrShort
	}
	return TCP(b), nil
}

// SrcPort returns the source port.
func (s TCP) SrcPort() uint16 { return binary.BigEndian.Uint16(s) }

// DstPort returns the destination port.
func (s TCP) DstPort() uint16 { return binary.BigEndian.Uint16(s[2:]) }

// Seq returns the sequence number of the first payload byte, or of SYN.
func (s TCP) Seq() uint32 { return binary.BigEndian.Uint32(s[4:]) }

// Ack returns the acknowledgement number, valid with TCPACK.
func (s TCP) Ack() uint32 { return binary.BigEndian.Uint32(s[8:]) }

// DataOffset returns where the payload starts, in bytes: the header's length
// with its options.
func (s TCP) DataOffset() int { return int(s[12]>>4) * 4 }

// Flags returns the eight flags from CWR to FIN.
func (s TCP) Flags() uint8 { return s[13] }

// Window returns the receive window, unscaled.
func (s TCP) Window() uint16 { return binary.BigEndian.Uint16(s[14:]) }

// Checksum returns the checksum field as it stands; in a frame with a partial
// checksum it is the folded pseudo-header sum.
func (s TCP) Checksum() uint16 { return binary.BigEndian.Uint16(s[16:]) }

// Options returns the options with their padding.
func (s TCP) Options() []byte { return s[TCPHeaderLen:s.DataOffset()] }

// Payload returns what follows the header and its options.
func (s TCP) Payload() []byte { return s[s.DataOffset():] }
