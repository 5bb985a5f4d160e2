package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// maxLearnedPeers bounds the senders that a prefix or "any" admits to one
// network beside those listed.
const maxLearnedPeers = 16384

// ErrClosed is the error of a closed engine.
var ErrClosed = errors.New("the engine is closed")

// Apply makes what runs be d and returns what changed. What did not change is not
// touched. On an error what ran before still runs, unchanged: everything that
// can fail is done before anything is published. The keys that a running
// network cannot change are named by the error; remove the network and add it.
func (e *Engine) Apply(d Desired) (Diff, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	running, err := e.admits(&d)
	if err != nil {
		return Diff{}, err
	}
	before := e.snapshot.Load()
	var (
		diff    Diff
		next    []member
		added   []member
		changed = make(map[member]wanted)
	)
	undo := func(err error) (Diff, error) {
		e.snapshot.Store(before)
		for _, m := range added {
			e.detach(m)
		}
		e.quiesce()
		for _, m := range added {
			m.base().close()
		}
		e.closeIdleConns()
		return Diff{}, err
	}
	for _, want := range d.all() {
		m := running[want.label()]
		if m == nil {
			m, err := want.open(e)
			if err != nil {
				return undo(fmt.Errorf("%s %q: %w", want.kind(), want.label(), err))
			}
			added, next = append(added, m), append(next, m)
			diff.Added = append(diff.Added, want.label())
			continue
		}
		delete(running, want.label())
		next = append(next, m)
		if !m.is(want) {
			changed[m] = want
			diff.Changed = append(diff.Changed, want.label())
		}
	}
	e.snapshot.Store(newSnapshot(append(slices.Clone(before.members), added...), e.ingress))
	if err := e.attach(added); err != nil {
		return undo(err)
	}
	// From here on nothing fails: admits has checked what could.
	var errs []error
	for m, want := range changed {
		errs = append(errs, m.change(want))
	}
	e.snapshot.Store(newSnapshot(next, e.ingress))
	for name, m := range running {
		diff.Removed = append(diff.Removed, name)
		e.detach(m)
	}
	if len(running) > 0 {
		e.quiesce()
		for _, m := range running {
			m.base().close()
		}
		e.closeIdleConns()
	}
	errs = append(errs, e.acceptZeroChecksums())
	e.prober.changed()
	slices.Sort(diff.Added)
	slices.Sort(diff.Removed)
	slices.Sort(diff.Changed)
	return diff, errors.Join(errs...)
}

// Admits is the error that Apply would return for what can be found beforehand: that
// d contradicts itself, or has a running network change what it cannot.
func (e *Engine) Admits(d Desired) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, err := e.admits(&d)
	return err
}

// admits is Admits for a caller that holds mu. It returns what runs, by name.
func (e *Engine) admits(d *Desired) (map[string]member, error) {
	if e.closed {
		return nil, ErrClosed
	}
	if err := d.check(e.options.Underlay); err != nil {
		return nil, err
	}
	running := make(map[string]member)
	for _, m := range e.snapshot.Load().members {
		running[m.base().name] = m
	}
	var errs []error
	for _, want := range d.all() {
		if m := running[want.label()]; m != nil && !m.is(want) {
			if err := m.admits(want); err != nil {
				errs = append(errs, fmt.Errorf("%s %q: %w", want.kind(), want.label(), err))
			}
		}
	}
	return running, errors.Join(errs...)
}

// all are the networks, then the tunnels.
func (d *Desired) all() []wanted {
	var all []wanted
	for _, n := range d.Networks {
		all = append(all, n)
	}
	for _, t := range d.Tunnels {
		all = append(all, t)
	}
	return all
}

// newNetBase is what a network and a tunnel begin with.
func (e *Engine) newNetBase(name string, kind Kind) netBase {
	return netBase{
		name: name, kind: kind,
		counters: newCounters(2*e.workers, e.clock),
		peers:    fdb.NewPeers(e.options.Underlay, maxLearnedPeers, e.clock),
	}
}

