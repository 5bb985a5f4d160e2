package netio

import (
	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

// Device is one queue of a TAP or, with packets for frames, of a TUN. FD, ReadBatch,
// Inject and Close belong to the transmitting thread of the queue's worker, WriteBatch
// to its receiving thread. The two may run at the same time.
type Device interface {
	// FD is readable (poll(2), level-triggered) while frames wait.
	FD() int
	// ReadBatch appends waiting frames to b until none is left or b is full, and
	// does not block. unix.EBADFD means that the device was deleted.
	ReadBatch(b *FrameBatch) error
	// WriteBatch writes each frame of f and does not block. It stores the errno of
	// a refused frame in its Errno, and returns how many were refused. The frames'
	// bytes are the caller's again when it returns.
	WriteBatch(f []OutFrame) (refused int)
	// Inject writes one complete frame, which the tx path makes for a sender on the
	// device's side, and does not block. It returns the errno of a refusal, else 0.
	// The bytes are the caller's again when it returns.
	Inject(frame []byte) unix.Errno
	// Offloads names what the kernel granted: "csum", "tso4", "tso6", "ecn",
	// "uso". It is constant.
	Offloads() []string
	// Persist sets whether the device outlives its queues and the process. One
	// queue sets it for all. It is off at first, except on a device that was
	// adopted or handed over.
	Persist(on bool) error
	Close() error
}

// DeviceSpec is a TAP or TUN to open.
type DeviceSpec struct {
	Name   string
	TUN    bool      // its frames are IP packets, without Ethernet header
	MAC    encap.MAC // of a TAP
	MTU    encap.OverlayMTU
	Queues int
	Plain  bool // no vnet header: one frame at a time, checksums complete
	NoGSO  bool // no GSO packets, in either direction
	NoUSO  bool // no GSO packets of UDP
}

// Kind is "TAP" or "TUN".
func (s *DeviceSpec) Kind() string {
	if s.TUN {
		return "TUN"
	}
	return "TAP"
}

// OutFrame is one Ethernet frame, or IP packet for a TUN, possibly a GSO packet, to
// write to a Device: the concatenation of Parts.
type OutFrame struct {
	VNet  encap.VnetHdr
	Parts [][]byte
	Errno unix.Errno // set by WriteBatch

	// For the caller; a Device neither reads nor sets them.
	Peer          fdb.PeerID // that sent it
	Count         int        // frames it stands for
	Size          int        // bytes of all Parts
	PartlyRefused int        // of Count, where Errno is not that of all of them
}

// Refused is how many of the frames that f stands for the device refused.
func (f *OutFrame) Refused() int {
	switch {
	case f.Errno == 0:
		return 0
	case f.PartlyRefused != 0:
		return f.PartlyRefused
	}
	return f.Count
}
