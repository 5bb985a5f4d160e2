package dataplane

import (
	"errors"
	"net/netip"
	"reflect"
	"sync/atomic"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// learnedPeerIdle is after how many seconds of silence a tunnel forgets a
// sender that is admitted by prefix or "any": nothing but its counters depends
// on it.
const learnedPeerIdle = 300

// tunnel is a Tunnel at work. The threads read config and routes also.
type tunnel struct {
	netBase
	config atomic.Pointer[Tunnel] // as applied; immutable
	routes *fdb.Routes
}

func (c Tunnel) label() string { return c.Name }
func (c Tunnel) kind() string  { return "tunnel" }

func (c Tunnel) open(e *Engine) (member, error) {
	t := &tunnel{netBase: e.newNetBase(c.Name, KindIPIP), routes: fdb.NewRoutes()}
	if err := t.change(c); err != nil {
		return nil, err
	}
	err := e.openIO(t, netio.DeviceSpec{Name: c.Device, MTU: c.MTU, Queues: e.workers, Plain: c.Plain, TUN: true})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *tunnel) is(w wanted) bool { return reflect.DeepEqual(w, *t.config.Load()) }

func (t *tunnel) endpoints() []endpoint { return []endpoint{protocol4} }

func (t *tunnel) pollTarget(worker int, w netio.Conn) *pollTarget {
	d := t.devices[worker]
	return &pollTarget{fd: d.FD(), of: &t.netBase, tun: t, dev: d, conn: w}
}

func (t *tunnel) device() (plain bool, name string) {
	return t.config.Load().Plain, t.config.Load().Device
}

// age does nothing: what a tunnel knows is configured.
func (t *tunnel) age()                {}
func (t *tunnel) forget([]fdb.PeerID) {}
func (t *tunnel) idle() uint32        { return learnedPeerIdle }

func (t *tunnel) fills(netip.Addr) encap.UnderlayMTU { return t.config.Load().MTU.IPIPUnderlay() }

// admits is an error when a running tunnel cannot become w.
func (t *tunnel) admits(w wanted) error {
	want, ok := w.(Tunnel)
	if !ok {
		return errors.New("a tunnel of that name runs: remove it first")
	}
	c := t.config.Load()
	return unchanged("tunnel",
		fixed{"the device's name", c.Device == want.Device},
		fixed{"offload", c.Plain == want.Plain})
}

// change makes a tunnel's peers, routes and configuration be those of w. A packet on
// its way meanwhile may find a route to a peer that is new or gone: it has the
// peer's address with it.
func (t *tunnel) change(w wanted) error {
	want := w.(Tunnel)
	gone, err := t.peers.Set(want.peers(), fdb.Policy{Any: want.Admit.Any, Prefixes: want.Admit.Prefixes})
	if err != nil {
		return err
	}
	routes := make([]fdb.Route, 0, len(want.Routes))
	for _, r := range want.Routes {
		id, _ := t.peers.ID(r.Peer)
		routes = append(routes, fdb.Route{Prefix: r.Prefix, To: fdb.Target{ID: id, Addr: r.Peer}})
	}
	if err := t.routes.Set(routes); err != nil {
		return err
	}
	retire(t, gone)
	t.config.Store(&want)
	return nil
}

// peers are those of the routes, each once.
func (c *Tunnel) peers() []fdb.Peer {
	var peers []fdb.Peer
	seen := make(map[netip.Addr]bool)
	for _, r := range c.Routes {
		if !seen[r.Peer] {
			seen[r.Peer] = true
			peers = append(peers, fdb.Peer{Addr: r.Peer})
		}
	}
	return peers
}
