package encap

import "encoding/binary"

// ICMPHeaderLen is the length of type, code, checksum and the word whose
// meaning depends on the type, in bytes. Every message of ICMPv4 and every one
// defined for ICMPv6 has it.
const ICMPHeaderLen = 8

// Types of ICMPv4 messages (RFC 792), and the code that asks for smaller
// packets (RFC 1191).
const (
	ICMPv4EchoReply      = 0
	ICMPv4Unreachable    = 3
	ICMPv4SourceQuench   = 4
	ICMPv4Redirect       = 5
	ICMPv4EchoRequest    = 8
	ICMPv4TimeExceeded   = 11
	ICMPv4ParamProblem   = 12
	ICMPv4CodeFragNeeded = 4 // of ICMPv4Unreachable
)

// Types of ICMPv6 messages (RFC 4443, RFC 4861).
const (
	ICMPv6Unreachable     = 1
	ICMPv6PacketTooBig    = 2
	ICMPv6TimeExceeded    = 3
	ICMPv6ParamProblem    = 4
	ICMPv6EchoRequest     = 128
	ICMPv6EchoReply       = 129
	ICMPv6RouterSolicit   = 133
	ICMPv6RouterAdvert    = 134
	ICMPv6NeighborSolicit = 135
	ICMPv6NeighborAdvert  = 136
)

// ICMPv4 is a view over one message of RFC 792.
type ICMPv4 []byte

// ParseICMPv4 checks the message that is b, an IPv4 packet's whole payload.
// ErrShort means fewer than ICMPHeaderLen bytes. The checksum is not looked at.
func ParseICMPv4(b []byte) (ICMPv4, error) {
	if len(b) < ICMPHeaderLen {
		return nil, ErrShort
	}
	return ICMPv4(b), nil
}

// Type returns the message's type.
func (m ICMPv4) Type() uint8 { return m[0] }

// Code returns the type's code.
func (m ICMPv4) Code() uint8 { return m[1] }

// Checksum returns the checksum as it stands.
func (m ICMPv4) Checksum() uint16 { return binary.BigEndian.Uint16(m[2:]) }

// ID returns an echo message's identifier.
func (m ICMPv4) ID() uint16 { return binary.BigEndian.Uint16(m[4:]) }

// Seq returns an echo message's sequence number.
func (m ICMPv4) Seq() uint16 { return binary.BigEndian.Uint16(m[6:]) }

// MTU returns the next hop's MTU that a Fragmentation Needed names; zero from
// routers older than RFC 1191.
func (m ICMPv4) MTU() uint16 { return binary.BigEndian.Uint16(m[6:]) }

// IsError reports whether the message is one that must not be answered by an
// error (RFC 1122 section 3.2.2).
func (m ICMPv4) IsError() bool {
	switch m.Type() {
	case ICMPv4Unreachable, ICMPv4SourceQuench, ICMPv4Redirect, ICMPv4TimeExceeded, ICMPv4ParamProblem:
		return true
	}
	return false
}

// Payload returns what follows the eight bytes of header: in an error, the
// start of the packet it is about.
func (m ICMPv4) Payload() []byte { return m[ICMPHeaderLen:] }

// ICMPv6 is a view over one message of RFC 4443.
type ICMPv6 []byte

// ParseICMPv6 checks the message that is b, what follows an IPv6 packet's
// extension headers. ErrShort means fewer than ICMPHeaderLen bytes. The
// checksum is not looked at.
func ParseICMPv6(b []byte) (ICMPv6, error) {
	if len(b) < ICMPHeaderLen {
		return nil, ErrShort
	}
	return ICMPv6(b), nil
}

// Type returns the message's type.
func (m ICMPv6) Type() uint8 { return m[0] }

// Code returns the type's code.
func (m ICMPv6) Code() uint8 { return m[1] }

// Checksum returns the checksum as it stands; it covers the pseudo-header too.
func (m ICMPv6) Checksum() uint16 { return binary.BigEndian.Uint16(m[2:]) }

// ID returns an echo message's identifier.
func (m ICMPv6) ID() uint16 { return binary.BigEndian.Uint16(m[4:]) }

// Seq returns an echo message's sequence number.
func (m ICMPv6) Seq() uint16 { return binary.BigEndian.Uint16(m[6:]) }

// MTU returns the next hop's MTU that a Packet Too Big names.
func (m ICMPv6) MTU() uint32 { return binary.BigEndian.Uint32(m[4:]) }

// IsError reports whether the message is one that must not be answered by an
// error (RFC 4443 section 2.4): an error itself, or a redirect.
func (m ICMPv6) IsError() bool { return m.Type() < 128 || m.Type() == icmpv6Redirect }

// icmpv6Redirect is the Redirect of RFC 4861 section 4.5.
const icmpv6Redirect = 137

// Payload returns what follows the eight bytes of header: in an error, the
// start of the packet it is about.
func (m ICMPv6) Payload() []byte { return m[ICMPHeaderLen:] }
