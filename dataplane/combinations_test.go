package dataplane_test

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
)

// combination is a way for GSO packets to travel between two sites.
type combination struct {
	name string
	spec netlab.SiteSpec // the underlay and its offloads
	way
}

// way is what the engines do.
type way struct {
	name     string
	plain    bool // TAPs without offloads
	less     int  // how many of the best sets of offloads a TAP is not granted
	noUplink bool
	refuse   bool // the route refuses UDP_SEGMENT
	gro      bool // the underlay's devices join what they receive
	both     bool // there is an engine at each end; else the kernel is the peer
}

// unsegmented reports whether GSO packets leave unsegmented.
func (c combination) unsegmented() bool {
	return c.spec.Offload == netlab.AllOffloads && !c.noUplink && !c.plain && c.less < 3
}

// combinations are all.
func combinations() (all []combination) {
	underlays := map[string]netlab.SiteSpec{
		"all offloads":           {},
		"no tunnel segmentation": {Offload: netlab.NoTunnelSegmentation},
		"no offloads":            {Offload: netlab.NoOffloads},
		"IPv6":                   {V6: true},
		"IPv6, no offloads":      {V6: true, Offload: netlab.NoOffloads},
		"jumbo":                  {UnderlayMTU: 9000},
		"IPv6, jumbo":            {V6: true, UnderlayMTU: 9000},
	}
	everywhere := []way{
		{name: "all"},
		{name: "cut", noUplink: true},
		{name: "plain TAP", plain: true},
		{name: "UDP_SEGMENT refused", noUplink: true, refuse: true},
		{name: "GRO", gro: true, noUplink: true},
		{name: "engine to engine", both: true},
		{name: "engine to engine, cut, GRO", both: true, noUplink: true, gro: true},
	}
	somewhere := []way{
		{name: "TAP without USO", less: 1, both: true},
		{name: "TAP without TSO", less: 3, both: true},
		{name: "plain TAPs", plain: true, both: true, gro: true},
	}
	for _, underlay := range slices.Sorted(maps.Keys(underlays)) {
		ways := everywhere
		if underlay == "all offloads" || underlay == "IPv6" {
			ways = slices.Concat(ways, somewhere)
		}
		for _, w := range ways {
			all = append(all, combination{underlay + ", " + w.name, underlays[underlay], w})
		}
	}
	return all
}

