package dataplane

import (
	"errors"
	"net/netip"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// Paths are the two paths of a single worker without the threads: a test drives
// each batch and has the counters when the call returns.
type Paths struct {
	Engine *Engine

	net  *network
	conn netio.Conn
	out  *txVXLAN
	in   *rxVXLAN
}

// NewPaths opens one network at o.Backend.
func NewPaths(o Options, c Network) (*Paths, error) {
	e := &Engine{
		options: o, backend: o.Backend, workers: 1, clock: fdb.NewClock(), started: time.Now(),
		conns: make(map[endpoint][]netio.Conn), events: make(chan Event, 16),
	}
	e.unmatched = newCounters(2, e.clock)
	e.prober = newProber(e)
	m, err := c.open(e)
	if err != nil {
		return nil, err
	}
	n := m.(*network)
	e.snapshot.Store(newSnapshot([]member{m}, nil))
	return &Paths{
		Engine: e, net: n, conn: e.conns[endpoint{port: c.Port}][0],
		out: &txVXLAN{sender: newSender(0, &e.mirrors)},
		in:  &rxVXLAN{deliverer: newDeliverer(1, 0, &e.unmatched[1], &e.mirrors), probes: &e.prober.boxes[0]},
	}, nil
}

// StateOf judges a peer.
var StateOf = stateOf

// ProbeInterval is the time between two rounds with each peer.
func (r *Paths) ProbeInterval() time.Duration {
	r.Engine.prober.refresh()
	return r.Engine.prober.interval(r.net)
}

// Outbound takes one batch from the device to the wire.
func (r *Paths) Outbound() error { return r.out.run(r.net, r.net.devices[0], r.conn) }

// Inbound takes one batch from the wire to the device.
func (r *Paths) Inbound() error {
	return r.in.run(r.Engine.snapshot.Load(), r.net.config().Port, r.conn)
}

// TunnelPaths are Paths of a tunnel.
type TunnelPaths struct {
	Engine *Engine

	tun  *tunnel
	conn netio.Conn
	out  *txIPIP
	in   *rxIPIP
}

// NewTunnelPaths opens one tunnel at o.Backend.
func NewTunnelPaths(o Options, c Tunnel) (*TunnelPaths, error) {
	e := &Engine{
		options: o, backend: o.Backend, workers: 1, clock: fdb.NewClock(), started: time.Now(),
		conns: make(map[endpoint][]netio.Conn), events: make(chan Event, 16),
	}
	e.unmatched = newCounters(2, e.clock)
	e.prober = newProber(e)
	m, err := c.open(e)
	if err != nil {
		return nil, err
	}
	e.snapshot.Store(newSnapshot([]member{m}, nil))
	return &TunnelPaths{
		Engine: e, tun: m.(*tunnel), conn: e.conns[protocol4][0],
		out: &txIPIP{sender: newSender(0, &e.mirrors), self: o.Underlay},
		in:  &rxIPIP{deliverer: newDeliverer(1, 0, &e.unmatched[1], &e.mirrors), self: o.Underlay},
	}, nil
}

// Outbound takes one batch from the device to the wire.
func (r *TunnelPaths) Outbound() error { return r.out.run(r.tun, r.tun.devices[0], r.conn) }

// Inbound takes one batch from the wire to the device.
func (r *TunnelPaths) Inbound() error { return r.in.run(r.Engine.snapshot.Load(), r.conn) }

// Close closes the device and the wire.
func (r *TunnelPaths) Close() error {
	return errors.Join(r.tun.close(), r.conn.Close(), r.Engine.backend.Close())
}

// Learn binds the MAC to the listed peer number i.
func (r *Paths) Learn(m encap.MAC, i int) {
	id, _ := r.net.peers.ID(r.net.config().Peers[i].Address)
	r.net.table.Learn(m, id)
}

// Change makes the network be c.
func (r *Paths) Change(c Network) error { return r.net.change(c) }

// Close closes the device and the wires.
func (r *Paths) Close() error {
	errs := []error{r.net.close()}
	for _, wires := range r.Engine.conns {
		for _, w := range wires {
			errs = append(errs, w.Close())
		}
	}
	return errors.Join(append(errs, r.Engine.backend.Close())...)
}

// Cut writes the headers of each of f's segments into slots of HeaderSlot bytes
// and returns how many segments there are.
func Cut(f *netio.Frame, vni encap.VNI, slots []byte) int {
	t, isIP := encap.FindTransport(f.Data)
	p, drop := planSegments(f, t, isIP)
	if drop != dropNone {
		return 0
	}
	for i := range p.count {
		p.header(slots[i*headerSlot:][:headerSlot], f.Data, vni, i)
	}
	return p.count
}

// Passing is passing.
func Passing(err error) bool { return passing(err) }

// What the tests need to know of the sizes inside.
const (
	HeaderSlot      = headerSlot
	OutFrames       = outFrames
	InDatagrams     = inDatagrams
	MaxLearnedPeers = maxLearnedPeers

	AnswersPerSecond = answersPerSecond
	MaxMirrors       = maxMirrors
	RepliesPerSecond = repliesPerSecond
	ProbeBoxSize     = probeBoxSize
)

// SetPathMTU has the path to the peer be known to have that MTU.
func (r *Paths) SetPathMTU(peer netip.Addr, mtu encap.UnderlayMTU) {
	id, _ := r.net.peers.ID(peer)
	r.net.peers.SetPathMTU(id, mtu)
}

// DrainStorms empties the buckets of flooded frames that drained says for an hour:
// the network's, those of the peers' bounds, those of their shares. It fills the
// others.
func (r *Paths) DrainStorms(drained [3]bool) {
	full := func(which int) uint64 {
		if drained[which] {
			return clockNow() + uint64(time.Hour)
		}
		return 0
	}
	for kind := range stormKinds {
		for d := range r.net.storms {
			r.net.storms[d][kind].Store(full(0))
		}
		for p := range r.net.peers.All() {
			r.net.peers.Meter(p.ID, kind).Store(full(1))
			r.net.peers.Meter(p.ID, stormKinds+kind).Store(full(2))
		}
	}
}

// LookAtGSO does upkeep of the device's refusals, at that time.
func (r *Paths) LookAtGSO(now time.Time) { r.Engine.checkGSO(&r.net.netBase, now) }

// GiveGSO has the device be given GSO packets again.
func (r *Paths) GiveGSO() { r.Engine.GiveGSO() }

// GiveGSO is that of Paths.
func (r *TunnelPaths) GiveGSO() { r.Engine.GiveGSO() }

// GiveGSO has the devices of all networks be given GSO packets again.
func (e *Engine) GiveGSO() {
	for _, m := range e.snapshot.Load().members {
		m.base().singly.Store(false)
	}
}

// QuotedICMP is icmpTold.
func QuotedICMP(b []byte, packet bool) string { return quotedICMP(b, packet) }

// Tick lets a second go by, and does the table's upkeep.
func (r *Paths) Tick() {
	r.Engine.clock.Set(r.Engine.clock.Now() + 1)
	r.net.age()
}

// Room is how much of everything the paths have room for; it never changes.
func (r *Paths) Room() []int { return room(r.out.sender, r.in.deliverer) }

// Room is that of Paths.
func (r *TunnelPaths) Room() []int { return room(r.out.sender, r.in.deliverer) }

func room(o *sender, i *deliverer) []int {
	frames, arena := o.batch.Cap()
	all := []int{frames, arena, cap(o.sends), cap(o.parts), len(o.slots),
		len(i.datagrams), cap(i.frames), cap(i.parts), cap(i.flows), len(i.slots),
		cap(i.retry.frames), cap(i.retry.parts), len(i.retry.slots)}
	for _, t := range i.flows[:cap(i.flows)] {
		all = append(all, cap(t.parts))
	}
	return all
}

// Sweep does what the engine does on its tick.
func (e *Engine) Sweep() { e.sweep() }
