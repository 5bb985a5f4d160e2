package dataplane_test

import (
	"errors"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux/epoll"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// null are edges that cost nothing: the device gives the same frames and the
// wire the same datagrams in every batch, and what is written vanishes, looked
// at by a function at most. They allocate nothing.
type null struct {
	frames []netiotest.Frame
	slots  [][]byte // where the frames of the last batch were put
	loaded bool     // the arena holds the frames
	keep   bool     // do not put them there again

	datagrams []netio.Datagram // Data is a buffer, filled from pristine
	pristine  [][]byte

	path  encap.UnderlayMTU // of every peer
	asked int               // for it

	onSend  func(s []netio.Send)
	onWhole func(w *netio.Unsegmented) bool // nil: GSO packets are not taken whole
	onWrite func(f []netio.OutFrame)
	noGSO   bool // the device refuses GSO packets
}

// restored is how much of a datagram the inbound path may rewrite: headers.
const restored = 256

func (e *null) OpenDevice(netio.DeviceSpec) ([]netio.Device, error) {
	return []netio.Device{nullDevice{e}}, nil
}

func (nullDevice) Persist(bool) error { return nil }

func (e *null) OpenUDP(uint16, int) ([]netio.Conn, error) {
	return []netio.Conn{nullWire{e}}, nil
}

func (e *null) OpenIPIP(int) ([]netio.Conn, error) {
	return []netio.Conn{nullWire{e}}, nil
}

func (e *null) OpenGroup(netip.Addr, uint16) (netio.Conn, error) {
	return nil, errors.New("there are no groups")
}

func (e *null) SourcePorts() []uint16            { return nil }
func (e *null) RunsRefused() []netio.RunsRefused { return nil }
func (e *null) SupportsUDP() (segment, gro bool) { return true, true }

func (e *null) SourcePort(uint32, bool) uint16             { return 0 }
func (e *null) TakesUnsegmented(_ netip.Addr, _ bool) bool { return e.onWhole != nil }
func (e *null) TakesRuns(netip.Addr) bool                  { return true }
func (e *null) Close() error                               { return nil }
func (e *null) Tick()                                      {}

func (e *null) SendOne(*netio.Send) unix.Errno { return 0 }

func (e *null) NoRoute() func(netip.Addr) bool { return nil }
func (e *null) PathMTU(netip.Addr) encap.UnderlayMTU {
	e.asked++
	return e.path
}

func (e *null) Uplink() netio.UplinkInfo { return netio.UplinkInfo{} }

// receives sets the datagrams.
func (e *null) receives(ds ...netio.Datagram) {
	e.datagrams, e.pristine = nil, nil
	for _, d := range ds {
		e.pristine = append(e.pristine, d.Data)
		d.Data = append([]byte(nil), d.Data...)
		e.datagrams = append(e.datagrams, d)
	}
}

type nullDevice struct{ *null }

func (d nullDevice) FD() int            { return -1 }
func (d nullDevice) Offloads() []string { return []string{"csum", "tso4", "tso6", "ecn"} }

func (d nullDevice) ReadBatch(b *netio.FrameBatch) error {
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

func (d nullDevice) WriteBatch(f []netio.OutFrame) int {
	if d.onWrite != nil {
		d.onWrite(f)
	}
	refused := 0
	for i := range f {
		if f[i].Errno = 0; d.noGSO && f[i].VNet.GSOSize != 0 {
			f[i].Errno = unix.EINVAL
			refused++
		}
	}
	return refused
}

func (d nullDevice) Inject([]byte) unix.Errno { return 0 }

type nullWire struct{ *null }

func (nullWire) AcceptZeroChecksums(netio.PortZeroChecksum) error { return nil }

func (e *null) ChecksumErrors() uint64 { return 0 }

func (e *null) NewPoller() (netio.Poller, error)                   { return epoll.New() }
func (e *null) ExportHandover(netio.Open) (*netio.Handover, error) { return nil, nil }

func (w nullWire) FD() int         { return -1 }
func (w nullWire) Dropped() uint64 { return 0 }

func (w nullWire) ReadBatch(d []netio.Datagram) (int, error) {
	for i, p := range w.pristine {
		copy(w.datagrams[i].Data, p[:min(len(p), restored)])
	}
	return copy(d, w.datagrams), nil
}

func (w nullWire) WriteBatch(s []netio.Send) int {
	if w.onSend != nil {
		w.onSend(s)
	}
	return 0
}

func (w nullWire) TakesUnsegmented(netip.Addr) bool           { return w.onWhole != nil }
func (w nullWire) WriteUnsegmented(s *netio.Unsegmented) bool { return w.onWhole(s) }

// nullPaths are paths of the network over null edges.
func nullPaths(tb testing.TB, n dataplane.Network) (*dataplane.Paths, *null) {
	tb.Helper()
	e := &null{slots: make([][]byte, 0, dataplane.OutFrames)}
	r, err := dataplane.NewPaths(dataplane.Options{Underlay: addrA, Backend: e}, n)
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
