package netiotest

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// defaultBuffer is how many datagrams wait in a socket before more are dropped.
const defaultBuffer = 1 << 16

// Conn is one socket in memory.
type Conn struct {
	backend        *Backend
	bound          netip.AddrPort
	event          event
	reader, writer one
	thread         atomic.Int64 // that read last

	mu      sync.Mutex
	waiting []netio.Datagram
	lent    [][]byte // of the last ReadBatch
	dropped uint64
	zero    netio.PortZeroChecksum
	fail    unix.Errno
}

// FD returns the eventfd that is readable while datagrams wait.
func (w *Conn) FD() int { return w.event.fd }

// receive puts a copy of d, which stands for n datagrams, into the socket.
func (w *Conn) receive(d netio.Datagram, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) >= int(w.backend.buffer.Load()) {
		w.dropped += uint64(n)
		return
	}
	d.Data = slices.Clip(slices.Clone(d.Data))
	w.waiting = append(w.waiting, d)
	w.backend.received.Add(int64(n))
	w.event.raise()
}

// ReadBatch hands over what waits and overwrites what it handed over before.
func (w *Conn) ReadBatch(d []netio.Datagram) (int, error) {
	tb := w.backend.underlay.tb
	w.reader.enter(tb, "ReadBatch of port "+w.bound.String())
	defer w.reader.leave()
	w.thread.Store(int64(unix.Gettid()))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.lent {
		poison(b)
	}
	w.lent = w.lent[:0]
	if w.event.closed.Load() {
		tb.Errorf("port %s was read after it was closed", w.bound)
		return 0, unix.EBADF
	}
	if w.fail != 0 {
		return 0, w.fail
	}
	n := copy(d, w.waiting)
	w.waiting = w.waiting[n:]
	for i := range d[:n] {
		w.lent = append(w.lent, d[i].Data)
	}
	if len(w.waiting) == 0 {
		w.event.lower()
	}
	return n, nil
}

// WriteBatch checks the sends and gives them to the underlay.
func (w *Conn) WriteBatch(s []netio.Send) (refused int) {
	tb := w.backend.underlay.tb
	w.writer.enter(tb, "WriteBatch of port "+w.bound.String())
	defer w.writer.leave()
	if w.event.closed.Load() {
		tb.Errorf("port %s was written after it was closed", w.bound)
	}
	if hold := w.backend.held(); hold != nil {
		<-hold
	}
	for i := range s {
		if w.send(&s[i], false) {
			refused++
		}
	}
	return refused
}

// SendOne gives one payload to the underlay, as a Conn does.
func (e *Backend) SendOne(s *netio.Send) unix.Errno {
	w := Conn{backend: e, bound: netip.AddrPortFrom(e.addr, 0)}
	w.send(s, false)
	return s.Errno
}

// send gives one to the underlay; whole is one that stands for its segments.
func (w *Conn) send(s *netio.Send, whole bool) (refused bool) {
	e := w.backend
	s.Errno, s.Refused = 0, 0
	payloads, err := Payloads(s)
	if err != nil {
		e.underlay.tb.Errorf("port %s: send to %s: %v", w.bound, s.To, err)
		return false
	}
	if s.To.Addr().Is4() != e.addr.Is4() {
		e.underlay.tb.Errorf("port %s: send to %s, of the other family", w.bound, s.To)
	}
	if longest := len(payloads[0]); s.DF && !whole && !e.fits(s.To, longest) {
		// The whole run is refused, as by the kernel.
		s.Errno, s.Refused = unix.EMSGSIZE, len(payloads)
		return true
	}
	e.mu.Lock()
	if e.refuse != 0 {
		s.Errno = e.refuse
		s.Refused = min(e.refuseMost, len(payloads))
	}
	pass := payloads[s.Refused:]
	if e.recording {
		e.sent = append(e.sent, Sent{
			To: s.To, Flow: s.Flow, Payloads: pass, SegSize: s.SegSize, TOS: s.TOS, TTL: s.TTL, DF: s.DF,
		})
	}
	e.mu.Unlock()
	e.underlay.carry(e, s, pass)
	return s.Refused > 0
}

// PathMTU returns what the Backend' does.
func (w *Conn) PathMTU(peer netip.Addr) encap.UnderlayMTU { return w.backend.PathMTU(peer) }

// TakesUnsegmented reports what Backend.TakeUnsegmented asked for.
func (w *Conn) TakesUnsegmented(netip.Addr) bool { return w.backend.unsegmented.Load() }

// WriteUnsegmented sends a GSO packet as one datagram, as a kernel peer over veth
// does, or refuses it when its segments do not fit the path.
func (w *Conn) WriteUnsegmented(s *netio.Unsegmented) bool {
	header := 0
	parts := [][]byte{s.Data}
	if s.To.Port() != 0 {
		header = encap.VXLANHeaderLen
		parts = [][]byte{make([]byte, header), s.Data}
		encap.PutVXLAN(parts[0], s.VNI)
	}
	if !w.backend.fits(s.To, header+int(s.VNet.HdrLen)+int(s.VNet.GSOSize)) {
		return false
	}
	one := netio.Send{
		To: s.To, Flow: s.Flow, Parts: parts, TOS: s.TOS, TTL: s.TTL, DF: true,
	}
	w.writer.enter(w.backend.underlay.tb, "WriteWhole of port "+w.bound.String())
	defer w.writer.leave()
	w.send(&one, true)
	return true
}

// AcceptZeroChecksums keeps z for Backend.ZeroChecksums.
func (w *Conn) AcceptZeroChecksums(z netio.PortZeroChecksum) error {
	if w.event.closed.Load() {
		w.backend.underlay.tb.Errorf("port %s was changed after it was closed", w.bound)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.zero = z
	return nil
}

// Dropped is how many datagrams found the socket full.
func (w *Conn) Dropped() uint64 {
	if w.event.closed.Load() {
		w.backend.underlay.tb.Errorf("port %s was asked for its counters after it was closed", w.bound)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}

// Close takes the socket off the underlay. A second time is a violation.
func (w *Conn) Close() error {
	u := w.backend.underlay
	u.mu.Lock()
	defer u.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.event.close(); err != nil {
		u.tb.Errorf("port %s was closed twice", w.bound)
		return err
	}
	for _, table := range []map[netip.AddrPort][]*Conn{u.sockets, u.members} {
		if rest := slices.DeleteFunc(table[w.bound], func(o *Conn) bool { return o == w }); len(rest) > 0 {
			table[w.bound] = rest
		} else {
			delete(table, w.bound)
		}
	}
	u.held = slices.DeleteFunc(u.held, func(p delivery) bool { return p.to == w })
	return nil
}
