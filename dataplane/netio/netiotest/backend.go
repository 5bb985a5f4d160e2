package netiotest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux/epoll"
	"overtap/encap"
)

// Sent is what one netio.Send asked for, its bytes copied and cut.
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

// Backend are one host's on an Underlay. They implement dataplane.Backend.
type Backend struct {
	underlay *Underlay
	addr     netip.Addr
	refused  atomic.Pointer[[]netio.RunsRefused]

	checksums   atomic.Uint64
	buffer      atomic.Int64 // of a socket, in datagrams
	received    atomic.Int64
	unsegmented atomic.Bool // GSO packets are taken unsegmented
	noUSO       atomic.Bool // TAPs are those of a kernel before 6.2

	mu         sync.Mutex
	taps       map[string]*TAP
	conns      []*Conn
	failDevice map[string]error
	failPort   map[uint16]error
	failGroup  error
	refuse     unix.Errno
	hold       <-chan struct{} // each WriteBatch waits for it
	refuseMost int
	recording  bool
	paths      map[netip.Addr]encap.UnderlayMTU
	noRoute    map[netip.Addr]bool // nil before SetRoute
	sent       []Sent
	closed     bool
}

var _ netio.Backend = (*Backend)(nil)

// Backend returns a new host with the address.
func (u *Underlay) Backend(addr netip.Addr) *Backend {
	e := &Backend{
		underlay: u, addr: addr, taps: make(map[string]*TAP),
		failDevice: make(map[string]error), failPort: make(map[uint16]error),
		paths: make(map[netip.Addr]encap.UnderlayMTU),
	}
	e.buffer.Store(defaultBuffer)
	return e
}

// Underlay returns the underlay that the host is on.
func (e *Backend) Underlay() *Underlay { return e.underlay }

// TAP returns the device of that name; the test fails when there is none.
func (e *Backend) TAP(name string) *TAP {
	e.underlay.tb.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.taps[name] == nil {
		e.underlay.tb.Fatalf("there is no TAP %s", name)
	}
	return e.taps[name]
}

// FailDevice makes OpenDevice of that name fail with err, until nil ends it.
func (e *Backend) FailDevice(name string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failDevice[name] = err
}

// FailUDP makes OpenUDP of that port, OpenIPIP for 0, fail with err, until nil ends it.
func (e *Backend) FailUDP(port uint16, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failPort[port] = err
}

// FailGroup makes OpenGroup fail with err, until nil ends it.
func (e *Backend) FailGroup(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failGroup = err
}

// RefuseSends makes every send fail with errno, of a run its first most
// payloads; 0 ends it.
func (e *Backend) RefuseSends(errno unix.Errno, most int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse, e.refuseMost = errno, most
}

// HoldSends makes each WriteBatch wait until release is closed; nil ends that.
func (e *Backend) HoldSends(release <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hold = release
}

// held is what HoldSends set.
func (e *Backend) held() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hold
}

// SetPathMTU has the path to the peer take outer packets of at most mtu bytes,
// and PathMTU say so; 0 ends it.
func (e *Backend) SetPathMTU(peer netip.Addr, mtu encap.UnderlayMTU) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.paths[peer] = mtu
}

// PathMTU returns what SetPathMTU set, else defaultPathMTU.
func (e *Backend) PathMTU(peer netip.Addr) encap.UnderlayMTU {
	e.mu.Lock()
	defer e.mu.Unlock()
	if mtu := e.paths[peer]; mtu != 0 {
		return mtu
	}
	return defaultPathMTU
}

// SetRoute has NoRoute say that there is a route to the peer, or none. Before the
// first call it says nothing.
func (e *Backend) SetRoute(peer netip.Addr, there bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.noRoute == nil {
		e.noRoute = make(map[netip.Addr]bool)
	}
	e.noRoute[peer] = !there
}

// NoRoute returns what SetRoute set.
func (e *Backend) NoRoute() func(netip.Addr) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.noRoute == nil {
		return nil
	}
	return func(peer netip.Addr) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.noRoute[peer]
	}
}

// fits reports whether the path to the peer takes a UDP payload of that size, or
// for port 0 an inner packet.
func (e *Backend) fits(to netip.AddrPort, payload int) bool {
	headers := encap.IPv4HeaderLen
	if to.Addr().Is6() {
		headers = encap.IPv6HeaderLen
	}
	if to.Port() != 0 {
		headers += encap.UDPHeaderLen
	}
	return headers+payload <= int(e.PathMTU(to.Addr()))
}

// FailConns makes every read of a socket fail with errno; the descriptors are
// readable from now on. 0 ends it.
func (e *Backend) FailConns(errno unix.Errno) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.conns {
		w.mu.Lock()
		if !w.event.closed.Load() {
			w.fail = errno
			w.event.raise()
		}
		w.mu.Unlock()
	}
}

// SetBuffer bounds the datagrams that wait in a socket.
func (e *Backend) SetBuffer(datagrams int) { e.buffer.Store(int64(datagrams)) }

// RefuseRuns makes RunsRefused return these, in order.
func (e *Backend) RefuseRuns(refused ...netio.RunsRefused) { e.refused.Store(&refused) }

// Threads returns the IDs of the OS threads that read the TAPs and sockets, each
// of those that was ever read.
func (e *Backend) Threads() []int {
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
	for _, w := range e.conns {
		note(int(w.thread.Load()))
	}
	return ids
}

