// Package encap knows bytes and nothing else: the VXLAN header, views over the
// Ethernet, IP and transport headers inside it, the Internet checksum, ECN
// across a tunnel (RFC 6040), flow entropy, MTU arithmetic and the ICMP errors
// of a tunnel. It does no input or output, keeps no state and allocates nothing
// on a frame's path.
//
// A view (Ethernet, IPv4, IPv6, TCP, UDP, ICMPv4, ICMPv6, ARP, ND) is a frame's
// bytes seen as one header and what follows it. Its Parse function checks every
// length and offset once; the accessors rely on that and check nothing, so a
// view made by conversion instead of Parse may panic. A view borrows the slice
// it was made from: it holds no longer than those bytes do, and a setter writes
// into them. Fields are read from network byte order and returned as numbers.
package encap

import "errors"

// What a Parse function finds wrong with a header. They are returned bare: on
// the path no message is read, the caller maps them to a reason to drop.
var (
	// ErrShort says that a header, or the length it announces, reaches beyond
	// the current bytes.
	ErrShort = errors.New("header cut off")
	// ErrBadHeader says that a header contradicts itself or is not of the
	// expected kind.
	ErrBadHeader = errors.New("malformed header")
	// ErrNoVNIFlag says that a VXLAN header lacks the I flag, so its VNI is not
	// valid (RFC 7348 section 5).
	ErrNoVNIFlag = errors.New("VXLAN header without the I flag")
)
