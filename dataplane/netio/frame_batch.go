package netio

import "overtap/encap"

// Sizes, in bytes.
const (
	// Headroom is what a Device leaves free before each frame that it reads: room
	// for headers that are put before the frame without moving it.
	Headroom = 64
	// MaxFrame is the longest Ethernet frame that a Device returns: a GSO packet of
	// 64 KiB of IP with an Ethernet header and two tags.
	MaxFrame = 65535 + encap.EthernetHeaderLen + 2*encap.VLANTagLen
	// MaxDatagram is the longest UDP payload.
	MaxDatagram = 65535
)

// Frame is one Ethernet frame, or of a TUN one IP packet, read from a Device,
// possibly a GSO packet.
type Frame struct {
	VNet encap.VnetHdr
	Data []byte // valid until the batch is reset
	room []byte // Headroom bytes, then Data
}

// NewFrame returns a frame whose Data are the bytes of room after the first Headroom.
func NewFrame(room []byte) *Frame { return &Frame{Data: room[Headroom:], room: room} }

// WithHeadroom returns Data with n more bytes before it, at most Headroom, which are
// the caller's to write.
func (f *Frame) WithHeadroom(n int) []byte { return f.room[Headroom-n:] }

// Count is how many frames on the wire f stands for, by its metadata.
func (f *Frame) Count() int {
	if f.VNet.GSOSize == 0 || len(f.Data) <= int(f.VNet.HdrLen) {
		return 1
	}
	size := int(f.VNet.GSOSize)
	return (len(f.Data) - int(f.VNet.HdrLen) + size - 1) / size
}

// FrameBatch is an arena that frames are read into, back to back, so that a
// batch of small frames stays in a few cache lines and a GSO packet still fits.
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

// Cap returns the most frames that b takes, and the size of its arena in bytes.
func (b *FrameBatch) Cap() (frames, size int) { return cap(b.frames), len(b.arena) }

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
