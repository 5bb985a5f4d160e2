package interop

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// spread sends numbered frames to each of bum, and wants each of them exactly
// once at each of the other sites, and none back.
func spread(t *testing.T, sites []*netlab.Site, ears map[*netlab.Site]*raw, from *netlab.Site) {
	t.Helper()
	const count = 10
	var frames [][]byte
	for _, dst := range bum {
		for i := range count {
			frames = append(frames, ethernet(dst, from.MAC, nil, etherTest, marked(100, "%d from %s", i, from.Host.Name())))
		}
	}
	ears[from].send(frames...)
	for _, to := range sites {
		want := 1
		if to == from {
			want = 0
		}
		copies := map[string]int{}
		ears[to].arrivals(want*len(frames), func(s seen) bool {
			if s.src() != from.MAC || s.etherType() != etherTest {
				return false
			}
			copies[string(s.data)]++
			return true
		})
		for i, f := range frames {
			if got := copies[string(f)]; got != want {
				t.Errorf("from %s: frame %d to %v came to %s %d times, want %d",
					from.Host.Name(), i%count, bum[i/count], to.Host.Name(), got, want)
			}
			delete(copies, string(f))
		}
		if len(copies) > 0 {
			t.Errorf("from %s: %d altered frames at %s", from.Host.Name(), len(copies), to.Host.Name())
		}
	}
}

// listen opens a packet socket in every site's container.
func listen(t *testing.T, sites []*netlab.Site) map[*netlab.Site]*raw {
	t.Helper()
	ears := map[*netlab.Site]*raw{}
	for _, s := range sites {
		ears[s] = openRaw(t, s.Container, netlab.ContainerDev)
	}
	return ears
}

// bum are destinations that go to everybody: a broadcast, IPv4 and IPv6
// multicast, and an unused unicast address.
var bum = []encap.MAC{encap.BroadcastMAC, 0x0100_5e01_0203, 0x3333_0001_0203, 0x0242_dead_beef}

// Of four hosts two end the tunnel by the kernel and two by overtap: what goes
// to everybody reaches the three others once each and does not come back.
func TestHeadEndReplication(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 4, V6: v6}))
			for i, p := range []peer{overtap, kernel, kernel, overtap} {
				p.end(t, sites[i], blue(sites[i], sites...), sites)
			}
			ears := listen(t, sites)
			for _, from := range sites {
				spread(t, sites, ears, from)
			}
		})
	}
}

// A multicast group of the underlay stands in for the flood list. One daemon
// lists its peers, who get no copies beside the group's; to all others no peer's
// address is configured.
func TestMulticastGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		group  string
		v6     bool
		device string
	}{
		{group: "239.1.1.1"},
		{group: "239.1.1.1", device: netlab.UnderlayDev},
		{group: "ff05::100", v6: true},
	} {
		t.Run(c.group+c.device, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 4, V6: c.v6}))
			group := netip.MustParseAddr(c.group)
			conf := func(s *netlab.Site, n network) config {
				conf := at(s, n.with(fmt.Sprintf("group = %q", c.group)))
				conf.device = c.device
				return conf
			}
			for _, s := range []*netlab.Site{sites[1], sites[2]} {
				check(t, s.Host.AddVXLAN(netlab.VXLANSpec{
					Name: netlab.SiteVXLAN, VNI: 100, Port: 4789, Local: s.Underlay, Remote: group,
					Dev: netlab.UnderlayDev, Bridge: netlab.SiteBridge, MTU: int(s.MTU),
				}))
			}
			a := sites[0]
			d := start(t, a.Host, conf(a, blue(a, sites...)))
			start(t, sites[3].Host, conf(sites[3], blue(sites[3]).with(`admit = "any"`)))

			ears := listen(t, sites)
			for _, from := range sites {
				spread(t, sites, ears, from)
			}
			for _, b := range sites[1:] {
				for _, f := range flows(a, b) {
					f.pings(t)
					f.tcp(t, 1<<20)
				}
				// Learned, so that what is known goes to its host alone.
				if e, ok := d.entry("blue", b.MAC); !ok || e.Peer != b.Underlay {
					t.Errorf("entry of %s: %+v, want peer %s", b.MAC, e, b.Underlay)
				}
			}
			if i := slices.IndexFunc(d.stats().Peers, func(p dataplane.PeerStats) bool { return p.Peer == group }); i >= 0 {
				t.Errorf("the group is a peer: %+v", d.stats().Peers[i])
			}
		})
	}
}