// Received is how many datagrams came into the sockets, those of a run one by
// one, those dropped at a full buffer not at all.
func (e *Backend) Received() int { return int(e.received.Load()) }

// Record begins to keep what is sent, for Sent.
func (e *Backend) Record() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recording = true
}

// Sent returns what was sent since Record or the last call, in order.
func (e *Backend) Sent() []Sent {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sent
	e.sent = nil
	return s
}

// WithoutUSO makes TAPs opened from now on those of a kernel before 6.2, which has no
// UDP segmentation offload.
func (e *Backend) WithoutUSO() { e.noUSO.Store(true) }

// OpenDevice creates a TAP in memory; a name that is taken is EBUSY.
func (e *Backend) OpenDevice(s netio.DeviceSpec) ([]netio.Device, error) {
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
	var queues []netio.Device
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

// OpenUDP binds a socket for each worker; a port that is taken is EADDRINUSE.
func (e *Backend) OpenUDP(port uint16, workers int) ([]netio.Conn, error) {
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
func (e *Backend) OpenIPIP(workers int) ([]netio.Conn, error) {
	wires, err := e.OpenUDP(0, 1)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for range workers - 1 {
		w := &Conn{backend: e, bound: netip.AddrPortFrom(e.addr, 0), event: newEvent(e.underlay.tb)}
		e.conns = append(e.conns, w)
		wires = append(wires, w)
	}
	return wires, nil
}

// OpenGroup binds a socket to the group; one that is taken is EADDRINUSE.
func (e *Backend) OpenGroup(group netip.Addr, port uint16) (netio.Conn, error) {
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

func (e *Backend) bind(table map[netip.AddrPort][]*Conn, at netip.AddrPort, n int) ([]netio.Conn, error) {
	u := e.underlay
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range table[at] {
		if w.backend == e {
			return nil, fmt.Errorf("bind %s: %w", at, unix.EADDRINUSE)
		}
	}
	var wires []netio.Conn
	e.mu.Lock()
	defer e.mu.Unlock()
	for range n {
		w := &Conn{backend: e, bound: at, event: newEvent(u.tb)}
		table[at] = append(table[at], w)
		e.conns = append(e.conns, w)
		wires = append(wires, w)
	}
	return wires, nil
}

// The pool of source ports.
const firstPort, ports = 49152, 32

// NewPoller implements netio.Backend: the twin's devices and connections have file
// descriptors too.
func (e *Backend) NewPoller() (netio.Poller, error) { return epoll.New() }

// ExportHandover implements netio.Backend. What is in memory cannot be left to another
// process.
func (e *Backend) ExportHandover(netio.Open) (*netio.Handover, error) {
	return nil, errors.New("devices in memory cannot be handed over")
}

// SourcePorts returns the pool.
func (e *Backend) SourcePorts() []uint16 {
	var all []uint16
	for i := range uint16(ports) {
		all = append(all, firstPort+i)
	}
	return all
}

// SourcePort returns that of the pool by which the flow leaves.
func (e *Backend) SourcePort(flow uint32, _ bool) uint16 { return firstPort + uint16(flow%ports) }

// TakesRuns says that every route takes runs.
func (e *Backend) TakesRuns(netip.Addr) bool { return true }

// RunsRefused returns what RefuseRuns was called with.
func (e *Backend) RunsRefused() []netio.RunsRefused {
	if refused := e.refused.Load(); refused != nil {
		return *refused
	}
	return nil
}

// ZeroChecksums is what each open socket of the port takes by now.
func (e *Backend) ZeroChecksums(port uint16) (all []netio.PortZeroChecksum) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.conns {
		if w.bound.Port() != port || w.event.closed.Load() {
			continue
		}
		w.mu.Lock()
		all = append(all, w.zero)
		w.mu.Unlock()
	}
	return all
}

// SetChecksumErrors makes ChecksumErrors return n.
func (e *Backend) SetChecksumErrors(n uint64) { e.checksums.Store(n) }

// ChecksumErrors returns what SetChecksumErrors was called with.
func (e *Backend) ChecksumErrors() uint64 { return e.checksums.Load() }

// SupportsUDP says that sockets have both.
func (e *Backend) SupportsUDP() (segment, gro bool) { return true, true }

// Tick does nothing.
func (e *Backend) Tick() {}

// Uplink says that there is none, or what TakeUnsegmented asked for.
func (e *Backend) Uplink() netio.UplinkInfo {
	return netio.UplinkInfo{Active: e.unsegmented.Load(), Reason: "in memory"}
}

// TakesUnsegmented reports what TakeUnsegmented asked for.
func (e *Backend) TakesUnsegmented(netip.Addr, bool) bool { return e.unsegmented.Load() }

// TakeUnsegmented makes the Conns take GSO packets unsegmented, or no longer.
func (e *Backend) TakeUnsegmented(on bool) { e.unsegmented.Store(on) }

// Close is a violation while a TAP or socket is open, and a second time.
func (e *Backend) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	tb := e.underlay.tb
	if e.closed {
		tb.Error("the backend was closed twice")
	}
	e.closed = true
	for name, t := range e.taps {
		if t.open() {
			tb.Errorf("TAP %s is still open", name)
		}
	}
	for _, w := range e.conns {
		if !w.event.closed.Load() {
			tb.Errorf("port %s is still open", w.bound)
		}
	}
	return nil
}
