package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

// Sizes of the units that cross the edges, in bytes.
const (
	// Headroom is what an edge leaves free before each frame it reads: room
	// for the headers that go in front of it without moving it.
	Headroom = 64
	// MaxFrame is the longest Ethernet frame an edge hands over: a superframe
	// of 64 KiB of IP with an Ethernet header and two tags.
	MaxFrame = 65535 + encap.EthernetHeaderLen + 2*encap.VLANTagLen
	// MaxDatagram is the longest UDP payload.
	MaxDatagram = 65535
)

// Device is one queue of a TAP or, with packets for frames, of a TUN. FD, ReadBatch, Answer and Close belong to the
// outbound thread of the queue's worker, WriteBatch to its inbound thread; the
// two may run at once.
type Device interface {
	// FD is readable (poll(2), level-triggered) while frames wait.
	FD() int
	// ReadBatch appends the frames that wait to b until none is left or b is
	// full, and does not block. On unix.EBADFD the device is gone for good.
	ReadBatch(b *FrameBatch) error
	// WriteBatch writes each frame of f and does not block; the errno of one
	// that was refused stands in its Errno. It returns how many were refused.
	// The frames' bytes are the caller's again when it returns.
	WriteBatch(f []OutFrame) (refused int)
	// Answer writes one complete frame, which the road out makes for somebody
	// on the device's side, and does not block; it returns the errno of a
	// refusal, else 0. The bytes are the caller's again when it returns.
	Answer(frame []byte) unix.Errno
	// Offloads names what the kernel granted: "csum", "tso4", "tso6", "ecn",
	// "uso"; it is constant.
	Offloads() []string
	// Persist says whether the device shall outlive its queues and the process:
	// of one queue it holds for all. It is off at first, but for a device that
	// was adopted or inherited.
	Persist(on bool) error
	Close() error
}

// Frame is one Ethernet frame, or of a TUN one IP packet, read from a Device,
// possibly a superframe.
type Frame struct {
	VNet encap.VnetHdr
	Data []byte // valid until the batch is reset; Headroom bytes before it are free
	room []byte // Headroom bytes, then Data
}

// count is how many frames on the wire the frame stands for, as far as its
// metadata tell.
func (f *Frame) count() int {
	if f.VNet.GSOSize == 0 || len(f.Data) <= int(f.VNet.HdrLen) {
		return 1
	}
	size := int(f.VNet.GSOSize)
	return (len(f.Data) - int(f.VNet.HdrLen) + size - 1) / size
}

// OutFrame is one Ethernet frame, or IP packet for a TUN, possibly a superframe,
// to write to a Device: the concatenation of Parts.
type OutFrame struct {
	VNet  encap.VnetHdr
	Parts [][]byte
	Errno unix.Errno // set by WriteBatch

	peer fdb.PeerID
	segs int // frames it stands for
	size int // bytes of all Parts
}

// FrameBatch is an arena that frames are read into, back to back, so that a
// batch of small frames stays in a few cache lines and a superframe still fits.
type FrameBatch struct {
	frames []Frame
	arena  []byte
	used   int
}

// NewFrameBatch returns a batch of at most frames frames in an arena of size
// bytes, which is raised to hold one frame of MaxFrame.
func NewFrameBatch(frames, size int) *FrameBatch {
	return &FrameBatch{
		frames: make([]Frame, 0, frames),
		arena:  make([]byte, max(size, Headroom+MaxFrame)),
	}
}

// Frames returns what was read since the last Reset.
func (b *FrameBatch) Frames() []Frame { return b.frames }

// Reset empties the batch; its frames' memory is reused.
func (b *FrameBatch) Reset() {
	b.frames = b.frames[:0]
	b.used = 0
}

// Slot returns room for one more frame of up to MaxFrame bytes with head bytes
// (at most Headroom) before its first byte, or nil when the batch is full.
func (b *FrameBatch) Slot(head int) []byte {
	if len(b.frames) == cap(b.frames) || len(b.arena)-b.used < Headroom+MaxFrame {
		return nil
	}
	return b.arena[b.used+Headroom-head : b.used+Headroom+MaxFrame]
}

// Commit keeps the first n bytes of the frame in the slot last returned.
func (b *FrameBatch) Commit(n int, v encap.VnetHdr) {
	room := b.arena[b.used : b.used+Headroom+n : b.used+Headroom+n]
	b.frames = append(b.frames, Frame{VNet: v, Data: room[Headroom:], room: room})
	b.used += (Headroom + n + 63) &^ 63
}

