package dataplane

import (
	"net/netip"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// FDBChange is one change of a forwarding table; its JSON names are part of the
// command line's contract.
type FDBChange struct {
	Time    time.Time `json:"time"` // when it was read, a fraction of a second after it happened
	Network string    `json:"network"`
	// Event is "learn", "move", "local" (its MAC was seen on this host), "age",
	// "freeze", "thaw", "add" or "delete".
	Event  string     `json:"event"`
	MAC    encap.MAC  `json:"mac"`
	From   netip.Addr `json:"from,omitzero"` // the peer it was behind
	To     netip.Addr `json:"to,omitzero"`   // the peer it is behind
	Origin string     `json:"origin"`
}

// FDBWatch reads the changes of forwarding tables from its beginning on. It
// belongs to one goroutine, and must be closed.
type FDBWatch struct {
	engine *Engine
	name   string // "" = every network
	events []fdb.Event

	watches map[*network]*fdb.Watch // under the engine's mu
}

// WatchFDB watches the named network, or all for "", those that come later too,
// from their first entry on. A network that goes takes its entries along untold.
func (e *Engine) WatchFDB(name string) (*FDBWatch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	if _, err := e.named(name); err != nil {
		return nil, err
	}
	w := &FDBWatch{engine: e, name: name, watches: make(map[*network]*fdb.Watch)}
	for _, n := range e.snapshot.Load().networks {
		w.follow(n)
	}
	e.watches[w] = true
	return w, nil
}

// follow watches a network, where it is asked for.
func (w *FDBWatch) follow(n *network) {
	if w.name == "" || n.name == w.name {
		w.watches[n] = n.table.Watch()
	}
}

// leave watches networks that are gone no more.
func (w *FDBWatch) leave() {
	there := make(map[*network]bool)
	for _, n := range w.engine.snapshot.Load().networks {
		there[n] = true
	}
	for n, watch := range w.watches {
		if !there[n] {
			watch.Close()
			delete(w.watches, n)
		}
	}
}

// Read returns the changes since the last call, network by network, and how many
// were lost because they came too fast.
func (w *FDBWatch) Read() (changes []FDBChange, lost uint64) {
	w.engine.mu.Lock()
	defer w.engine.mu.Unlock()
	now := time.Now()
	for n, watch := range w.watches {
		var missed uint64
		w.events, missed = watch.Read(w.events[:0])
		lost += missed
		for _, ev := range w.events {
			changes = append(changes, FDBChange{
				Time: now, Network: n.name, Event: ev.Change.String(), MAC: ev.MAC,
				From: n.peers.Addr(ev.From), To: n.peers.Addr(ev.To), Origin: ev.Origin.String(),
			})
		}
	}
	w.leave()
	return changes, lost
}

// Close ends the watch.
func (w *FDBWatch) Close() {
	w.engine.mu.Lock()
	defer w.engine.mu.Unlock()
	delete(w.engine.watches, w)
	for n, watch := range w.watches {
		watch.Close()
		delete(w.watches, n)
	}
}
