package dataplane_test

import (
	"net/netip"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// overtapAt puts an engine at the site, its TAP vx0 on the site's bridge.
func overtapAt(t testing.TB, s *netlab.Site, workers int, nets ...dataplane.Network) *dataplane.Engine {
	t.Helper()
	var e *dataplane.Engine
	err := s.Host.Do(func() (err error) {
		if e, err = dataplane.New(dataplane.Options{Underlay: s.Underlay, Workers: workers}); err != nil {
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

func TestKernelPeerAnswersPing(t *testing.T) {
	lab := netlabtest.New(t)
	sites, err := lab.Sites(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := sites[0], sites[1]
	if err := b.AddKernelVXLAN(100, 4789, sites...); err != nil {
		t.Fatal(err)
	}
	e := overtapAt(t, a, 2, siteNetwork(a, sites...))
	for _, to := range []netip.Addr{b.IPv4, b.IPv6} {
		r, err := netlab.Ping(a.Container, to, netlab.PingOptions{Count: 5, Interval: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if r.Received != r.Sent {
			t.Errorf("ping %s: %d of %d answered", to, r.Received, r.Sent)
		}
	}
	t.Logf("%+v", e.Stats())
	t.Logf("%+v", e.Info())
	fdb, _ := e.FDB("")
	t.Logf("%+v", fdb)
}
