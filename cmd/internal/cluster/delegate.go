package cluster

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/hashicorp/memberlist"

	"overtap/dataplane"
)

// newNonce is a number that cannot be guessed.
func newNonce() string { return rand.Text() }

// delegate is what memberlist calls. None of it may block.
type delegate Gossip

func (d *delegate) g() *Gossip { return (*Gossip)(d) }

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	g := d.g()
	g.mu.Lock()
	defer g.mu.Unlock()
	b, _ := json.Marshal(meta{g.o.Node.VTEP, g.epoch, g.generation, g.leaving})
	return b
}

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(b []byte) {
	g := d.g()
	var err error
	switch {
	case len(b) == 0:
		err = fmt.Errorf("an empty message")
	case b[0] == msgQuery:
		var q query
		if err = json.Unmarshal(b[1:], &q); err == nil {
			select {
			case g.asked <- q:
			default: // it asks again
			}
		}
	case b[0] == msgReply:
		var r reply
		if err = json.Unmarshal(b[1:], &r); err == nil {
			g.take(&r)
		}
	default:
		err = fmt.Errorf("a message of unknown kind %#x", b[0])
	}
	if err != nil {
		g.mu.Lock()
		g.refused++
		g.mu.Unlock()
		g.o.Log.Debug("cluster: a message was refused", "err", err)
	}
}

// GetBroadcasts implements memberlist.Delegate: records are fetched, not broadcast.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// clash is an error when a node cannot be a member beside those that there are. The
// caller holds mu.
func (d *delegate) clash(n *memberlist.Node) error {
	g := d.g()
	var m meta
	if err := json.Unmarshal(n.Meta, &m); err != nil {
		return fmt.Errorf("node %.80q at %s is no overtap: another cluster gossips on this port with the same key", n.Name, n.Address())
	}
	if err := CheckName(n.Name); err != nil {
		return fmt.Errorf("node %.80q at %s %w", n.Name, n.Address(), err)
	}
	if err := dataplane.CheckPeer(m.VTEP, netip.Addr{}); err != nil {
		return fmt.Errorf("node %s at %s: its VTEP %s %w", n.Name, n.Address(), m.VTEP, err)
	}
	if n.Name == g.o.Node.Name {
		if n.Address() != g.self {
			return fmt.Errorf("two nodes have the name %s, this one (%s) and %s: give one of them another cluster.node", n.Name, g.self, n.Address())
		}
		return nil
	}
	if m.VTEP == g.o.Node.VTEP {
		return fmt.Errorf("two nodes have the underlay address %s, this one (%s) and %s at %s: give one of them another underlay.address", m.VTEP, g.o.Node.Name, n.Name, n.Address())
	}
	for name, other := range g.members {
		switch {
		case !other.alive:
		case name == n.Name && other.node.Address() != n.Address():
			return fmt.Errorf("two nodes have the name %s, at %s and %s: give one of them another cluster.node", name, other.node.Address(), n.Address())
		case name != n.Name && other.meta.VTEP == m.VTEP:
			return fmt.Errorf("two nodes have the underlay address %s, %s and %s: give one of them another underlay.address", m.VTEP, name, n.Name)
		}
	}
	return nil
}

// refuse files a clash, and returns it.
func (d *delegate) refuse(n *memberlist.Node) error {
	g := d.g()
	g.mu.Lock()
	err := d.clash(n)
	if err != nil {
		g.refused++
		g.problems["clash "+n.Name] = "cluster: " + err.Error()
	} else {
		delete(g.problems, "clash "+n.Name)
	}
	g.mu.Unlock()
	if err != nil {
		g.o.Limit.Warn("cluster clash", g.o.Log, "a node is not taken as a member of the cluster", "err", err)
	}
	return err
}

// NotifyAlive implements memberlist.AliveDelegate.
func (d *delegate) NotifyAlive(n *memberlist.Node) error { return d.refuse(n) }

// NotifyMerge implements memberlist.MergeDelegate.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if n.State != memberlist.StateAlive {
			continue
		}
		if err := d.refuse(n); err != nil {
			return err
		}
	}
	return nil
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	g := d.g()
	err := fmt.Errorf("two nodes have the name %s, at %s and %s: give one of them another cluster.node", existing.Name, existing.Address(), other.Address())
	g.setProblem("clash "+existing.Name, "cluster: "+err.Error())
	g.o.Limit.Warn("cluster clash", g.o.Log, "a node is not taken as a member of the cluster", "err", err)
}

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.heard(n, "a member joined the cluster") }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.heard(n, "") }

func (d *delegate) heard(n *memberlist.Node, said string) {
	g := d.g()
	var x meta
	if n.Name == g.o.Node.Name || json.Unmarshal(n.Meta, &x) != nil {
		return
	}
	if x.Leaving {
		d.left(n.Name)
		return
	}
	g.mu.Lock()
	m := g.members[n.Name]
	if m == nil {
		m = new(member)
		g.members[n.Name] = m
	}
	if m.gone != nil {
		m.gone.Stop()
		m.gone = nil
	}
	m.node, m.meta, m.alive = *n, x, true
	delete(g.problems, "clash "+n.Name)
	notify := g.changed()
	g.mu.Unlock()
	if said != "" {
		g.o.Limit.Info("cluster member "+n.Name, g.o.Log, said, "node", n.Name, "vtep", x.VTEP)
	}
	notify()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// left withdraws what a node has that says that it ends.
func (d *delegate) left(name string) {
	g := d.g()
	g.mu.Lock()
	m := g.members[name]
	if m == nil {
		g.mu.Unlock()
		return
	}
	if m.gone != nil {
		m.gone.Stop()
	}
	delete(g.members, name)
	delete(g.problems, "record "+name)
	notify := g.changed()
	g.mu.Unlock()
	g.o.Limit.Info("cluster member "+name, g.o.Log, "a member left the cluster", "node", name)
	notify()
}

// NotifyLeave implements memberlist.EventDelegate, for a node that is dead: what it has
// stays for a while.
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	g := d.g()
	g.mu.Lock()
	m := g.members[n.Name]
	if m == nil || g.closed {
		g.mu.Unlock()
		return // it left
	}
	m.alive = false
	within := g.o.TTL * 3 / 5 // it was silent for the rest
	g.withdrawLater(n.Name, m, within)
	notify := g.changed()
	g.mu.Unlock()
	g.o.Limit.Warn("cluster member "+n.Name, g.o.Log, "a member of the cluster does not answer: its containers are withdrawn unless it comes back", "node", n.Name, "within", within)
	notify()
}
