package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// Options are fixed for an engine's life.
type Options struct {
	Underlay netip.Addr // outer source address
	Workers  int        // pairs of threads, as the backend was made for; 0 = Workers(0)
	// Backend opens the devices and connections. The engine closes it, also when
	// New fails.
	Backend netio.Backend
	// Offloads are those not to be used.
	Offloads netio.Offloads
	// Hold keeps the threads from starting until Start.
	Hold bool
}

// Workers returns n, or when it is 0 the number of workers for this machine: one per
// CPU that the process may use.
func Workers(n int) int {
	if n > 0 {
		return n
	}
	// GOMAXPROCS knows of a cgroup's quota (Go 1.25 and later).
	return min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
}

// EventKind says what happened to the engine that its owner should act on.
type EventKind uint8

// The events.
const (
	// DeviceLost: the device of a network or a tunnel was deleted under the
	// engine, which has stopped reading it. Removing and adding it opens it again.
	DeviceLost EventKind = iota
	// SegmentationRefused: the routes to Count peers, of which Peer is one,
	// refused UDP_SEGMENT; the engine sends every datagram alone to them until it
	// tries again.
	SegmentationRefused
	// SegmentationResumed: those of Count peers, of which Peer is one, refuse it no
	// more, as far as is known.
	SegmentationResumed
	// GSORefused: the device of a network or a tunnel refused a GSO packet with
	// EINVAL. It was segmented and written again; the engine writes every packet
	// alone until it tries again.
	GSORefused
	// GSOResumed: it does so no more, as far as is known.
	GSOResumed
	// ZeroChecksumsFailed: at Start the sockets could not be set to what the
	// networks take of datagrams without checksum; they take what they did before.
	ZeroChecksumsFailed
	// UplinkLost: the uplink of GSO packets was deleted or set down; they leave
	// by the sockets from now on.
	UplinkLost
	// PathMTUChanged: packets to a peer may be no longer than PathMTU, or as
	// long as the network makes them again (0).
	PathMTUChanged
	// ConnFailed: a socket can no longer be read, and is not any more.
	ConnFailed
	// MACsFrozen: MACs of a network moved too often lately, and stay where they
	// are for a while: a loop, one MAC twice, or an impostor.
	MACsFrozen
)

// Event is one such happening.
type Event struct {
	Kind    EventKind
	Network string    // of DeviceLost, PathMTUChanged, GSORefused and Resumed: the network or tunnel
	Port    uint16    // of ConnFailed; 0 = the socket of IP-in-IP
	MAC     encap.MAC // of MACsFrozen: one of them
	Count   int       // of MACsFrozen: at least as many; of SegmentationRefused and Resumed
	// Saturated, of MACsFrozen: more MACs move than the guard keeps count of.
	Saturated bool
	Err       error

	Peer    netip.Addr // of PathMTUChanged, SegmentationRefused and Resumed
	PathMTU encap.UnderlayMTU
}

// tick is the period of the coarse clock and of all upkeep.
const tick = time.Second

// Engine forwards frames and packets between TAPs, TUNs and the underlay. Its API is Apply and Stats
// (with FDB, Info and Flush beside them for the operator's eyes and hands); all
// of it may be called from any goroutine.
type Engine struct {
	options Options
	backend netio.Backend
	workers int
	clock   *fdb.Clock
	started time.Time

	snapshot  atomic.Pointer[snapshot]
	epoch     atomic.Uint64
	threads   []*thread  // outbound of worker i at 2i, inbound at 2i+1
	unmatched []counters // by thread, for frames that belong to no network
	mirrors   armed
	prober    *prober
	events    chan Event
	eventsMu  sync.Mutex
	waiting   []Event // in order, behind those in events
	stop      chan struct{}
	stopping  sync.Once
	launch    []func() // the threads' loops, until Start
	starting  sync.Once
	running   atomic.Bool // the threads run
	ticking   sync.WaitGroup

	mu      sync.Mutex // control, one at a time
	closed  bool
	ingress *ingress                            // of the snapshot
	conns   map[endpoint][]netio.Conn           // by worker
	zero    map[endpoint]netio.PortZeroChecksum // what the Conns take
	watches map[*FDBWatch]bool
}

