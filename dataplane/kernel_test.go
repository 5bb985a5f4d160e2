package dataplane_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
	"overtap/encap"
)

// overtapAt puts an engine at the site, its TAP vx0 on the site's bridge.
func overtapAt(t testing.TB, s *netlab.Site, workers int, nets ...dataplane.Network) *dataplane.Engine {
	t.Helper()
	return overtapWith(t, s, linux.Options{Workers: workers}, nets...)
}

// newEngine starts an engine on the backend of the network namespace that it is called
// in.
func newEngine(o linux.Options) (*dataplane.Engine, error) {
	o.Workers = dataplane.Workers(o.Workers)
	b, err := linux.New(o)
	if err != nil {
		return nil, err
	}
	return dataplane.New(dataplane.Options{Underlay: o.Underlay, Workers: o.Workers, Offloads: o.Offloads, Backend: b})
}

// overtapWith is overtapAt with options; the underlay address is the site's.
func overtapWith(t testing.TB, s *netlab.Site, o linux.Options, nets ...dataplane.Network) *dataplane.Engine {
	t.Helper()
	o.Underlay = s.Underlay
	return overtapBy(t, s, func() (*dataplane.Engine, error) { return newEngine(o) }, nets...)
}

// overtapBy is overtapAt with the engine that start returns in the site's network
// namespace.
func overtapBy(t testing.TB, s *netlab.Site, start func() (*dataplane.Engine, error), nets ...dataplane.Network) *dataplane.Engine {
	t.Helper()
	var e *dataplane.Engine
	err := s.Host.Do(func() (err error) {
		if e, err = start(); err != nil {
			return err
		}
		_, err = e.Apply(dataplane.Desired{Networks: nets})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conserves(t, e)
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

// TestKernelRefusesSegments has the kernel refuse UDP_SEGMENT: nothing may be lost
// by that, and it is said.
func TestKernelRefusesSegments(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	if err := e.Kernel().RefuseRuns(true); err != nil {
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
