package dataplane_test

import (
	"errors"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/dataplanetest"
	"overtap/encap"
)

// null are edges that cost nothing: the device gives the same frames and the
// wire the same datagrams in every batch, and what is written vanishes, looked
// at by a function at most. They allocate nothing.
type null struct {
	frames []dataplanetest.Frame
	slots  [][]byte // where the frames of the last batch were put
	loaded bool     // the arena holds the frames
	keep   bool     // do not put them there again

	datagrams []dataplane.Datagram // Data is a buffer, filled from pristine
	pristine  [][]byte

	path  encap.UnderlayMTU // of every peer
	asked int               // for it

	onSend  func(s []dataplane.Send)
	onWhole func(w *dataplane.Whole) bool // nil: superframes are not taken whole
	onWrite func(f []dataplane.OutFrame)
}

// restored is how much of a datagram the inbound road may rewrite: headers.
const restored = 256

func (e *null) OpenDevice(dataplane.DeviceSpec) ([]dataplane.Device, error) {
	return []dataplane.Device{nullDevice{e}}, nil
}

func (nullDevice) Persist(bool) error { return nil }

func (e *null) OpenPort(uint16, int) ([]dataplane.Wire, error) {
	return []dataplane.Wire{nullWire{e}}, nil
}

func (e *null) OpenIPIP(int) ([]dataplane.Wire, error) {
	return []dataplane.Wire{nullWire{e}}, nil
}

func (e *null) OpenGroup(netip.Addr, uint16) (dataplane.Wire, error) {
	return nil, errors.New("there are no groups")
}

func (e *null) SourcePorts() []uint16      { return nil }
func (e *null) SegmentationRefused() error { return nil }

func (e *null) SourcePort(uint32, bool) uint16       { return 0 }
func (e *null) TakesWhole(_ netip.Addr, _ bool) bool { return e.onWhole != nil }
func (e *null) TakesRuns(netip.Addr) bool            { return true }
func (e *null) Close() error                         { return nil }
func (e *null) Beat()                                {}

func (e *null) SendAlone(*dataplane.Send) unix.Errno { return 0 }

func (e *null) PathMTU(netip.Addr) encap.UnderlayMTU {
	e.asked++
	return e.path
}

func (e *null) Uplink() dataplane.UplinkInfo { return dataplane.UplinkInfo{} }

// receives sets the datagrams.
func (e *null) receives(ds ...dataplane.Datagram) {
	e.datagrams, e.pristine = nil, nil
	for _, d := range ds {
		e.pristine = append(e.pristine, d.Data)
		d.Data = append([]byte(nil), d.Data...)
		e.datagrams = append(e.datagrams, d)
	}
}

type nullDevice struct{ *null }

func (d nullDevice) FD() int            { return -1 }
func (d nullDevice) Offloads() []string { return nil }

func (d nullDevice) ReadBatch(b *dataplane.FrameBatch) error {
	d.slots = d.slots[:0]
	for i := range d.frames {
		slot := b.Slot(0)
		if slot == nil {
			break
		}
		f := &d.frames[i]
		if !d.keep || !d.loaded {
			copy(slot, f.Data)
		}
		b.Commit(len(f.Data), f.VNet)
		d.slots = append(d.slots, slot[:len(f.Data)])
	}
	d.loaded = true
	return nil
}

func (d nullDevice) WriteBatch(f []dataplane.OutFrame) int {
	if d.onWrite != nil {
		d.onWrite(f)
	}
	return 0
}

func (d nullDevice) Answer([]byte) unix.Errno { return 0 }

type nullWire struct{ *null }

func (w nullWire) FD() int         { return -1 }
func (w nullWire) Dropped() uint64 { return 0 }

func (w nullWire) ReadBatch(d []dataplane.Datagram) (int, error) {
	for i, p := range w.pristine {
		copy(w.datagrams[i].Data, p[:min(len(p), restored)])
	}
	return copy(d, w.datagrams), nil
}

func (w nullWire) WriteBatch(s []dataplane.Send) int {
	if w.onSend != nil {
		w.onSend(s)
	}
	return 0
}

func (w nullWire) TakesWhole(netip.Addr) bool         { return w.onWhole != nil }
func (w nullWire) WriteWhole(s *dataplane.Whole) bool { return w.onWhole(s) }

// nullRoads are roads of the network over null edges.
func nullRoads(tb testing.TB, n dataplane.Network) (*dataplane.Roads, *null) {
	tb.Helper()
	e := &null{slots: make([][]byte, 0, dataplane.OutFrames)}
	r, err := dataplane.NewRoads(dataplane.Options{Underlay: addrA, Edges: e}, n)
	if err != nil {
		tb.Fatal(err)
	}
	return r, e
}

// startsAt reports whether part begins at byte offset of b, in one memory.
func startsAt(part, b []byte, offset int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(part))) ==
		uintptr(unsafe.Pointer(unsafe.SliceData(b)))+uintptr(offset)
}
