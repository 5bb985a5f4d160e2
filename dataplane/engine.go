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

	"overtap/encap"
	"overtap/fdb"
)

// Options are fixed for an engine's life.
type Options struct {
	Underlay netip.Addr // outer source address; sockets bind to it
	Device   string     // bind the sockets to this device too; "" = any
	Workers  int        // pairs of outbound and inbound threads; 0 = one per CPU
	// SourcePorts is the size of the pool of source ports that spreads flows
	// over the underlay's equal-cost paths; 0 = 32.
	SourcePorts int
	Edges       Edges // nil = this host's TAPs and UDP sockets
	// NoTunnelGSO keeps superframes off the uplink, which is tried otherwise:
	// every superframe leaves cut by a socket.
	NoTunnelGSO bool
	// Adopt is asked before a device is opened: whether one of that name stands
	// that an engine before left and that is as it shall be. It may remove one
	// that is not. nil = a device that stands is an error.
	Adopt func(DeviceSpec) (bool, error)
	// Inherit is what another engine, which works, leaves to this one. Its
	// descriptors are this engine's as far as it can use them, and the caller's
	// else.
	Inherit *Bequest
	// Hold keeps the road still until Start.
	Hold bool
}

// EventKind says what happened to the engine that its owner should act on.
type EventKind uint8

// The events.
const (
	// DeviceLost: the device of a network or a tunnel was deleted under the
	// engine, which has stopped reading it. Removing and adding it opens it anew.
	DeviceLost EventKind = iota
	// SegmentationRefused: the route to some peer refused UDP_SEGMENT; the
	// engine sends every datagram alone on that route from now on.
	SegmentationRefused
	// UplinkLost: the uplink of superframes was deleted or set down; they leave
	// by the sockets from now on.
	UplinkLost
	// PathMTUChanged: packets to a peer may be no longer than PathMTU, or as
	// long as the network makes them again (0).
	PathMTUChanged
	// WireFailed: a socket can no longer be read, and is not any more.
	WireFailed
	// MACsFrozen: MACs of a network moved too often lately, and stay where they
	// are for a while: a loop, one MAC twice, or an impostor.
	MACsFrozen
)

// Event is one such happening.
type Event struct {
	Kind    EventKind
	Network string    // of DeviceLost and PathMTUChanged: the network or tunnel
	Port    uint16    // of WireFailed; 0 = the socket of IP-in-IP
	MAC     encap.MAC // of MACsFrozen: one of them
	Count   int       // of MACsFrozen: at least as many
	Err     error

	Peer    netip.Addr // of PathMTUChanged
	PathMTU encap.UnderlayMTU
}

// beat is the period of the coarse clock and of all upkeep.
const beat = time.Second

// Engine forwards frames and packets between TAPs, TUNs and the wire. Its door is Apply and Stats
// (with FDB, Info and Flush beside them for the operator's eyes and hands); all
// of it may be called from any goroutine.
type Engine struct {
	options Options
	edges   Edges
	workers int
	clock   *fdb.Clock
	started time.Time

	catalogue atomic.Pointer[catalogue]
	epoch     atomic.Uint64
	threads   []*thread // outbound of worker i at 2i, inbound at 2i+1
	strangers []tally   // by thread, for frames that belong to no network
	prober    *prober
	events    chan Event
	untold    sync.Mutex
	waiting   []Event // in order, behind those in events
	stop      chan struct{}
	stopping  sync.Once
	launch    []func() // the threads' loops, until Start
	starting  sync.Once
	rolling   atomic.Bool // the threads run
	beating   sync.WaitGroup

	mu      sync.Mutex // the door, one at a time
	closed  bool
	wires   map[endpoint][]Wire // by worker
	watches map[*FDBWatch]bool
}

// New opens the source ports and starts the engine's threads; nothing is
// forwarded before Apply. It raises GOMAXPROCS when that would let the threads
// starve the rest of the program.
func New(o Options) (*Engine, error) {
	if !o.Underlay.IsValid() || o.Underlay.Is4In6() {
		return nil, fmt.Errorf("underlay address %q: want an IPv4 or IPv6 address", o.Underlay)
	}
	e := &Engine{
		options: o, edges: o.Edges, workers: o.Workers,
		clock: fdb.NewClock(), started: time.Now(),
		events: make(chan Event, 16), stop: make(chan struct{}),
		wires:   make(map[endpoint][]Wire),
		watches: make(map[*FDBWatch]bool),
	}
	if e.workers <= 0 {
		// GOMAXPROCS knows of a cgroup's quota (Go 1.25 and later).
		e.workers = min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	}
	if e.edges == nil {
		edges, err := newHostEdges(o, e.workers)
		if err != nil {
			return nil, err
		}
		e.edges = edges
	}
	e.catalogue.Store(newCatalogue(nil))
	e.strangers = make([]tally, 2*e.workers)
	if o.Inherit != nil && o.Inherit.Workers != e.workers {
		return nil, errors.Join(fmt.Errorf("%d workers cannot go on with the devices and sockets of %d", e.workers, o.Inherit.Workers), e.edges.Close())
	}
	e.prober = newProber(e)
	if want := 2*e.workers + 2; runtime.GOMAXPROCS(0) < want {
		runtime.GOMAXPROCS(want)
	}
	if err := e.makeThreads(); err != nil {
		return nil, errors.Join(err, e.edges.Close())
	}
	if !o.Hold {
		e.Start()
	}
	e.beating.Go(e.upkeep)
	e.beating.Go(e.prober.run)
	return e, nil
}

