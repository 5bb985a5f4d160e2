package dataplane

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// maxLearnedPeers bounds the senders that a prefix or "any" admits to one
// network beside those listed.
const maxLearnedPeers = 16384

// ErrClosed is what a closed engine answers.
var ErrClosed = errors.New("the engine is closed")

// Apply makes what runs be d and says what changed. What did not change is not
// touched. On an error what ran before still runs, unchanged: everything that
// can fail is done before anything is published. The keys that a running
// network cannot change are named by the error; remove the network and add it.
func (e *Engine) Apply(d Desired) (Diff, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return Diff{}, ErrClosed
	}
	if err := d.check(e.options.Underlay); err != nil {
		return Diff{}, err
	}
	running := make(map[string]*network)
	for _, n := range e.catalogue.Load().networks {
		running[n.config.Name] = n
	}
	var (
		diff    Diff
		next    []*network
		added   []*network
		changed = make(map[*network]Network)
	)
	before := e.catalogue.Load()
	undo := func(err error) (Diff, error) {
		e.catalogue.Store(before)
		for _, n := range added {
			e.detach(n)
		}
		e.quiesce()
		for _, n := range added {
			n.close()
		}
		e.closeIdleWires()
		return Diff{}, err
	}
	for _, want := range d.Networks {
		n := running[want.Name]
		if n == nil {
			n, err := e.open(want)
			if err != nil {
				return undo(fmt.Errorf("network %q: %w", want.Name, err))
			}
			added, next = append(added, n), append(next, n)
			diff.Added = append(diff.Added, want.Name)
			continue
		}
		delete(running, want.Name)
		next = append(next, n)
		if reflect.DeepEqual(n.config, want) {
			continue
		}
		if err := n.admits(want); err != nil {
			return undo(fmt.Errorf("network %q: %w", want.Name, err))
		}
		changed[n] = want
		diff.Changed = append(diff.Changed, want.Name)
	}
	e.catalogue.Store(newCatalogue(append(slices.Clone(before.networks), added...)))
	if err := e.attach(added); err != nil {
		return undo(err)
	}
	// From here on nothing fails: admits has looked at what could.
	var errs []error
	for n, want := range changed {
		errs = append(errs, n.change(want))
	}
	e.catalogue.Store(newCatalogue(next))
	for name, n := range running {
		diff.Removed = append(diff.Removed, name)
		e.detach(n)
	}
	if len(running) > 0 {
		e.quiesce()
		for _, n := range running {
			n.close()
		}
		e.closeIdleWires()
	}
	slices.Sort(diff.Added)
	slices.Sort(diff.Removed)
	slices.Sort(diff.Changed)
	return diff, errors.Join(errs...)
}

// open makes a network ready to be published.
func (e *Engine) open(c Network) (_ *network, err error) {
	n := &network{
		name:    c.Name,
		config:  c,
		tallies: make([]tally, 2*e.workers),
		table:   fdb.NewTable(c.MaxEntries, uint32(c.Ageing/time.Second), e.clock),
		peers:   fdb.NewPeers(e.options.Underlay, maxLearnedPeers, e.clock),
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if err := n.change(c); err != nil {
		return nil, err
	}
	for _, at := range n.endpoints() {
		if e.wires[at] != nil {
			continue
		}
		wires, err := e.listen(at)
		if err != nil {
			return nil, err
		}
		e.wires[at] = wires
	}
	n.devices, err = e.edges.OpenDevice(DeviceSpec{
		Name: c.Device, MAC: c.MAC, MTU: c.MTU, Queues: e.workers, Plain: c.Plain,
	})
	if err != nil {
		return nil, err
	}
	n.uso = slices.Contains(n.devices[0].Offloads(), "uso")
	n.policy.Store(newPolicy(&c, n.uso, n.policy.Load().neighbors))
	return n, nil
}

// listen opens an endpoint. A group has one wire, since each of several would
// receive a copy of its own.
func (e *Engine) listen(at endpoint) ([]Wire, error) {
	if !at.group.IsValid() {
		return e.edges.OpenPort(at.port, e.workers)
	}
	w, err := e.edges.OpenGroup(at.group, at.port)
	if err != nil {
		return nil, err
	}
	return []Wire{w}, nil
}

// attach lets the threads see the networks' devices and the endpoints that they
// are the first to use.
func (e *Engine) attach(added []*network) error {
	for _, n := range added {
		wires := e.wires[endpoint{port: n.config.Port}]
		for w, d := range n.devices {
			if err := e.threads[2*w].add(&port{fd: d.FD(), net: n, dev: d, wire: wires[w]}); err != nil {
				return err
			}
		}
		for _, at := range n.endpoints() {
			for w, wire := range e.wires[at] {
				in := e.threads[2*w+1]
				if in.knows(wire.FD()) {
					continue
				}
				if err := in.add(&port{fd: wire.FD(), wire: wire, udp: at.port}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// detach hides the network's devices from the threads; they are in use until
// the next quiescence.
func (e *Engine) detach(n *network) {
	for w, d := range n.devices {
		e.threads[2*w].remove(d.FD())
	}
}

// closeIdleWires closes the endpoints that no network uses any more.
func (e *Engine) closeIdleWires() {
	used := make(map[endpoint]bool)
	for _, n := range e.catalogue.Load().networks {
		for _, at := range n.endpoints() {
			used[at] = true
		}
	}
	var idle []endpoint
	for at, wires := range e.wires {
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
		for _, w := range e.wires[at] {
			w.Close()
		}
		delete(e.wires, at)
	}
}

// admits is an error when a running network cannot become want.
func (n *network) admits(want Network) error {
	c := n.config
	for _, key := range []struct {
		name string
		same bool
	}{
		{"vni", c.VNI == want.VNI}, {"port", c.Port == want.Port},
		{"tap", c.Device == want.Device}, {"mac", c.MAC == want.MAC},
		{"mtu", c.MTU == want.MTU}, {"offload", c.Plain == want.Plain},
		{"ageing", c.Ageing == want.Ageing}, {"max_entries", c.MaxEntries == want.MaxEntries},
		{"group", c.Group == want.Group},
	} {
		if !key.same {
			return fmt.Errorf("%s cannot change while the network runs", key.name)
		}
	}
	if room := n.table.Room(); len(want.FDB) > room {
		return fmt.Errorf("%d static entries: there is room for %d in a table made for max_entries = %d",
			len(want.FDB), room, c.MaxEntries)
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
	if p != nil && p.neighbors != nil && slices.Equal(n.config.Neighbors, want.Neighbors) {
		return p.neighbors
	}
	return fdb.NewNeighbors(want.Neighbors)
}

// change makes a network's peers, static entries and policy be those of want.
func (n *network) change(want Network) error {
	gone, err := n.peers.Set(want.allPeers(), fdb.Policy{Any: want.Admit.Any, Prefixes: want.Admit.Prefixes})
	if err != nil {
		return err
	}
	keep := make(map[encap.MAC]bool, len(want.FDB))
	for _, s := range want.FDB {
		keep[s.MAC] = true
	}
	for _, s := range n.config.FDB {
		if !keep[s.MAC] {
			n.table.Delete(s.MAC, fdb.Static)
		}
	}
	for _, s := range want.FDB {
		id, _ := n.peers.ID(s.Peer)
		if err := n.table.Put(s.MAC, id, fdb.Static); err != nil {
			return fmt.Errorf("static entry %s: %w", s.MAC, err)
		}
	}
	n.retire(gone)
	n.policy.Store(newPolicy(&want, n.uso, n.answers(&want)))
	n.config = want
	return nil
}
