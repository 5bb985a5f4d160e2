package netio

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

// Conn is one worker's end of the underlay for one UDP port, or for IP-in-IP, where
// a payload is an inner packet and ports are 0. FD and ReadBatch belong to the
// worker's receiving thread, WriteBatch to its transmitting thread. The two may run at
// the same time.
type Conn interface {
	// FD is readable (poll(2), level-triggered) while datagrams wait.
	FD() int
	// ReadBatch fills d with waiting datagrams, up to len(d), and does not block.
	// It returns how many. Their bytes are valid until the next call.
	ReadBatch(d []Datagram) (int, error)
	// WriteBatch sends each of s, in order within a flow, and does not block. It
	// stores the errno of a refused send in its Errno, and returns how many were
	// refused. The bytes are the caller's again when it returns.
	WriteBatch(s []Send) (refused int)
	// TakesUnsegmented reports whether GSO packets to the peer may be tried with
	// WriteUnsegmented. Both belong to the transmitting thread, as WriteBatch does.
	TakesUnsegmented(peer netip.Addr) bool
	// WriteUnsegmented sends a GSO packet as one piece, with DF set, and reports
	// whether it did. False means that nothing was sent, and its segments have to
	// be. The bytes are the caller's again when it returns.
	WriteUnsegmented(u *Unsegmented) bool
	// PathMTU returns the longest outer packet in bytes that reaches the peer, as
	// the underlay knows, or 0 when it has no route. It belongs to the transmitting
	// thread, and is called after WriteBatch returned EMSGSIZE.
	PathMTU(peer netip.Addr) encap.UnderlayMTU
	// AcceptZeroChecksums sets from which senders datagrams are taken whose UDP
	// checksum is zero over IPv6. Those of others are returned with
	// Datagram.ZeroChecksum, or, where none is taken, not at all. Control calls it.
	AcceptZeroChecksums(z PortZeroChecksum) error
	// Dropped is how many datagrams the kernel dropped at a full receive buffer
	// since the Conn was opened. Any goroutine may call it.
	Dropped() uint64
	Close() error
}

// Datagram is what one receive returned: one UDP payload, or a run of them.
type Datagram struct {
	From     netip.Addr // outer source, never v4-in-v6
	FromPort uint16     // outer source port; 0 = not known, or IP-in-IP
	Data     []byte
	// SegSize is zero for one payload. Else Data is a run of payloads of SegSize
	// bytes, the last possibly shorter (UDP_GRO), or one payload with a UDP GSO
	// packet inside whose segments carry SegSize bytes each, as a kernel peer sends
	// them over veth.
	SegSize   int
	TOS       uint8 // of the outer packet
	Device    int32 // index of the interface it came in by, of a bridge's port the bridge; 0 = not known
	Truncated bool  // it was longer than the buffer
	// ZeroChecksum: it had no UDP checksum and must not be taken, by what
	// Conn.AcceptZeroChecksums set; of Data only the VXLAN header is left.
	ZeroChecksum bool
	// Quoted: Data is the start of an inner packet that was sent to From and did
	// not arrive, as an ICMP error quotes it. Unreachable: its sender is to get an
	// ICMP error too. Of IP-in-IP only.
	Quoted, Unreachable bool
}

// Send is one or more UDP payloads to one peer: the concatenation of Parts, cut
// every SegSize bytes, the last possibly shorter. No part crosses a cut.
type Send struct {
	To      netip.AddrPort
	Flow    uint32 // sends of one flow leave in order from one source port
	Parts   [][]byte
	Count   int // payloads
	SegSize int // bytes a payload; 0 = all of it is one payload
	TOS     uint8
	TTL     uint8
	DF      bool
	Errno   unix.Errno // set by WriteBatch: why some payloads were refused
	Refused int        // set by WriteBatch: how many

	// For the caller; a Conn neither reads nor sets them.
	Peer   fdb.PeerID
	First  int  // index of Parts[0] in the caller's list
	Bytes  int  // of inner frames
	Copies bool // the frame goes to several peers
}

// Unsegmented is an inner GSO packet to one peer, which the kernel or the NIC
// segments.
type Unsegmented struct {
	To   netip.AddrPort
	Flow uint32    // as in Send; source port and order are shared with its sends
	VNI  encap.VNI // not of IP-in-IP
	// Data is the GSO packet as it was read, without padding. Its transport
	// checksum holds the pseudo-header's sum.
	Data []byte
	VNet encap.VnetHdr // checked against Data; HdrLen is right
	L3   int           // offset of the inner IP header in Data
	TOS  uint8
	TTL  uint8
}

// RunsRefused is a peer whose route refused UDP_SEGMENT.
type RunsRefused struct {
	Peer  netip.Addr
	Errno unix.Errno
	Until time.Time // when it is tried again
}

// ZeroChecksum says from which peers a network takes datagrams without UDP checksum
// over IPv6.
type ZeroChecksum struct {
	Accept bool         // from all that it admits
	Except []netip.Addr // but of these peers the contrary holds; none twice
}

// PortZeroChecksum is ZeroChecksum for all networks of a port. The zero value takes
// none.
type PortZeroChecksum struct {
	Any      bool // of any network, from every peer
	Networks []NetworkZeroChecksum
}

// NetworkZeroChecksum is what holds for one network. One that takes none is left out.
type NetworkZeroChecksum struct {
	VNI encap.VNI
	ZeroChecksum
}

// None reports whether no datagrams are taken.
func (z PortZeroChecksum) None() bool { return !z.Any && len(z.Networks) == 0 }

// The instructions that the socket filter of a PortZeroChecksum has for anything, for
// a network, and for an exception.
const (
	filterCost, filterNetworkCost = 9, 3
	FilterExceptionCost           = 9
)

const (
	// MaxFilterCost is how many instructions a socket filter may have: BPF_MAXINSNS.
	MaxFilterCost = 4096
	// MaxFilterExceptions is how many exceptions of one network fit.
	MaxFilterExceptions = (MaxFilterCost - filterCost - filterNetworkCost) / FilterExceptionCost
)

// FilterCost is how many instructions the socket filter needs at most.
func (z PortZeroChecksum) FilterCost() int {
	n := filterCost
	for _, one := range z.Networks {
		n += filterNetworkCost + FilterExceptionCost*len(one.Except)
	}
	return n
}