// New opens the source ports and starts the engine's threads; nothing is
// forwarded before Apply. It raises GOMAXPROCS when that would let the threads
// starve the rest of the program.
func New(o Options) (*Engine, error) {
	if o.Backend == nil {
		return nil, errors.New("an engine needs a backend")
	}
	if !o.Underlay.IsValid() || o.Underlay.Is4In6() {
		return nil, errors.Join(fmt.Errorf("underlay address %q: want an IPv4 or IPv6 address", o.Underlay), o.Backend.Close())
	}
	e := &Engine{
		options: o, backend: o.Backend, workers: Workers(o.Workers),
		clock: fdb.NewClock(), started: time.Now(),
		events: make(chan Event, 16), stop: make(chan struct{}),
		conns:   make(map[endpoint][]netio.Conn),
		zero:    make(map[endpoint]netio.PortZeroChecksum),
		watches: make(map[*FDBWatch]bool),
	}
	e.snapshot.Store(newSnapshot(nil, nil))
	e.unmatched = newCounters(2*e.workers, e.clock)
	e.prober = newProber(e)
	if want := 2*e.workers + 2; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	if err := e.makeThreads(); err != nil {
		return nil, errors.Join(err, e.backend.Close())
	}
	if !o.Hold {
		e.Start()
	}
	e.ticking.Go(e.upkeep)
	e.ticking.Go(e.prober.run)
	return e, nil
}

func (e *Engine) makeThreads() error {
	for range 2 * e.workers {
		p, err := e.backend.NewPoller()
		if err != nil {
			for _, t := range e.threads {
				t.Close()
			}
			return err
		}
		e.threads = append(e.threads, newThread(p))
	}
	for w := range e.workers {
		s := newSender(2*w, &e.mirrors)
		d := newDeliverer(2*w+1, w, &e.unmatched[2*w+1], &e.mirrors)
		txFrames, txPackets := &txVXLAN{sender: s}, &txIPIP{sender: s, self: e.options.Underlay}
		rxFrames := &rxVXLAN{deliverer: d, probes: &e.prober.boxes[w]}
		rxPackets := &rxIPIP{deliverer: d, self: e.options.Underlay}
		e.launch = append(e.launch,
			func() {
				e.threads[2*w].loop(w, e.workers, &e.epoch, func(p *pollTarget) { e.runTx(txFrames, txPackets, p) })
			},
			func() {
				e.threads[2*w+1].loop(w+1, e.workers, &e.epoch, func(p *pollTarget) { e.runRx(rxFrames, rxPackets, p) })
			})
	}
	return nil
}

func (e *Engine) runTx(o *txVXLAN, packets *txIPIP, p *pollTarget) {
	var err error
	if p.tun != nil {
		err = packets.run(p.tun, p.dev, p.conn)
	} else {
		err = o.run(p.net, p.dev, p.conn)
	}
	if err == nil {
		return
	}
	// The device was deleted (EBADFD) or cannot be read: without this the loop
	// would find it readable for ever.
	e.threads[o.thread].Remove(p.fd)
	if !p.of.lost.Swap(true) {
		e.notify(Event{Kind: DeviceLost, Network: p.of.name, Err: err})
	}
}

func (e *Engine) runRx(in *rxVXLAN, packets *rxIPIP, p *pollTarget) {
	var err error
	if p.at == protocol4 {
		err = packets.run(e.snapshot.Load(), p.conn)
	} else {
		err = in.run(e.snapshot.Load(), p.at.port, p.conn)
	}
	if err != nil && !passing(err) {
		e.threads[in.thread].Remove(p.fd)
		e.notify(Event{Kind: ConnFailed, Port: p.at.port, Err: err})
	}
}

