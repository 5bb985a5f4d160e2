package dataplanetest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/encap"
)

// Sent is what one dataplane.Send asked for, its bytes copied and cut.
type Sent struct {
	To       netip.AddrPort
	Flow     uint32
	Payloads [][]byte // without those refused
	SegSize  int
	TOS, TTL uint8
	DF       bool
}

// defaultPathMTU is that of an underlay that takes whatever is sent.
const defaultPathMTU = 65535 + 70

// Edges are one host's on an Underlay. They implement dataplane.Edges.
type Edges struct {
	underlay *Underlay
	addr     netip.Addr
	segments atomic.Pointer[error]
	buffer   atomic.Int64 // of a socket, in datagrams
	received atomic.Int64
	whole    atomic.Bool // superframes are taken uncut
	noUSO    atomic.Bool // TAPs are those of a kernel before 6.2

	mu         sync.Mutex
	taps       map[string]*TAP
	wires      []*Wire
	failDevice map[string]error
	failPort   map[uint16]error
	failGroup  error
	refuse     unix.Errno
	hold       <-chan struct{} // each WriteBatch waits for it
	refuseMost int
	recording  bool
	paths      map[netip.Addr]encap.UnderlayMTU
	sent       []Sent
	closed     bool
}

var _ dataplane.Edges = (*Edges)(nil)

// Edges returns a new host with the address.
func (u *Underlay) Edges(addr netip.Addr) *Edges {
	e := &Edges{
		underlay: u, addr: addr, taps: make(map[string]*TAP),
		failDevice: make(map[string]error), failPort: make(map[uint16]error),
		paths: make(map[netip.Addr]encap.UnderlayMTU),
	}
	e.buffer.Store(defaultBuffer)
	return e
}

// TAP returns the device of that name; the test fails when there is none.
func (e *Edges) TAP(name string) *TAP {
	e.underlay.tb.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.taps[name] == nil {
		e.underlay.tb.Fatalf("there is no TAP %s", name)
	}
	return e.taps[name]
}

// FailDevice makes OpenDevice of that name fail with err, until nil ends it.
func (e *Edges) FailDevice(name string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failDevice[name] = err
}

// FailPort makes OpenPort of that port, OpenIPIP for 0, fail with err, until nil ends it.
func (e *Edges) FailPort(port uint16, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failPort[port] = err
}

// FailGroup makes OpenGroup fail with err, until nil ends it.
func (e *Edges) FailGroup(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failGroup = err
}

// RefuseSends makes every send fail with errno, of a run its first most
// payloads; 0 ends it.
func (e *Edges) RefuseSends(errno unix.Errno, most int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse, e.refuseMost = errno, most
}

// HoldSends makes each WriteBatch wait until release is closed; nil ends that.
func (e *Edges) HoldSends(release <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hold = release
}

// held is what HoldSends was told.
func (e *Edges) held() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hold
}

// SetPathMTU has the path to the peer take outer packets of at most mtu bytes,
// and PathMTU say so; 0 ends it.
func (e *Edges) SetPathMTU(peer netip.Addr, mtu encap.UnderlayMTU) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.paths[peer] = mtu
}

// PathMTU returns what SetPathMTU was told, else defaultPathMTU.
func (e *Edges) PathMTU(peer netip.Addr) encap.UnderlayMTU {
	e.mu.Lock()
	defer e.mu.Unlock()
	if mtu := e.paths[peer]; mtu != 0 {
		return mtu
	}
	return defaultPathMTU
}

// fits reports whether the path to the peer takes a UDP payload of that size, or
// for port 0 an inner packet.
func (e *Edges) fits(to netip.AddrPort, payload int) bool {
	headers := encap.IPv4HeaderLen
	if to.Addr().Is6() {
		headers = encap.IPv6HeaderLen
	}
	if to.Port() != 0 {
		headers += encap.UDPHeaderLen
	}
	return headers+payload <= int(e.PathMTU(to.Addr()))
}

// FailWires makes every read of a socket fail with errno; the descriptors are
// readable from now on. 0 ends it.
func (e *Edges) FailWires(errno unix.Errno) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.wires {
		w.mu.Lock()
		if !w.event.closed.Load() {
			w.fail = errno
			w.event.raise()
		}
		w.mu.Unlock()
	}
}

// SetBuffer bounds the datagrams that wait in a socket.
func (e *Edges) SetBuffer(datagrams int) { e.buffer.Store(int64(datagrams)) }

// RefuseSegmentation makes SegmentationRefused return err.
func (e *Edges) RefuseSegmentation(err error) { e.segments.Store(&err) }

// Threads returns the IDs of the OS threads that read the TAPs and sockets, each
// of those that was ever read.
func (e *Edges) Threads() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []int
	note := func(id int) {
		if id != 0 && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, t := range e.taps {
		for _, q := range t.Queues {
			note(int(q.thread.Load()))
		}
	}
	for _, w := range e.wires {
		note(int(w.thread.Load()))
	}
	return ids
}

// Received is how many datagrams came into the sockets, those of a run one by
// one, those dropped at a full buffer not at all.
func (e *Edges) Received() int { return int(e.received.Load()) }