// Wire is one worker's end of the underlay for one UDP port, or for IP-in-IP:
// then a payload is an inner packet, and ports are 0. FD and ReadBatch belong to
// the worker's inbound thread, WriteBatch to its outbound thread; the two may run
// at once.
type Wire interface {
	// FD is readable (poll(2), level-triggered) while datagrams wait.
	FD() int
	// ReadBatch fills d with the datagrams that wait, up to len(d), and does
	// not block; it returns how many. Their bytes are valid until the next call.
	ReadBatch(d []Datagram) (int, error)
	// WriteBatch sends each of s, in order within a flow, and does not block;
	// the errno of one that was refused stands in its Errno. It returns how
	// many were refused. The bytes are the caller's again when it returns.
	WriteBatch(s []Send) (refused int)
	// TakesWhole reports whether superframes to the peer are worth a try at
	// WriteWhole. Both belong to the outbound thread, as WriteBatch does.
	TakesWhole(peer netip.Addr) bool
	// WriteWhole sends a superframe uncut, with DF set, and reports whether it
	// did. False means that nothing was sent: its segments have to be. The
	// bytes are the caller's again when it returns.
	WriteWhole(w *Whole) bool
	// PathMTU returns the longest outer packet in bytes that reaches the peer,
	// as the underlay knows, or 0 when it knows of no way. It belongs to the
	// outbound thread and is for the case that WriteBatch said EMSGSIZE.
	PathMTU(peer netip.Addr) encap.UnderlayMTU
	// Dropped is how many datagrams the kernel dropped at a full receive
	// buffer since the wire was opened. Any goroutine may ask.
	Dropped() uint64
	Close() error
}

// Datagram is what one receive brought: one UDP payload, or a run of them.
type Datagram struct {
	From     netip.Addr // outer source, never v4-in-v6
	FromPort uint16     // outer source port; 0 = not known, or IP-in-IP
	Data     []byte
	// SegSize is zero for one payload; else Data is a run of payloads of
	// SegSize bytes, the last possibly shorter (UDP_GRO), unless Data is one
	// payload with a UDP superframe inside whose segments carry SegSize bytes
	// each, as a kernel peer over veth sends them.
	SegSize   int
	TOS       uint8 // of the outer packet
	Verified  bool  // the outer checksum is known to be right
	Truncated bool  // it was longer than the buffer
	// Quoted: Data is the start of an inner packet that was sent to From and did
	// not arrive, as an ICMP error quotes it; Unreachable, that its sender is to
	// be told so. Of IP-in-IP only.
	Quoted, Unreachable bool
}

// Send is one or more UDP payloads to one peer: the concatenation of Parts, cut
// every SegSize bytes, the last possibly shorter. No part crosses a cut.
type Send struct {
	To      netip.AddrPort
	Flow    uint32 // sends of one flow leave in order from one source port
	Parts   [][]byte
	SegSize int // bytes a payload; 0 = all of it is one payload
	TOS     uint8
	TTL     uint8
	DF      bool
	Errno   unix.Errno // set by WriteBatch: why some payloads were refused
	Refused int        // set by WriteBatch: how many

	peer   fdb.PeerID
	first  int  // index of Parts[0] in the road's list
	segs   int  // payloads
	bytes  int  // of inner frames
	copies bool // of a frame that goes to several
}

// Whole is an inner superframe to one peer, to be cut by the kernel or the NIC
// behind the engine.
type Whole struct {
	To   netip.AddrPort
	Flow uint32    // as in Send, with whose sends it shares source port and order
	VNI  encap.VNI // not of IP-in-IP
	// Data is the superframe as it was read, without padding. Its transport
	// checksum holds the pseudo-header's sum.
	Data []byte
	VNet encap.VnetHdr // checked against Data; HdrLen is right
	L3   int           // offset of the inner IP header in Data
	TOS  uint8
	TTL  uint8
}

// Edges opens the two ends of the road. There is the host's, and a twin in
// memory in dataplanetest.
type Edges interface {
	// OpenDevice creates the TAP and returns a queue per worker.
	OpenDevice(s DeviceSpec) ([]Device, error)
	// OpenPort returns the wire of each worker for the UDP port.
	OpenPort(port uint16, workers int) ([]Wire, error)
	// OpenIPIP returns the wire of each worker for IP-in-IP (RFC 2003). Any of
	// them may be the only one that receives.
	OpenIPIP(workers int) ([]Wire, error)
	// OpenGroup returns a wire that receives what is sent to the multicast
	// group on the port.
	OpenGroup(group netip.Addr, port uint16) (Wire, error)
	// SourcePorts lists the pool of source ports.
	SourcePorts() []uint16
	// SegmentationRefused names the peers whose routes refused UDP_SEGMENT; nil
	// while there is none.
	SegmentationRefused() error
	// SourcePort is that from which a Send of the flow leaves, with DF or without.
	SourcePort(flow uint32, df bool) uint16
	// TakesWhole reports whether superframes to the peer are tried uncut, those of
	// packets by IP-in-IP, but for peers that were refused a moment ago.
	TakesWhole(peer netip.Addr, packets bool) bool
	// TakesRuns reports whether the route to the peer is given UDP_SEGMENT.
	TakesRuns(peer netip.Addr) bool
	// SendAlone sends one payload that is not of the road, and does not block; it
	// returns the errno of a refusal, else 0. One goroutine may call it at a time,
	// beside the roads. The bytes are the caller's again when it returns.
	SendAlone(s *Send) unix.Errno
	// PathMTU is what a Wire's is, for the door to ask.
	PathMTU(peer netip.Addr) encap.UnderlayMTU
	// Beat does what upkeep the edges have; it is called once a beat.
	Beat()
	// Uplink says which way superframes leave.
	Uplink() UplinkInfo
	Close() error
}

// DeviceSpec is a TAP or TUN as it shall be created.
type DeviceSpec struct {
	Name   string
	TUN    bool      // its frames are IP packets, without Ethernet header
	MAC    encap.MAC // of a TAP
	MTU    encap.OverlayMTU
	Queues int
	Plain  bool // no vnet header: one frame at a time, checksums complete
}
