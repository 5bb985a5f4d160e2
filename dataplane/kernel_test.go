package dataplane_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/encap"
)

// overtapAt puts an engine at the site, its TAP vx0 on the site's bridge.
func overtapAt(t testing.TB, s *netlab.Site, workers int, nets ...dataplane.Network) *dataplane.Engine {
	t.Helper()
	return overtapWith(t, s, dataplane.Options{Workers: workers}, nets...)
}

// overtapWith is overtapAt with options; the underlay address is the site's.
func overtapWith(t testing.TB, s *netlab.Site, o dataplane.Options, nets ...dataplane.Network) *dataplane.Engine {
	t.Helper()
	o.Underlay = s.Underlay
	var e *dataplane.Engine
	err := s.Host.Do(func() (err error) {
		if e, err = dataplane.New(o); err != nil {
			return err
		}
		_, err = e.Apply(dataplane.Desired{Networks: nets})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, n := range nets {
		if err := s.Host.SetMaster(n.Device, netlab.SiteBridge); err != nil {
			t.Fatal(err)
		}
		if err := s.Host.SetUp(n.Device); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

// siteNetwork is VNI 100 on port 4789 with every peer on the flood list.
func siteNetwork(s *netlab.Site, peers ...*netlab.Site) dataplane.Network {
	n := dataplane.Network{
		Name: "blue", VNI: 100, Port: 4789, Device: netlab.SiteVXLAN,
		MAC: encap.MAC(0x0242_c000_0000 + s.N), MTU: s.MTU,
		Learning: true, Ageing: 300 * time.Second, MaxEntries: 65536,
		TTL: 64, TOS: dataplane.TOS{Inherit: true}, DF: true,
	}
	for _, p := range peers {
		if p.N != s.N {
			n.Peers = append(n.Peers, dataplane.Peer{Address: p.Underlay, Flood: true})
		}
	}
	return n
}

// kernelPair is an engine at the first site and the kernel's vxlan at the second.
func kernelPair(t testing.TB, spec netlab.SiteSpec, change func(*dataplane.Network)) (e *dataplane.Engine, a, b *netlab.Site) {
	t.Helper()
	lab := netlabtest.New(t)
	sites, err := lab.Sites(spec)
	if err != nil {
		t.Fatal(err)
	}
	a, b = sites[0], sites[1]
	if err := b.AddKernelVXLAN(100, 4789, sites...); err != nil {
		t.Fatal(err)
	}
	n := siteNetwork(a, sites...)
	if change != nil {
		change(&n)
	}
	return overtapAt(t, a, 2, n), a, b
}

func TestKernelPeerAnswersPing(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	for _, to := range []netip.Addr{b.IPv4, b.IPv6} {
		r, err := netlab.Ping(a.Container, to, netlab.PingOptions{Count: 5, Interval: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Received != r.Sent {
			t.Errorf("ping %s: %d of %d answered", to, r.Received, r.Sent)
		}
	}
	entries, err := e.FDB("blue")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(f dataplane.FDBEntry) bool { return f.MAC == b.MAC })
	if i < 0 || entries[i].Peer != b.Underlay || entries[i].Origin != "learned" {
		t.Errorf("the FDB does not have the peer's container learned: %+v", entries)
	}
}

// bulk sends checked TCP and UDP superframes both ways.
func bulk(t *testing.T, a, b *netlab.Site) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, addr := range []func(*netlab.Site) netip.Addr{
		func(s *netlab.Site) netip.Addr { return s.IPv4 },
		func(s *netlab.Site) netip.Addr { return s.IPv6 },
	} {
		from := traffic.End{Host: a.Container, Addr: addr(a)}
		to := traffic.End{Host: b.Container, Addr: addr(b)}
		for range 2 {
			if _, err := traffic.TCP(ctx, from, to, traffic.TCPOptions{Bytes: 8 << 20, Checked: true}); err != nil {
				t.Errorf("TCP %s to %s: %v", from.Addr, to.Addr, err)
			}
			r, err := traffic.UDP(ctx, from, to, traffic.UDPOptions{Count: 640, Size: 1200, Segment: true, Batch: 20, Rate: 6400})
			if err != nil || r.Received == 0 || r.Corrupted != 0 {
				t.Errorf("UDP superframes %s to %s: %v, %v", from.Addr, to.Addr, r, err)
			}
			from, to = to, from
		}
	}
}

// TestBulkKeepsItsBytes sends bulk in every combination of offloads: of the
// underlay, of the TAP, of the sockets, by the uplink and without, to the kernel
// and to another engine. No stack may count a checksum that was wrong, nothing
// may be dropped on the way out.
func TestBulkKeepsItsBytes(t *testing.T) {
	underlays := map[string]netlab.SiteSpec{
		"all offloads":           {},
		"no tunnel segmentation": {Offload: netlab.NoTunnelSegmentation},
		"no offloads":            {Offload: netlab.NoOffloads},
		"IPv6":                   {V6: true},
		"IPv6, no offloads":      {V6: true, Offload: netlab.NoOffloads},
		"jumbo":                  {UnderlayMTU: 9000},
	}
	ways := []struct {
		name            string
		plain, noUplink bool
		refuse, gro     bool
		both            bool
	}{
		{name: "all"},
		{name: "cut", noUplink: true},
		{name: "plain TAP", plain: true},
		{name: "UDP_SEGMENT refused", noUplink: true, refuse: true},
		{name: "GRO", gro: true, noUplink: true},
		{name: "engine to engine", both: true},
		{name: "engine to engine, cut, GRO", both: true, noUplink: true, gro: true},
	}
	for _, underlay := range slices.Sorted(maps.Keys(underlays)) {
		for _, w := range ways {
			t.Run(underlay+", "+w.name, func(t *testing.T) {
				lab := netlabtest.New(t)
				sites, err := lab.Sites(underlays[underlay])
				if err != nil {
					t.Fatal(err)
				}
				a, b := sites[0], sites[1]
				if w.gro {
					for _, s := range sites {
						if err := s.Host.SetFeatures(netlab.UnderlayDev, true, "gro"); err != nil {
							t.Fatal(err)
						}
					}
				}
				var engines []*dataplane.Engine
				open := func(s *netlab.Site) {
					n := siteNetwork(s, sites...)
					n.Plain = w.plain
					e := overtapWith(t, s, dataplane.Options{Workers: 2, NoTunnelGSO: w.noUplink}, n)
					if w.refuse {
						if err := e.RefuseSegments(); err != nil {
							t.Fatal(err)
						}
					}
					engines = append(engines, e)
				}
				open(a)
				if w.both {
					open(b)
				} else if err := b.AddKernelVXLAN(100, 4789, sites...); err != nil {
					t.Fatal(err)
				}
				bulk(t, a, b)
				if n := checksumErrors(t, a.Container, b.Container, a.Host, b.Host); n != 0 {
					t.Errorf("%d checksum errors", n)
				}
				for _, e := range engines {
					for _, d := range e.Stats().Drops {
						if d.Direction == dataplane.Outbound {
							t.Errorf("dropped: %+v", d)
						}
					}
				}
			})
		}
	}
}

// TestKernelRefusesSegments has the kernel refuse UDP_SEGMENT: nothing may be lost
// by that, and it is said.
func TestKernelRefusesSegments(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	if err := e.RefuseSegments(); err != nil {
		t.Fatal(err)
	}
	bulk(t, a, b)
	if !e.Info().SegmentationRefused {
		t.Error("nothing says that the route refuses segmentation")
	}
	select {
	case ev := <-e.Events():
		if ev.Kind != dataplane.SegmentationRefused || !errors.Is(ev.Err, unix.EINVAL) {
			t.Errorf("event %+v, want SegmentationRefused by EINVAL", ev)
		}
	case <-time.After(5 * time.Second):
		t.Error("no event")
	}
	for _, d := range e.Stats().Drops {
		if d.Direction == dataplane.Outbound {
			t.Errorf("dropped: %+v", d)
		}
	}
}