func (e *Engine) makeThreads() error {
	for range 2 * e.workers {
		t, err := newThread()
		if err != nil {
			for _, t := range e.threads {
				t.close()
			}
			return err
		}
		e.threads = append(e.threads, t)
	}
	for w := range e.workers {
		out, in := newOutbound(2*w), newInbound(2*w+1, w, &e.strangers[2*w+1], &e.prober.boxes[w])
		packetsOut := newPacketOut(out, e.options.Underlay)
		packetsIn := newPacketIn(in, e.options.Underlay)
		e.launch = append(e.launch,
			func() {
				e.threads[2*w].loop(w, e.workers, &e.epoch, func(p *port) { e.runOutbound(out, packetsOut, p) })
			},
			func() {
				e.threads[2*w+1].loop(w+1, e.workers, &e.epoch, func(p *port) { e.runInbound(in, packetsIn, p) })
			})
	}
	return nil
}

func (e *Engine) runOutbound(o *outbound, packets *packetOut, p *port) {
	var err error
	if p.tun != nil {
		err = packets.run(p.tun, p.dev, p.wire)
	} else {
		err = o.run(p.net, p.dev, p.wire)
	}
	if err == nil {
		return
	}
	// The device was deleted (EBADFD) or cannot be read: without this the loop
	// would find it readable for ever.
	e.threads[o.thread].unwatch(p.fd)
	if !p.of.lost.Swap(true) {
		e.notify(Event{Kind: DeviceLost, Network: p.of.name, Err: err})
	}
}

func (e *Engine) runInbound(in *inbound, packets *packetIn, p *port) {
	var err error
	if p.at == protocol4 {
		err = packets.run(e.catalogue.Load(), p.wire)
	} else {
		err = in.run(e.catalogue.Load(), p.at.port, p.wire)
	}
	if err != nil && !passing(err) {
		e.threads[in.thread].unwatch(p.fd)
		e.notify(Event{Kind: WireFailed, Port: p.at.port, Err: err})
	}
}

// passing reports an error that a socket tells once and then works on: what
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
// beat. That is bounded: a device, a port, the uplink or a route fails once, and
// what may happen again and again (MACsFrozen, PathMTUChanged) is noted only
// while the owner keeps up.
func (e *Engine) notify(ev Event) {
	e.untold.Lock()
	defer e.untold.Unlock()
	e.waiting = append(e.waiting, ev)
	e.tell()
}

// tell hands over what waits, as far as there is room; under untold.
func (e *Engine) tell() {
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

// upkeep advances the clock and does once a beat what no thread of the road
// should.
func (e *Engine) upkeep() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	refused, lost := "", false
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		e.clock.Set(uint32(time.Since(e.started)/time.Second) + 1)
		e.sweep()
		e.edges.Beat()
		e.untold.Lock()
		e.tell()
		e.untold.Unlock()
		if err := e.edges.SegmentationRefused(); err != nil && err.Error() != refused {
			refused = err.Error()
			e.notify(Event{Kind: SegmentationRefused, Err: err})
		}
		if up := e.edges.Uplink(); up.Lost && !lost {
			lost = true
			e.notify(Event{Kind: UplinkLost, Err: errors.New(up.Reason)})
		}
	}
}

// sweep ages entries and peers, and frees the IDs of peers that nothing points
// to any more.
func (e *Engine) sweep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return // nobody is left to come round
	}
	members := e.catalogue.Load().members
	if slices.ContainsFunc(members, func(m member) bool { return len(m.base().retired) > 0 }) {
		e.quiesce() // a beat is long, but a thread may have stood still
	}
	for _, m := range members {
		e.lookAtPaths(m)
		e.lookAtMACs(m)
		m.age()
		o := m.base()
		if len(o.retired) > 0 {
			m.forget(o.retired) // what frames in flight learned meanwhile
		}
		for i := range o.tallies {
			for _, id := range o.retired {
				o.tallies[i].forget(id)
			}
		}
		o.peers.Release(o.retired)
		o.retired, o.leaving = o.leaving, o.retired[:0]
		retire(m, o.peers.Expire(m.idle()))
	}
}

// lookAtMACs tells the owner which MACs froze. While it does not listen they wait
// with the table, which keeps a few.
func (e *Engine) lookAtMACs(m member) {
	n, ok := m.(*network)
	if !ok || e.isBehind() {
		return
	}
	if macs := n.table.TakeFrozen(); len(macs) > 0 {
		e.notify(Event{Kind: MACsFrozen, Network: n.name, MAC: macs[0], Count: len(macs)})
	}
}

// isBehind reports whether the owner does not come to take what it is told.
func (e *Engine) isBehind() bool {
	e.untold.Lock()
	defer e.untold.Unlock()
	return len(e.waiting) > 0
}

// retire forgets what was learned from peers that are gone. Their IDs are freed
// after a whole beat: see package fdb, "Removing a peer".
func retire(m member, gone []fdb.PeerID) {
	if len(gone) == 0 {
		return
	}
	m.forget(gone)
	o := m.base()
	o.leaving = append(o.leaving, gone...)
}
