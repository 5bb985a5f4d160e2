package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/encap"
)

// rehearsedDevice is a Device that keeps what the road gives it and passes
// nothing on.
type rehearsedDevice struct {
	answers [][]byte
	frames  int // written, those of superframes each
	bytes   int
}

func (d *rehearsedDevice) FD() int                     { return -1 }
func (d *rehearsedDevice) ReadBatch(*FrameBatch) error { return nil }
func (d *rehearsedDevice) Offloads() []string          { return nil }
func (d *rehearsedDevice) Persist(bool) error          { return nil }
func (d *rehearsedDevice) Close() error                { return nil }

func (d *rehearsedDevice) WriteBatch(f []OutFrame) int {
	for i := range f {
		f[i].Errno = 0
		d.frames += f[i].segs
		d.bytes += f[i].size
	}
	return 0
}

func (d *rehearsedDevice) Answer(frame []byte) unix.Errno {
	d.answers = append(d.answers, append([]byte(nil), frame...))
	return 0
}

// rehearsedWire is a Wire that keeps what the road gives it.
type rehearsedWire struct {
	edges  Edges
	at     *atHand
	sends  []Send
	wholes []Whole
}

func (w *rehearsedWire) FD() int                              { return -1 }
func (w *rehearsedWire) ReadBatch([]Datagram) (int, error)    { return 0, nil }
func (w *rehearsedWire) PathMTU(netip.Addr) encap.UnderlayMTU { return 0 }
func (w *rehearsedWire) Dropped() uint64                      { return 0 }
func (w *rehearsedWire) Close() error                         { return nil }

func (w *rehearsedWire) WriteBatch(s []Send) int {
	for i := range s {
		s[i].Errno, s[i].Refused = 0, 0
	}
	w.sends = append(w.sends, s...)
	return 0
}

func (w *rehearsedWire) TakesWhole(peer netip.Addr) bool {
	return w.edges.TakesWhole(peer, w.at.packets)
}

// WriteWhole takes what fits the path, as the uplink does.
func (w *rehearsedWire) WriteWhole(s *Whole) bool {
	to := s.To.Addr()
	longest := w.at.outer(to) + int(s.VNet.HdrLen) + int(s.VNet.GSOSize)
	if longest > int(w.edges.PathMTU(to)) {
		return false
	}
	w.wholes = append(w.wholes, *s)
	return true
}

// stage is the road out of one frame: at edges that pass nothing on, with
// counters of its own.
type stage struct {
	*outbound
	dev  *rehearsedDevice
	wire *rehearsedWire
}

// newStage returns one for what leaves to the peers as at says; the device is the
// stage's.
func newStage(edges Edges, at atHand) *stage {
	s := &stage{
		outbound: &outbound{
			tally: new(tally), at: at, mirror: mirroring{armed: new(armed)},
			sends: make([]Send, 0, outSends), parts: make([][]byte, 0, outParts),
			slots: make([]byte, outHeaders*headerSlot),
		},
		dev: new(rehearsedDevice),
	}
	s.header, s.at.dev = s.slots, s.dev
	s.wire = &rehearsedWire{edges: edges, at: &s.at}
	return s
}

// dropped is how many frames the road dropped on its way, that is without telling
// its caller.
func (s *stage) dropped() uint64 { return s.tally.drops[DropTooBig].Load() }

// rehearsedInbound returns a road in with counters of its own, and a device for
// its end.
func rehearsedInbound() (*inbound, *rehearsedDevice) {
	in := newInbound(1, 0, new(tally), nil, new(armed))
	in.tally = new(tally)
	return in, new(rehearsedDevice)
}