// sites makes two, on an underlay with a switch in the middle if so wanted.
func (c combination) sites(t *testing.T, switched bool) (l *netlab.Lab, a, b *netlab.Site) {
	t.Helper()
	l = netlabtest.New(t)
	spec := c.spec
	if switched {
		spec.Count = 3
	}
	sites, err := l.Sites(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sites[:2] {
		if !c.gro {
			break
		}
		if err := s.Host.SetFeatures(netlab.UnderlayDev, true, "gro"); err != nil {
			t.Fatal(err)
		}
	}
	return l, sites[0], sites[1]
}

// join joins the sites' bridges by engines, or one and the kernel's vxlan, and
// returns the engines. refuse has an engine's segments refused.
func (c combination) join(t *testing.T, a, b *netlab.Site, refuse func(e *dataplane.Engine, peer netip.Addr)) (engines []*dataplane.Engine) {
	t.Helper()
	defer linux.TapGrants(c.less)()
	ends := []*netlab.Site{a, b}
	if !c.both {
		ends = ends[:1]
		if err := b.AddKernelVXLAN(100, 4789, a); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range ends {
		peer := []*netlab.Site{b, a}[i]
		n := siteNetwork(s, peer)
		n.Plain = c.plain
		e := overtapWith(t, s, linux.Options{Workers: 2, NoTunnelGSO: c.noUplink}, n)
		if c.refuse {
			refuse(e, peer.Underlay)
		}
		engines = append(engines, e)
	}
	return engines
}

// dropped is what an engine and the kernel before it dropped so far.
func dropped(e *dataplane.Engine) map[string]uint64 {
	s := e.Stats()
	all := make(map[string]uint64)
	for _, d := range s.Drops {
		all[d.Network+" "+d.Direction.String()+" "+d.Reason.String()] = d.Count
	}
	for _, p := range s.Wire {
		all["full receive buffers"] += p.SocketDropped
	}
	return all
}

// counted reports whether what the engine took was passed on, answered or dropped.
func counted(e *dataplane.Engine) bool {
	s := e.Stats()
	for _, n := range s.Networks {
		out, in := n.TxPackets+n.Suppressed, n.RxPackets
		for _, d := range s.Drops {
			if d.Network == n.Network && d.Direction == dataplane.Outbound {
				out += d.Count
			} else if d.Network == n.Network {
				in += d.Count
			}
		}
		if out != n.TxOffered || in != n.RxOffered {
			return false
		}
	}
	return true
}

// lossless wants nothing to be dropped meanwhile, by any engine and either way,
// and no stack to count a checksum that was wrong.
func lossless(t *testing.T, engines []*dataplane.Engine, a, b *netlab.Site, during func()) {
	t.Helper()
	var before []map[string]uint64 // what came in while TAPs were still down
	for _, e := range engines {
		// A frame that a TAP refused then may not be counted yet.
		eventually(t, "what was taken is counted", func() bool { return counted(e) })
		before = append(before, dropped(e))
	}
	during()
	for i, e := range engines {
		for what, n := range dropped(e) {
			if n -= before[i][what]; n > 0 {
				t.Errorf("engine %d dropped %d: %s", i, n, what)
			}
		}
	}
	if n := checksumErrors(t, a.Container, b.Container, a.Host, b.Host); n != 0 {
		t.Errorf("%d checksum errors", n)
	}
}

// bulk sends checked TCP and UDP GSO packets both ways. UDP is sent in runs that
// the shortest queue on the way holds, so that all of it must arrive.
func bulk(t *testing.T, a, b *netlab.Site) { exchange(t, a, b, 8<<20) }

func exchange(t *testing.T, a, b *netlab.Site, tcpBytes int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	largest := int(a.MTU) - 48 // behind the headers of IPv6 and UDP
	for _, addr := range []func(*netlab.Site) netip.Addr{
		func(s *netlab.Site) netip.Addr { return s.IPv4 },
		func(s *netlab.Site) netip.Addr { return s.IPv6 },
	} {
		from := traffic.End{Host: a.Container, Addr: addr(a)}
		to := traffic.End{Host: b.Container, Addr: addr(b)}
		for range 2 {
			if r, err := traffic.TCP(ctx, from, to, traffic.TCPOptions{Bytes: tcpBytes, Checked: true}); err != nil || r.Bytes != tcpBytes {
				t.Errorf("TCP %s to %s: %v, %v", from.Addr, to.Addr, r, err)
			}
			for _, o := range []traffic.UDPOptions{
				{Count: 320, Size: 1200, Batch: 20},
				{Count: 320, Size: largest, Batch: min(32, 60000/largest)},
			} {
				o.Segment, o.Rate = true, 6400
				// A machine that is busy with other things may overflow a queue before
				// or behind the engine: that is tried again, damage is not.
				var r traffic.UDPResult
				var err error
				for try := 0; try < 3; try++ {
					r, err = traffic.UDP(ctx, from, to, o)
					if err != nil || r.Received == o.Count || r.Corrupted+r.Duplicated != 0 {
						break
					}
				}
				if err != nil || r.Received != o.Count || r.Corrupted+r.Duplicated != 0 {
					t.Errorf("UDP GSO packets %s to %s: %v, %v", from.Addr, to.Addr, r, err)
				}
			}
			from, to = to, from
		}
	}
}

// TestBulkKeepsItsBytes sends bulk in every combination of offloads: of the
// underlay, of the TAP, of the sockets, by the uplink and without, to the kernel
// and to another engine. No stack may count a checksum that was wrong, nothing
// may be dropped.
func TestBulkKeepsItsBytes(t *testing.T) {
	for _, c := range combinations() {
		t.Run(c.name, func(t *testing.T) {
			_, a, b := c.sites(t, false)
			engines := c.join(t, a, b, func(e *dataplane.Engine, _ netip.Addr) {
				if err := e.Kernel().RefuseRuns(true); err != nil {
					t.Fatal(err)
				}
			})
			lossless(t, engines, a, b, func() { bulk(t, a, b) })
			for i, e := range engines {
				if up := e.Info().Uplink; (up.Sent > 0) != c.unsegmented() {
					t.Errorf("engine %d: uplink %+v", i, up)
				}
			}
		})
	}
}
