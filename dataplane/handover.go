package dataplane

import (
	"fmt"

	"overtap/dataplane/netio"
	"overtap/fdb"
)

// Handover returns what another engine needs to go on with the devices and sockets of
// this one, whose they are until it ends.
func (e *Engine) Handover() (*netio.Handover, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	var o netio.Open
	for _, m := range e.snapshot.Load().members {
		if b := m.base(); !b.lost.Load() { // else it is opened again
			d := netio.OpenDevice{TUN: b.kind == KindIPIP, Queues: b.devices}
			d.Plain, d.Name = m.device()
			o.Devices = append(o.Devices, d)
		}
	}
	for at, conns := range e.conns {
		o.Conns = append(o.Conns, netio.OpenConns{Port: at.port, Group: at.group, IPIP: at == protocol4, Conns: conns})
	}
	return e.backend.ExportHandover(o)
}

// Persist makes the device of a network or tunnel outlive this process, however
// that ends, but for Close and its removal by Apply.
func (e *Engine) Persist(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.snapshot.Load().members {
		o := m.base()
		if o.name != name || o.keeps || e.closed {
			continue
		}
		if err := o.devices[0].Persist(true); err != nil {
			return fmt.Errorf("%s: make its device persistent: %w", name, err)
		}
		o.keeps = true
	}
	return nil
}

// Restore learns what another engine had learned, as old as it is, where this one
// knows nothing newer, and returns how many entries it took. Entries that are not
// learned, of networks that are not here, or behind peers that are not admitted,
// are left out.
func (e *Engine) Restore(entries []FDBEntry) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, ErrClosed
	}
	networks := make(map[string]*network)
	for _, n := range e.snapshot.Load().networks {
		networks[n.name] = n
	}
	count := 0
	for i := range entries {
		x := &entries[i]
		n := networks[x.Network]
		if n == nil || n.config().VNI != x.VNI || !n.config().Learning || x.Origin != fdb.Learned.String() || !x.MAC.IsSource() || x.MAC == n.config().MAC {
			continue
		}
		id, _ := n.peers.Restore(x.Peer, x.Age)
		if id == fdb.NoPeer || n.peers.Pinned(id) {
			continue
		}
		if n.table.Restore(x.MAC, id, x.Age, x.Frozen) {
			count++
		}
	}
	return count, nil
}