func (c Network) open(e *Engine) (_ member, err error) {
	n := &network{
		netBase: e.newNetBase(c.Name, KindVXLAN),
		table:   fdb.NewTableIn(tableMemory, c.MaxEntries, uint32(c.Ageing/time.Second), e.clock),
	}
	n.policy.Store(newPolicy(&c, nil))
	n.vni, n.udpPort = c.VNI, c.Port
	for w := range e.watches {
		w.follow(n)
	}
	if err := n.change(c); err != nil {
		return nil, err
	}
	err = e.openIO(n, netio.DeviceSpec{Name: c.Device, MAC: c.MAC, MTU: c.MTU, Queues: e.workers, Plain: c.Plain})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// openIO opens where m receives, unless that is open, and its device.
func (e *Engine) openIO(m member, s netio.DeviceSpec) (err error) {
	for _, at := range m.endpoints() {
		if e.conns[at] != nil {
			continue
		}
		wires, err := e.listen(at)
		if err != nil {
			return err
		}
		e.conns[at] = wires
	}
	o := m.base()
	s.NoGSO, s.NoUSO = e.options.Offloads.NoTAPGSO, e.options.Offloads.NoTAPUSO
	if o.devices, err = e.backend.OpenDevice(s); err != nil {
		return err
	}
	o.gso = takenBy(e.options.Offloads, o.devices[0].Offloads())
	return nil
}

// listen opens an endpoint. A group has one Conn, since each of several would
// receive a copy of its own.
func (e *Engine) listen(at endpoint) ([]netio.Conn, error) {
	if at == protocol4 {
		return e.backend.OpenIPIP(e.workers)
	}
	if !at.group.IsValid() {
		return e.backend.OpenUDP(at.port, e.workers)
	}
	w, err := e.backend.OpenGroup(at.group, at.port)
	if err != nil {
		return nil, err
	}
	return []netio.Conn{w}, nil
}

// attach lets the threads see the members' devices and the endpoints that they
// are the first to use.
func (e *Engine) attach(added []member) error {
	for _, m := range added {
		wires := e.conns[m.endpoints()[0]]
		for w := range m.base().devices {
			if err := e.threads[2*w].add(m.pollTarget(w, wires[w])); err != nil {
				return err
			}
		}
		for _, at := range m.endpoints() {
			for w, wire := range e.conns[at] {
				in := e.threads[2*w+1]
				if in.knows(wire.FD()) {
					continue
				}
				if err := in.add(&pollTarget{fd: wire.FD(), conn: wire, at: at}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// detach hides the member's devices from the threads; they are in use until
// the next quiescence.
func (e *Engine) detach(m member) {
	for w, d := range m.base().devices {
		e.threads[2*w].remove(d.FD())
	}
}

// closeIdleConns closes the endpoints that no network uses any more.
func (e *Engine) closeIdleConns() {
	used := make(map[endpoint]bool)
	for _, m := range e.snapshot.Load().members {
		for _, at := range m.endpoints() {
			used[at] = true
		}
	}
	var idle []endpoint
	for at, wires := range e.conns {
		if used[at] {
			continue
		}
		idle = append(idle, at)
		for w, wire := range wires {
			e.threads[2*w+1].remove(wire.FD())
		}
	}
	if len(idle) == 0 {
		return
	}
	e.quiesce()
	for _, at := range idle {
		for _, w := range e.conns[at] {
			w.Close()
		}
		delete(e.conns, at)
		delete(e.zero, at)
	}
}

// fixed is a key that cannot change while what it belongs to runs.
type fixed struct {
	name string
	same bool
}

// FixedError says that a key cannot change while its network or tunnel runs.
type FixedError struct {
	Key      string // as the configuration has it; "offload" is the whole device's
	kind, or string
}

// Error implements error.
func (e *FixedError) Error() string {
	return fmt.Sprintf("%s cannot change while the %s runs: remove the %s by one reload and add it by the next, or %s", e.Key, e.kind, e.kind, e.or)
}

// FixedKey is the key.
func (e *FixedError) FixedKey() string { return e.Key }

// unchanged is an error when one of the keys is another.
func unchanged(kind string, keys ...fixed) error {
	for _, key := range keys {
		if !key.same {
			or := "start a new daemon beside it"
			if key.name == "mac" || key.name == "offload" {
				or = "stop the daemon and start it" // one that takes over goes on with the device
			}
			return &FixedError{Key: key.name, kind: kind, or: or}
		}
	}
	return nil
}

// admits is an error when a running network cannot become w.
func (n *network) admits(w wanted) error {
	want, ok := w.(Network)
	if !ok {
		return errors.New("a network of that name runs: remove it first")
	}
	c := n.config()
	err := unchanged("network", []fixed{
		{"vni", c.VNI == want.VNI}, {"port", c.Port == want.Port},
		{"tap", c.Device == want.Device}, {"mac", c.MAC == want.MAC},
		{"offload", c.Plain == want.Plain},
		{"ageing", c.Ageing == want.Ageing}, {"max_entries", c.MaxEntries == want.MaxEntries},
		{"group", c.Group == want.Group},
	}...)
	if err != nil {
		return err
	}
	if bound, room := len(want.bound()), n.table.Room(); bound > room {
		return fmt.Errorf("%d static entries: there is room for %d in a table made for max_entries = %d",
			bound, room, c.MaxEntries)
	}
	return nil
}

// answers is the set of neighbours that want is to be answered from: the one in
// use where they are the same.
func (n *network) answers(want *Network) *fdb.Neighbors {
	if !want.Suppress {
		return nil
	}
	p := n.policy.Load()
	if p.neighbors != nil && slices.Equal(p.Neighbors, want.Neighbors) {
		return p.neighbors
	}
	return fdb.NewNeighbors(want.Neighbors)
}

// limits bound what the network's peers can do to its table.
func (c *Network) limits() fdb.Limits {
	l := fdb.Limits{PerPeer: c.MaxPerPeer, Moves: c.MaxMoves, Window: uint32(c.MoveWindow / time.Second)}
	if l.PerPeer == 0 && (len(c.AllPeers()) > 1 || c.Admit.Any || len(c.Admit.Prefixes) > 0) {
		l.PerPeer = max(c.MaxEntries/2, 1)
	}
	return l
}

// change makes a network's peers, static entries and policy be those of w.
func (n *network) change(w wanted) error {
	want := w.(Network)
	gone, err := n.peers.Set(want.AllPeers(), fdb.Policy{Any: want.Admit.Any, Prefixes: want.Admit.Prefixes})
	if err != nil {
		return err
	}
	n.table.SetLimits(want.limits())
	bound := want.bound()
	keep := make(map[encap.MAC]fdb.Origin, len(bound))
	for _, s := range bound {
		keep[s.MAC] = s.rank()
	}
	for _, s := range n.config().bound() {
		if keep[s.MAC] != s.rank() {
			n.table.Delete(s.MAC, s.rank())
		}
	}
	for _, s := range bound {
		id, _ := n.peers.ID(s.Peer)
		if err := n.table.Put(s.MAC, id, s.rank()); err != nil {
			return fmt.Errorf("static entry %s: %w", s.MAC, err)
		}
	}
	retire(n, gone)
	n.policy.Store(newPolicy(&want, n.answers(&want)))
	if want.pins() {
		n.forgetPinned()
		n.repin = 2
	}
	return nil
}
