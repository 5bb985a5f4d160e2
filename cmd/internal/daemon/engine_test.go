package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// fakeEngine stands in for *dataplane.Engine: it opens real TAPs, forwards
// nothing, and fails where a test says so.
type fakeEngine struct {
	t      *testing.T
	events chan dataplane.Event
	closed chan struct{}

	mu       sync.Mutex
	desired  dataplane.Desired
	taps     map[string][]*os.File
	lost     map[string]bool         // by device
	state    []dataplane.OffloadInfo // of Info
	learned  []dataplane.FDBEntry
	refuse   func(dataplane.Desired) error // of Apply
	applied  int
	closeErr error
	hung     atomic.Bool
	drops    []dataplane.DropStats // in Stats
	fares    map[netip.Addr]dataplane.PeerState
	offloads []string            // granted to every device; nil = Info does not say
	ingress  []dataplane.Ingress // in the order they were set
}

func newFakeEngine(t *testing.T) *fakeEngine {
	return &fakeEngine{
		t: t, events: make(chan dataplane.Event, 8), closed: make(chan struct{}),
		taps: make(map[string][]*os.File), lost: make(map[string]bool),
	}
}

func (e *fakeEngine) Apply(d dataplane.Desired) (dataplane.Diff, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.closed:
		return dataplane.Diff{}, dataplane.ErrClosed
	default:
	}
	if e.refuse != nil {
		if err := e.refuse(d); err != nil {
			return dataplane.Diff{}, err
		}
	}
	e.applied++
	for name, fds := range e.taps {
		if !slices.ContainsFunc(d.Networks, func(n dataplane.Network) bool { return n.Device == name }) {
			closeAll(fds)
			delete(e.taps, name)
			delete(e.lost, name)
		}
	}
	for _, n := range d.Networks {
		if _, ok := e.taps[n.Device]; ok {
			continue
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = n.Device
		tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1, NonPersist: true,
			Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS}
		if err := netlink.LinkAdd(tap); err != nil {
			return dataplane.Diff{}, fmt.Errorf("opening the TAP %s: %w", n.Device, err)
		}
		e.taps[n.Device] = tap.Fds
	}
	e.desired = d
	return dataplane.Diff{}, nil
}

func (e *fakeEngine) Admits(d dataplane.Desired) error { return nil }

func closeAll(fds []*os.File) {
	for _, f := range fds {
		f.Close()
	}
}

func (e *fakeEngine) Stats() dataplane.Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	var s dataplane.Stats
	for _, n := range e.desired.Networks {
		s.Networks = append(s.Networks, dataplane.NetworkStats{Network: n.Name, Entries: len(n.FDB)})
		for _, p := range n.AllPeers() {
			s.Peers = append(s.Peers, dataplane.PeerStats{Network: n.Name, Peer: p.Addr, State: e.fares[p.Addr]})
		}
	}
	s.Drops = slices.Clone(e.drops)
	return s
}

func (e *fakeEngine) EachPeer(f func(string, netip.Addr, dataplane.PeerState)) {
	for _, p := range e.Stats().Peers {
		f(p.Network, p.Peer, p.State)
	}
}

// fare says how a peer fares from now on.
func (e *fakeEngine) fare(peer string, s dataplane.PeerState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fares == nil {
		e.fares = make(map[netip.Addr]dataplane.PeerState)
	}
	e.fares[netip.MustParseAddr(peer)] = s
}

func (e *fakeEngine) Info() dataplane.Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := dataplane.Info{Workers: 2, Offloads: e.state}
	for _, n := range e.desired.Networks {
		i.Networks = append(i.Networks, dataplane.NetworkInfo{Network: n.Name, Device: n.Device, MTU: n.MTU, Lost: e.lost[n.Device], Offloads: e.offloads, Queues: len(e.offloads)})
	}
	return i
}

func (e *fakeEngine) FDB(network string) ([]dataplane.FDBEntry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []dataplane.FDBEntry
	for _, n := range e.desired.Networks {
		for _, s := range n.FDB {
			out = append(out, dataplane.FDBEntry{Network: n.Name, MAC: s.MAC, Peer: s.Peer, Origin: "static"})
		}
	}
	return append(out, e.learned...), nil
}

func (e *fakeEngine) EachFDB(network string, f func(*dataplane.FDBEntry)) error {
	all, err := e.FDB(network)
	for i := range all {
		f(&all[i])
	}
	return err
}

func (e *fakeEngine) Neighbors(network string) ([]dataplane.NeighborEntry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []dataplane.NeighborEntry
	for _, n := range e.desired.Networks {
		for _, one := range n.Neighbors {
			out = append(out, dataplane.NeighborEntry{Network: n.Name, Address: one.Address, MAC: one.MAC, Origin: "static"})
		}
	}
	return out, nil
}

func (e *fakeEngine) Flush(m dataplane.Match) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := len(e.learned)
	e.learned = slices.DeleteFunc(e.learned, func(l dataplane.FDBEntry) bool {
		return (m.Network == "" || m.Network == l.Network) && (m.MAC == 0 || m.MAC == l.MAC)
	})
	return before - len(e.learned), nil
}

func (e *fakeEngine) WatchFDB(string) (*dataplane.FDBWatch, error) {
	return nil, errors.New("the engine in memory has no table to watch")
}

func (e *fakeEngine) Explain(p dataplane.Query) (dataplane.Explanation, error) {
	return dataplane.Explanation{Network: p.Network, Verdict: dataplane.OutcomeDropped}, nil
}

func (e *fakeEngine) Mirror(dataplane.MirrorSpec) (*dataplane.Mirror, error) {
	return nil, errors.New("the engine in memory has no path to look at")
}

func (e *fakeEngine) Persist(string) error { return nil }

func (e *fakeEngine) Handover() (*netio.Handover, error) {
	return nil, errors.New("the engine in memory cannot be left to another")
}

func (e *fakeEngine) Restore(entries []dataplane.FDBEntry) (int, error) { return len(entries), nil }

func (e *fakeEngine) Start() {}

func (e *fakeEngine) SetIngress(i dataplane.Ingress) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ingress = append(e.ingress, i)
	return nil
}

func (e *fakeEngine) Leave(stopped func()) error {
	stopped()
	return e.Close()
}

func (e *fakeEngine) Alive() bool { return !e.hung.Load() }

func (e *fakeEngine) Events() <-chan dataplane.Event { return e.events }

func (e *fakeEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, fds := range e.taps {
		closeAll(fds)
		delete(e.taps, name)
	}
	close(e.closed)
	return e.closeErr
}

// lose deletes a network's TAP as another program would, and says so.
func (e *fakeEngine) lose(network, device string) {
	e.t.Helper()
	e.loseSilently(device)
	e.events <- dataplane.Event{Kind: dataplane.DeviceLost, Network: network, Err: errors.New("EBADFD")}
}

// loseSilently does the same, and says nothing.
func (e *fakeEngine) loseSilently(device string) {
	e.t.Helper()
	l, err := netlink.LinkByName(device)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost[device] = true
}

// entries returns a network's static entries and peers as they were applied.
func (e *fakeEngine) entries(network string) (map[encap.MAC]netip.Addr, []fdb.Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.desired.Networks {
		if n.Name == network {
			m := make(map[encap.MAC]netip.Addr)
			for _, s := range n.FDB {
				m[s.MAC] = s.Peer
			}
			return m, n.AllPeers()
		}
	}
	return nil, nil
}