// passing reports an error that a socket returns once and then works on: what
// the network answered to something sent, or a device that went down.
func passing(err error) bool {
	for _, e := range []unix.Errno{unix.ECONNREFUSED, unix.ENETDOWN, unix.ENETUNREACH,
		unix.EHOSTUNREACH, unix.EHOSTDOWN, unix.EMSGSIZE, unix.EPROTO, unix.ENOMEM,
		unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.ENONET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// notify never waits: what the owner has not come to take is kept for the next
// tick. That is bounded: a device, a port, the uplink or a route fails once, and
// what may happen again and again (MACsFrozen, PathMTUChanged) is noted only
// while the owner keeps up.
func (e *Engine) notify(ev Event) {
	e.eventsMu.Lock()
	defer e.eventsMu.Unlock()
	e.waiting = append(e.waiting, ev)
	e.sendWaiting()
}

// sendWaiting delivers what waits, as far as there is room; under eventsMu.
func (e *Engine) sendWaiting() {
	for len(e.waiting) > 0 {
		select {
		case e.events <- e.waiting[0]:
			e.waiting = e.waiting[1:]
		default:
			return
		}
	}
}

// Events delivers what the owner should act on. It is never closed.
func (e *Engine) Events() <-chan Event { return e.events }

// upkeep advances the clock and does once a tick what no thread of the path
// should.
func (e *Engine) upkeep() {
	tick := time.NewTicker(tick)
	defer tick.Stop()
	var refused []netip.Addr // the peers whose routes refuse segments
	lost := false
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		e.clock.Set(uint32(time.Since(e.started)/time.Second) + 1)
		e.sweep()
		e.backend.Tick()
		e.eventsMu.Lock()
		e.sendWaiting()
		e.eventsMu.Unlock()
		refused = e.checkRuns(refused)
		if up := e.backend.Uplink(); up.Lost && !lost {
			lost = true
			e.notify(Event{Kind: UplinkLost, Err: errors.New(up.Reason)})
		}
	}
}

// checkRuns notifies the owner of the peers whose routes refuse UDP_SEGMENT and
// did not before, or did, and returns those that do. While the owner does not
// listen they wait.
func (e *Engine) checkRuns(before []netip.Addr) []netip.Addr {
	refused := e.backend.RunsRefused()
	if len(refused) == 0 && len(before) == 0 || e.isBehind() {
		return before
	}
	now := make([]netip.Addr, 0, len(refused))
	begun := Event{Kind: SegmentationRefused}
	for _, r := range refused {
		now = append(now, r.Peer)
		if _, known := slices.BinarySearchFunc(before, r.Peer, netip.Addr.Compare); known {
			continue
		}
		if begun.Count++; begun.Count == 1 {
			begun.Peer, begun.Err = r.Peer, fmt.Errorf("send segments to %v: %w", r.Peer, r.Errno)
		}
	}
	ended := Event{Kind: SegmentationResumed}
	for _, peer := range before {
		if _, still := slices.BinarySearchFunc(now, peer, netip.Addr.Compare); !still {
			ended.Count++
			ended.Peer = peer
		}
	}
	for _, ev := range []Event{begun, ended} {
		if ev.Count > 0 {
			e.notify(ev)
		}
	}
	return now
}

// sweep ages entries and peers, and frees the IDs of peers that nothing points
// to any more.
func (e *Engine) sweep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return // no thread is left
	}
	members := e.snapshot.Load().members
	if slices.ContainsFunc(members, func(m member) bool { return len(m.base().retired) > 0 }) {
		e.quiesce() // a tick is long, but a thread may have stood still
	}
	now := time.Now()
	routes := newRouteLook(e.backend.NoRoute())
	for _, m := range members {
		e.checkPaths(m)
		routes.look(m.base())
		e.checkMACs(m)
		e.checkGSO(m.base(), now)
		m.age()
		o := m.base()
		if len(o.retired) > 0 {
			m.forget(o.retired) // what frames in flight learned meanwhile
		}
		for i := range o.counters {
			for _, id := range o.retired {
				o.counters[i].forget(id)
			}
		}
		o.peers.Release(o.retired)
		o.retired, o.leaving = o.leaving, o.retired[:0]
		retire(m, o.peers.Expire(m.idle()))
	}
}

// checkMACs notifies the owner which MACs froze. While it does not listen they wait
// with the table, which keeps a few.
func (e *Engine) checkMACs(m member) {
	n, ok := m.(*network)
	if !ok || e.isBehind() {
		return
	}
	if macs := n.table.TakeFrozen(); len(macs) > 0 {
		e.notify(Event{Kind: MACsFrozen, Network: n.name, MAC: macs[0], Count: len(macs), Saturated: n.table.Saturated()})
	}
}

// isBehind reports whether the owner does not take its events.
func (e *Engine) isBehind() bool {
	e.eventsMu.Lock()
	defer e.eventsMu.Unlock()
	return len(e.waiting) > 0
}

// retire forgets what was learned from peers that are gone. Their IDs are freed
// after a whole tick: see package fdb, "Removing a peer".
func retire(m member, gone []fdb.PeerID) {
	if len(gone) == 0 {
		return
	}
	m.forget(gone)
	o := m.base()
	o.leaving = append(o.leaving, gone...)
}
