package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync/atomic"

	"overtap/encap"
	"overtap/fdb"
)

// learnedPeerIdle is after how many seconds of silence a tunnel forgets a
// sender that is admitted by prefix or "any": nothing but its counters depends
// on it.
const learnedPeerIdle = 300

// tunnel is a Tunnel at work. The threads read policy and routes also.
type tunnel struct {
	overlay
	policy atomic.Pointer[tunnelPolicy]
	routes *fdb.Routes
	config Tunnel // as applied
}

// tunnelPolicy is what the road needs of a tunnel's configuration, published
// whole.
type tunnelPolicy struct {
	mtu         encap.OverlayMTU
	ttl         uint8
	tos         TOS
	df          bool
	checkSource bool
	clampMSS    bool
	plain       bool
	uso         bool // the TUN takes UDP superframes
}

func newTunnelPolicy(c *Tunnel, uso bool) *tunnelPolicy {
	return &tunnelPolicy{
		mtu: c.MTU, ttl: c.TTL, tos: c.TOS, df: c.DF,
		checkSource: c.CheckSource, clampMSS: c.ClampMSS, plain: c.Plain, uso: uso,
	}
}

func (c Tunnel) label() string { return c.Name }
func (c Tunnel) kind() string  { return "tunnel" }

func (c Tunnel) open(e *Engine) (member, error) {
	t := &tunnel{overlay: e.newOverlay(c.Name, KindIPIP), config: c, routes: fdb.NewRoutes()}
	if err := t.change(c); err != nil {
		return nil, err
	}
	err := e.openEdges(t, DeviceSpec{Name: c.Device, MTU: c.MTU, Queues: e.workers, Plain: c.Plain, TUN: true})
	if err != nil {
		return nil, err
	}
	t.policy.Store(newTunnelPolicy(&c, t.uso))
	return t, nil
}

func (t *tunnel) is(w wanted) bool { return reflect.DeepEqual(w, t.config) }

func (t *tunnel) endpoints() []endpoint { return []endpoint{protocol4} }

func (t *tunnel) port(worker int, w Wire) *port {
	d := t.devices[worker]
	return &port{fd: d.FD(), of: &t.overlay, tun: t, dev: d, wire: w}
}

// age does nothing: what a tunnel knows is configured.
func (t *tunnel) age()                {}
func (t *tunnel) forget([]fdb.PeerID) {}
func (t *tunnel) idle() uint32        { return learnedPeerIdle }

func (t *tunnel) fills(netip.Addr) encap.UnderlayMTU { return t.config.MTU.IPIPUnderlay() }

// admits is an error when a running tunnel cannot become w.
func (t *tunnel) admits(w wanted) error {
	want, ok := w.(Tunnel)
	if !ok {
		return errors.New("a tunnel of that name runs: remove it first")
	}
	c := t.config
	return unchanged("tunnel",
		fixed{"the device's name", c.Device == want.Device},
		fixed{"mtu", c.MTU == want.MTU},
		fixed{"offload", c.Plain == want.Plain})
}

// change makes a tunnel's peers, routes and policy be those of w. A packet on
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
	t.policy.Store(newTunnelPolicy(&want, t.uso))
	t.config = want
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

// check reports what about the tunnel cannot be.
func (c *Tunnel) check(underlay netip.Addr, fail func(string, ...any)) {
	if c.Device == "" || len(c.Device) > 15 {
		fail("TUN name %q: want 1 to 15 bytes", c.Device)
	}
	if !underlay.Is4() {
		fail("it carries IPv4 in IPv4: the underlay address %s is IPv6", underlay)
		return
	}
	if c.MTU < encap.MinOverlayMTU4 {
		fail("MTU %d: want at least %d", c.MTU, encap.MinOverlayMTU4)
	}
	if c.TTL == 0 {
		fail("TTL 0: want 1 to 255")
	}
	seen := make(map[netip.Prefix]bool)
	for _, r := range c.Routes {
		switch p := r.Prefix; {
		case !p.IsValid() || !p.Addr().Is4() || p != p.Masked():
			fail("route to %s: want an IPv4 prefix without host bits", p)
		case seen[p]:
			fail("route to %s stands twice", p)
		}
		seen[r.Prefix] = true
		checkPeer(r.Peer, underlay, fail)
	}
}

// checkTunnels reports what about the tunnels together cannot be.
func (d *Desired) checkTunnels(underlay netip.Addr, taken func(name, device string, fail func(string, ...any))) (errs []error) {
	of := make(map[netip.Addr]string)
	for i := range d.Tunnels {
		t := &d.Tunnels[i]
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("tunnel %q: "+format, append([]any{t.Name}, args...)...))
		}
		taken(t.Name, t.Device, fail)
		for _, p := range t.peers() {
			if other, ok := of[p.Addr]; ok {
				fail("peer %s belongs to tunnel %q", p.Addr, other)
			}
			of[p.Addr] = t.Name
		}
		t.check(underlay, fail)
	}
	return errs
}
