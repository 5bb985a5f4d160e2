package dataplane_test

import (
	"fmt"
	"net/netip"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
)

// TestNoRouteOfTheDevice has sockets that are bound to a device send to a peer that
// no route holds: the kernel would take it for a neighbour over IPv4. It is dropped by
// name, over VXLAN and IP-in-IP, until there is a route.
func TestNoRouteOfTheDevice(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			far, tunnelled := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.10")
			if v6 {
				far = netip.MustParseAddr("2001:db8:ffff::9")
			}
			lab := netlabtest.New(t)
			sites, err := lab.Sites(netlab.SiteSpec{V6: v6})
			if err != nil {
				t.Fatal(err)
			}
			a, b := sites[0], sites[1]
			if err := b.AddKernelVXLAN(100, 4789, sites...); err != nil {
				t.Fatal(err)
			}
			n := siteNetwork(a, sites...)
			n.Peers = append(n.Peers, dataplane.Peer{Address: far, Flood: true})
			e := overtapWith(t, a, linux.Options{Workers: 1, Device: netlab.UnderlayDev}, n)
			d := dataplane.Desired{Networks: []dataplane.Network{n}}
			if !v6 {
				d.Tunnels = []dataplane.Tunnel{{
					Name: "tun0", Device: "tun0", MTU: 1480, TTL: 64, DF: true,
					Routes: []dataplane.TunnelRoute{{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Peer: tunnelled}},
				}}
			}
			if err := a.Host.Do(func() error { _, err := e.Apply(d); return err }); err != nil {
				t.Fatal(err)
			}
			subjects := map[string]netip.Addr{"blue": far}
			if !v6 {
				subjects["tun0"] = tunnelled
				ip(t, a.Host, "link", "set", "tun0", "up")
				ip(t, a.Host, "addr", "add", "10.8.0.1/32", "dev", "tun0")
				ip(t, a.Host, "route", "add", "10.9.0.0/16", "dev", "tun0", "src", "10.8.0.1")
			}
			// counts returns what was sent to the peer, and what dropped for it.
			counts := func(network string) (sent, noRoute uint64) {
				s := e.Stats()
				for _, p := range s.Peers {
					if p.Network == network && p.Peer == subjects[network] {
						sent = p.TxPackets
						if p.PathMTU != 0 {
							t.Errorf("a path MTU of %d without a route", p.PathMTU)
						}
					}
				}
				for _, d := range s.Drops {
					if d.Network == network && d.Reason == dataplane.DropNoRoute && d.Direction == dataplane.Outbound {
						noRoute = d.Count
					}
				}
				return sent, noRoute
			}
			provoke := func(network string) {
				if network == "tun0" {
					_, _ = netlab.Ping(a.Host, netip.MustParseAddr("10.9.0.1"), netlab.PingOptions{Timeout: 1})
				} else {
					_, _ = netlab.Ping(a.Container, b.IPv4.Next().Next().Next(), netlab.PingOptions{Timeout: 1}) // its ARP requests are flooded
				}
			}
			for network := range subjects {
				eventually(t, network+": no_route", func() bool {
					provoke(network)
					_, noRoute := counts(network)
					return noRoute > 0
				})
				before, _ := counts(network)
				_, dropped := counts(network)
				eventually(t, network+": more of it", func() bool {
					provoke(network)
					_, noRoute := counts(network)
					return noRoute > dropped+3
				})
				if sent, _ := counts(network); sent != before {
					t.Errorf("%s: %d packets count as sent to a peer without a route", network, sent-before)
				}
			}
			if got, err := netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Count: 3}); err != nil || got.Received != 3 {
				t.Errorf("the peer with a route: %v, %v", got, err)
			}
			for network, peer := range subjects {
				ip(t, a.Host, family(v6), "route", "add", peer.String(), "dev", netlab.UnderlayDev)
				sent, _ := counts(network)
				eventually(t, network+": it is sent to again", func() bool {
					provoke(network)
					now, _ := counts(network)
					return now > sent
				})
			}
		})
	}
}

// TestExplainWithoutRoute: trace says what becomes of a frame for such a peer, and
// another one that is flooded to gets it.
func TestExplainWithoutRoute(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB, addrC))
	defer r.Close()
	r.backend.SetRoute(addrC, false)
	r.Engine.Sweep()
	f := plainFrame(0xffff_ffff_ffff, macA, "to both")
	x, err := r.Engine.Explain(dataplane.Query{Network: "blue", Frame: f.Data})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range x.Copies {
		want := dataplane.Drop(0)
		if c.Peer == addrC {
			want = dataplane.DropNoRoute
		}
		if c.Reason != want {
			t.Errorf("to %s: %v, want %v", c.Peer, c.Reason, want)
		}
	}
	if sent := r.out(f); len(sent) != 1 || r.dropped(dataplane.DropNoRoute) != 1 {
		t.Errorf("%d sent, drops %+v", len(sent), r.Engine.Stats().Drops)
	}
	r.backend.SetRoute(addrC, true)
	r.Engine.Sweep()
	if sent := r.out(f); len(sent) != 2 {
		t.Errorf("%d sent with a route to both", len(sent))
	}
}
