package dataplane

import (
	"errors"
	"net/netip"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// Roads are the two roads of a single worker without the threads: a test drives
// each batch and has the counters when the call returns.
type Roads struct {
	Engine *Engine

	net  *network
	wire Wire
	out  *outbound
	in   *inbound
}

// NewRoads opens one network at o.Edges.
func NewRoads(o Options, c Network) (*Roads, error) {
	e := &Engine{
		options: o, edges: o.Edges, workers: 1, clock: fdb.NewClock(),
		strangers: make([]tally, 2), wires: make(map[endpoint][]Wire),
	}
	e.prober = newProber(e)
	m, err := c.open(e)
	if err != nil {
		return nil, err
	}
	n := m.(*network)
	e.catalogue.Store(newCatalogue([]member{m}))
	return &Roads{
		Engine: e, net: n, wire: e.wires[endpoint{port: c.Port}][0],
		out: newOutbound(0, &e.mirrors), in: newInbound(1, 0, &e.strangers[1], &e.prober.boxes[0], &e.mirrors),
	}, nil
}

// Outbound takes one batch from the device to the wire.
func (r *Roads) Outbound() error { return r.out.run(r.net, r.net.devices[0], r.wire) }

// Inbound takes one batch from the wire to the device.
func (r *Roads) Inbound() error {
	return r.in.run(r.Engine.catalogue.Load(), r.net.config.Port, r.wire)
}

// TunnelRoads are Roads of a tunnel.
type TunnelRoads struct {
	Engine *Engine

	tun  *tunnel
	wire Wire
	out  *packetOut
	in   *packetIn
}

// NewTunnelRoads opens one tunnel at o.Edges.
func NewTunnelRoads(o Options, c Tunnel) (*TunnelRoads, error) {
	e := &Engine{
		options: o, edges: o.Edges, workers: 1, clock: fdb.NewClock(),
		strangers: make([]tally, 2), wires: make(map[endpoint][]Wire),
	}
	e.prober = newProber(e)
	m, err := c.open(e)
	if err != nil {
		return nil, err
	}
	e.catalogue.Store(newCatalogue([]member{m}))
	return &TunnelRoads{
		Engine: e, tun: m.(*tunnel), wire: e.wires[protocol4][0],
		out: newPacketOut(newOutbound(0, &e.mirrors), o.Underlay),
		in:  newPacketIn(newInbound(1, 0, &e.strangers[1], &e.prober.boxes[0], &e.mirrors), o.Underlay),
	}, nil
}

// Outbound takes one batch from the device to the wire.
func (r *TunnelRoads) Outbound() error { return r.out.run(r.tun, r.tun.devices[0], r.wire) }

// Inbound takes one batch from the wire to the device.
func (r *TunnelRoads) Inbound() error { return r.in.run(r.Engine.catalogue.Load(), r.wire) }

// Close closes the device and the wire.
func (r *TunnelRoads) Close() error {
	return errors.Join(r.tun.close(), r.wire.Close(), r.Engine.edges.Close())
}

// Learn binds the MAC to the listed peer number i.
func (r *Roads) Learn(m encap.MAC, i int) {
	id, _ := r.net.peers.ID(r.net.config.Peers[i].Address)
	r.net.table.Learn(m, id)
}

// Change makes the network be c.
func (r *Roads) Change(c Network) error { return r.net.change(c) }

// Close closes the device and the wires.
func (r *Roads) Close() error {
	errs := []error{r.net.close()}
	for _, wires := range r.Engine.wires {
		for _, w := range wires {
			errs = append(errs, w.Close())
		}
	}
	return errors.Join(append(errs, r.Engine.edges.Close())...)
}

// Cut writes the headers of each of f's segments into slots of HeaderSlot bytes
// and returns how many segments there are.
func Cut(f *Frame, vni encap.VNI, slots []byte) int {
	t, isIP := encap.FindTransport(f.Data)
	p, ok := planSegments(f, t, isIP)
	if !ok {
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
func (r *Roads) SetPathMTU(peer netip.Addr, mtu encap.UnderlayMTU) {
	id, _ := r.net.peers.ID(peer)
	r.net.peers.SetPathMTU(id, mtu)
}

// DrainStorms empties the buckets of flooded frames that drained says for an hour:
// the network's, those of the peers' bounds, those of their shares. It fills the
// others.
func (r *Roads) DrainStorms(drained [3]bool) {
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

// ICMPTold is icmpTold.
func ICMPTold(b []byte, packet bool) string { return icmpTold(b, packet) }

// Tick lets a second go by, and does the table's upkeep.
func (r *Roads) Tick() {
	r.Engine.clock.Set(r.Engine.clock.Now() + 1)
	r.net.age()
}

// Room is how much of everything the roads have room for; it never changes.
func (r *Roads) Room() []int { return room(r.out, r.in) }

// Room is that of Roads.
func (r *TunnelRoads) Room() []int { return room(r.out.out, r.in.in) }

func room(o *outbound, i *inbound) []int {
	all := []int{cap(o.batch.frames), len(o.batch.arena), cap(o.sends), cap(o.parts), len(o.slots),
		len(i.datagrams), cap(i.frames), cap(i.parts), cap(i.trains), len(i.slots)}
	for _, t := range i.trains[:cap(i.trains)] {
		all = append(all, cap(t.parts))
	}
	return all
}
