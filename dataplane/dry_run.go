package dataplane

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// dryDevice is a Device that keeps what the path writes to it.
type dryDevice struct {
	injected [][]byte
	frames   int // written, each segment of a GSO packet counted
	bytes    int
}

func (d *dryDevice) FD() int                           { return -1 }
func (d *dryDevice) ReadBatch(*netio.FrameBatch) error { return nil }
func (d *dryDevice) Offloads() []string                { return nil }
func (d *dryDevice) Persist(bool) error                { return nil }
func (d *dryDevice) Close() error                      { return nil }

func (d *dryDevice) WriteBatch(f []netio.OutFrame) int {
	for i := range f {
		f[i].Errno = 0
		d.frames += f[i].Count
		d.bytes += f[i].Size
	}
	return 0
}

func (d *dryDevice) Inject(frame []byte) unix.Errno {
	d.injected = append(d.injected, append([]byte(nil), frame...))
	return 0
}

// dryConn is a Conn that keeps what the path writes to it.
type dryConn struct {
	backend     netio.Backend
	at          *current
	sends       []netio.Send
	unsegmented []netio.Unsegmented
}

func (c *dryConn) FD() int                                 { return -1 }
func (c *dryConn) ReadBatch([]netio.Datagram) (int, error) { return 0, nil }
func (c *dryConn) PathMTU(netip.Addr) encap.UnderlayMTU    { return 0 }
func (c *dryConn) Dropped() uint64                         { return 0 }
func (c *dryConn) Close() error                            { return nil }

func (c *dryConn) AcceptZeroChecksums(netio.PortZeroChecksum) error { return nil }

func (c *dryConn) WriteBatch(s []netio.Send) int {
	for i := range s {
		s[i].Errno, s[i].Refused = 0, 0
	}
	c.sends = append(c.sends, s...)
	return 0
}

func (c *dryConn) TakesUnsegmented(peer netip.Addr) bool {
	return c.backend.TakesUnsegmented(peer, c.at.packets)
}

// WriteUnsegmented takes what fits the path, as the uplink does.
func (c *dryConn) WriteUnsegmented(s *netio.Unsegmented) bool {
	to := s.To.Addr()
	longest := c.at.outer(to) + int(s.VNet.HdrLen) + int(s.VNet.GSOSize)
	if longest > int(c.backend.PathMTU(to)) {
		return false
	}
	c.unsegmented = append(c.unsegmented, *s)
	return true
}

// dryRun is the tx path of one frame, with I/O that passes nothing on and counters of
// its own.
type dryRun struct {
	*txVXLAN
	dev  *dryDevice
	conn *dryConn
}

// newDryRun returns one for what leaves as at says; the device is its own.
func newDryRun(backend netio.Backend, at current) *dryRun {
	s := &dryRun{
		txVXLAN: &txVXLAN{sender: &sender{
			counters: discardedCounters(), at: at, mirror: mirroring{armed: new(armed)},
			sends: make([]netio.Send, 0, outSends), parts: make([][]byte, 0, outParts),
			slots: make([]byte, outHeaders*headerSlot),
		}},
		dev: new(dryDevice),
	}
	s.header, s.at.dev = s.slots, s.dev
	s.conn = &dryConn{backend: backend, at: &s.at}
	return s
}

// discardedCounters count what no statistics show.
func discardedCounters() *counters { return &counters{clock: new(fdb.Clock)} }

// dropped is how many frames the path dropped without reporting it to its caller.
func (s *dryRun) dropped() uint64 { return s.counters.drops[DropTooBig].Load() }

// dryInbound returns an rx path with counters of its own, and the device at its end.
func dryInbound() (*rxVXLAN, *dryDevice) {
	in := &rxVXLAN{deliverer: newDeliverer(1, 0, discardedCounters(), new(armed))}
	in.counters = discardedCounters()
	return in, new(dryDevice)
}