// Record begins to keep what is sent, for Sent.
func (e *Edges) Record() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recording = true
}

// Sent returns what was sent since Record or the last call, in order.
func (e *Edges) Sent() []Sent {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sent
	e.sent = nil
	return s
}

// NoUSO makes TAPs opened from now on those of a kernel before 6.2, which has no
// UDP segmentation offload.
func (e *Edges) NoUSO() { e.noUSO.Store(true) }

// OpenDevice creates a TAP in memory; a name that is taken is EBUSY.
func (e *Edges) OpenDevice(s dataplane.DeviceSpec) ([]dataplane.Device, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.failDevice[s.Name]; err != nil {
		return nil, err
	}
	if t := e.taps[s.Name]; t != nil && t.open() {
		return nil, fmt.Errorf("create TAP %s: %w", s.Name, unix.EBUSY)
	}
	t := newTAP(e.underlay.tb, s)
	t.noUSO = e.noUSO.Load()
	e.taps[s.Name] = t
	var queues []dataplane.Device
	for _, q := range t.Queues {
		queues = append(queues, q)
	}
	return queues, nil
}

// open reports whether any queue is.
func (t *TAP) open() bool {
	for _, q := range t.Queues {
		if !q.event.closed.Load() {
			return true
		}
	}
	return false
}

// OpenPort binds a socket for each worker; a port that is taken is EADDRINUSE.
func (e *Edges) OpenPort(port uint16, workers int) ([]dataplane.Wire, error) {
	e.mu.Lock()
	err := e.failPort[port]
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return e.bind(e.underlay.sockets, netip.AddrPortFrom(e.addr, port), workers)
}

// OpenIPIP opens a socket for each worker, of which the first receives; when
// there are some already it is EADDRINUSE.
func (e *Edges) OpenIPIP(workers int) ([]dataplane.Wire, error) {
	wires, err := e.OpenPort(0, 1)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for range workers - 1 {
		w := &Wire{edges: e, bound: netip.AddrPortFrom(e.addr, 0), event: newEvent(e.underlay.tb)}
		e.wires = append(e.wires, w)
		wires = append(wires, w)
	}
	return wires, nil
}

// OpenGroup binds a socket to the group; one that is taken is EADDRINUSE.
func (e *Edges) OpenGroup(group netip.Addr, port uint16) (dataplane.Wire, error) {
	e.mu.Lock()
	err := e.failGroup
	e.mu.Unlock()
	if err != nil {
		return nil, err
	}
	wires, err := e.bind(e.underlay.members, netip.AddrPortFrom(group, port), 1)
	if err != nil {
		return nil, err
	}
	return wires[0], nil
}

func (e *Edges) bind(table map[netip.AddrPort][]*Wire, at netip.AddrPort, n int) ([]dataplane.Wire, error) {
	u := e.underlay
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range table[at] {
		if w.edges == e {
			return nil, fmt.Errorf("bind %s: %w", at, unix.EADDRINUSE)
		}
	}
	var wires []dataplane.Wire
	e.mu.Lock()
	defer e.mu.Unlock()
	for range n {
		w := &Wire{edges: e, bound: at, event: newEvent(u.tb)}
		table[at] = append(table[at], w)
		e.wires = append(e.wires, w)
		wires = append(wires, w)
	}
	return wires, nil
}

// The pool of source ports.
const firstPort, ports = 49152, 32

// SourcePorts returns the pool.
func (e *Edges) SourcePorts() []uint16 {
	var all []uint16
	for i := range uint16(ports) {
		all = append(all, firstPort+i)
	}
	return all
}

// SourcePort returns that of the pool by which the flow leaves.
func (e *Edges) SourcePort(flow uint32, _ bool) uint16 { return firstPort + uint16(flow%ports) }

// TakesRuns says that every route takes runs.
func (e *Edges) TakesRuns(netip.Addr) bool { return true }

// SegmentationRefused returns what RefuseSegmentation was told.
func (e *Edges) SegmentationRefused() error {
	if err := e.segments.Load(); err != nil {
		return *err
	}
	return nil
}

// Beat does nothing.
func (e *Edges) Beat() {}

// Uplink says that there is none, or what TakeWhole asked for.
func (e *Edges) Uplink() dataplane.UplinkInfo {
	return dataplane.UplinkInfo{Active: e.whole.Load(), Reason: "in memory"}
}

// TakesWhole reports what TakeWhole asked for.
func (e *Edges) TakesWhole(netip.Addr, bool) bool { return e.whole.Load() }

// TakeWhole makes the wires take superframes uncut, or no longer.
func (e *Edges) TakeWhole(on bool) { e.whole.Store(on) }

// Close is a violation while a TAP or socket is open, and a second time.
func (e *Edges) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	tb := e.underlay.tb
	if e.closed {
		tb.Error("the edges were closed twice")
	}
	e.closed = true
	for name, t := range e.taps {
		if t.open() {
			tb.Errorf("TAP %s is still open", name)
		}
	}
	for _, w := range e.wires {
		if !w.event.closed.Load() {
			tb.Errorf("port %s is still open", w.bound)
		}
	}
	return nil
}
