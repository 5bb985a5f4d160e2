package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// flapWindow is short enough to wait for the thaw, and long enough for a busy
// machine to make all the moves in it.
const flapWindow = `move_window = "10s"`

// A station whose MAC is now behind one kernel peer, now behind another, stays
// where it was after the fourth move: it is counted, shown, logged once, and its
// frames arrive all the same. When it rests it may move again.
func TestFlappingIsFrozen(t *testing.T) {
	t.Parallel()
	const station encap.MAC = 0x0242_0000_0077
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	a, b, c := sites[0], sites[1], sites[2]
	for _, s := range sites[1:] {
		kernel.end(t, s, blue(s, sites...), sites)
	}
	d := start(t, a.Host, at(a, blue(a, sites...).with(flapWindow)))
	ears := listen(t, sites)
	changes := monitor(t, d, station)
	reaches(t, a.Container, b.IPv4)
	n := 0
	speak := func(from *netlab.Site) {
		t.Helper()
		n++
		frame := ethernet(a.MAC, station, nil, etherTest, marked(60, "%d", n))
		ears[from].send(frame)
		if got := ears[a].arrivals(1, same(frame)); len(got) != 1 {
			t.Errorf("from %s: %d frames arrived, want 1", from.Host.Name(), len(got))
		}
	}
	for range 5 {
		speak(b)
		speak(c)
	}
	changes("learn", "move", "move", "move", "move", "freeze")
	e, ok := d.entry("blue", station)
	if !ok || !e.Frozen || e.Peer != b.Underlay {
		t.Errorf("its entry: %+v, want it frozen behind %v", e, b.Underlay)
	}
	if !strings.Contains(d.verb("fdb", "show"), "frozen") {
		t.Errorf("fdb show does not mark it:\n%s", d.verb("fdb", "show"))
	}
	// Nine moves were tried: four made, one refused and frozen, and of the rest
	// those away from b.
	if s := d.stats().Networks[0]; s.Frozen != 1 || s.LearnMoved != 4 || s.LearnFrozen != 3 {
		t.Errorf("%+v", s)
	}
	warns := func() bool {
		return slices.ContainsFunc(d.status().Warnings, func(w string) bool { return strings.Contains(w, "1 MACs moved too often") })
	}
	if !warns() {
		t.Errorf("status does not warn: %q", d.status().Warnings)
	}
	for _, f := range append(flows(a, b), flows(a, c)...) {
		f.pings(t)
		f.tcp(t, 1<<20)
	}

	changes("thaw")
	speak(c)
	changes("move")
	if e, _ := d.entry("blue", station); e.Frozen || e.Peer != c.Underlay {
		t.Errorf("its entry after the thaw: %+v, want it behind %v", e, c.Underlay)
	}
	if warns() {
		t.Errorf("status warns still: %q", d.status().Warnings)
	}
	if got := strings.Count(d.log.String(), "MACs move too often"); got != 1 {
		t.Errorf("the log has it %d times, want once:\n%s", got, d.log)
	}
}

// A kernel peer that speaks in the name of a container of this host has the bridge
// look for it there, as any bridge does, but only until the container speaks: the
// MAC goes home, and after some such moves it stays there. Where peers are pinned
// nothing comes of it.
func TestSpoofedLocalMAC(t *testing.T) {
	t.Parallel()
	for _, pinned := range []bool{false, true} {
		t.Run(fmt.Sprintf("pinned=%t", pinned), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
			a, b, c := sites[0], sites[1], sites[2]
			for _, s := range sites[1:] {
				kernel.end(t, s, blue(s, sites...), sites)
			}
			second := must[*netlab.Host](t)(a.Host.AddContainer(netlab.ContainerSpec{
				Name: "a2", Bridge: netlab.SiteBridge, MTU: int(a.MTU), MAC: 0x0242_0000_0067, Addrs: []netip.Prefix{prefix("198.51.100.202/24")},
			}))
			conf := at(a, blue(a, b).with(flapWindow))
			conf.last = fmt.Sprintf("[[vxlan.peer]]\naddress = %q\n", c.Underlay)
			if pinned {
				conf.last += fmt.Sprintf("macs = [%q]\n", c.MAC)
			}
			d := start(t, a.Host, conf)
			mouth, ear := openRaw(t, c.Container, netlab.ContainerDev), openRaw(t, second, netlab.ContainerDev)
			reaches(t, b.Container, a.IPv4)
			pings := func(from *netlab.Host, to netip.Addr) {
				t.Helper()
				if r := must[netlab.PingResult](t)(netlab.Ping(from, to, netlab.PingOptions{Timeout: patience})); r.Received != 1 {
					t.Errorf("%s does not reach %v: %v", from.Name(), to, r)
				}
			}
			const count = 10
			for i := range count {
				spoofed := ethernet(encap.BroadcastMAC, a.MAC, nil, etherTest, marked(60, "spoofed %d", i))
				mouth.send(spoofed)
				want := 1
				if pinned {
					want = 0
				}
				if got := ear.arrivals(want, same(spoofed)); len(got) != want {
					t.Errorf("%d came of spoofed frame %d, want %d", len(got), i, want)
				}
				if pinned {
					notBehindTAP(t, a, a.MAC)
					pings(second, a.IPv4)
				}
				pings(a.Container, b.IPv4) // b's kernel took the bait
				pings(b.Container, a.IPv4)
				pings(second, a.IPv4)
			}
			s := d.stats().Networks[0]
			if got := d.drops("blue", dataplane.Inbound, dataplane.DropMACNotAdmitted); pinned && (got < count || s.Frozen != 0) {
				t.Errorf("%d dropped as mac_not_admitted, want %d at least; %+v", got, count, s)
			}
			if !pinned && (s.Frozen != 1 || s.LearnFrozen == 0) {
				t.Errorf("%+v", s)
			}
			if e, ok := d.entry("blue", a.MAC); ok {
				t.Errorf("the container of this host is behind a peer: %+v", e)
			}
			for _, f := range flows(a, b) {
				f.pings(t)
				f.tcp(t, 1<<20)
			}
		})
	}
}

// A kernel peer that speaks in the name of a container behind a pinned one is not
// listened to.
func TestSpoofedPinnedMAC(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	a, b, c := sites[0], sites[1], sites[2]
	for _, s := range sites[1:] {
		kernel.end(t, s, blue(s, sites...), sites)
	}
	conf := at(a, blue(a, c))
	conf.last = fmt.Sprintf("[[vxlan.peer]]\naddress = %q\nmacs = [%q]\n", b.Underlay, b.MAC)
	d := start(t, a.Host, conf)
	ears := listen(t, sites)
	reaches(t, a.Container, b.IPv4)
	reaches(t, a.Container, c.IPv4)
	const count = 20
	for i := range count {
		ears[c].send(ethernet(a.MAC, b.MAC, nil, etherTest, marked(60, "%d", i)))
	}
	eventually(t, "each is counted", func() error {
		if got := d.drops("blue", dataplane.Inbound, dataplane.DropVXLANEntryExists); got != count {
			return fmt.Errorf("%d as vxlan_entry_exists, want %d", got, count)
		}
		return nil
	})
	if got := ears[a].arrivals(0, func(s seen) bool { return s.etherType() == etherTest }); len(got) > 0 {
		t.Errorf("%d arrived", len(got))
	}
	if e, _ := d.entry("blue", b.MAC); e.Origin != "static" || e.Peer != b.Underlay {
		t.Errorf("the entry: %+v", e)
	}
	for _, f := range flows(a, b) {
		f.pings(t)
		f.tcp(t, 1<<20)
	}
}

// Two overtap hosts, whose bridges are joined by a second way: what is flooded
// goes round as often as the storm bounds let it, the daemons are not kept busy,
// and say what they see. When the second way is cut all is as before.
func TestLoopBetweenHosts(t *testing.T) {
	t.Parallel()
	const bound = 100
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	var daemons []*daemon
	for _, s := range sites {
		daemons = append(daemons, start(t, s.Host, at(s, blue(s, sites...).with(append([]string{flapWindow}, stormy...)...))))
	}
	for _, f := range flows(a, b) {
		f.pings(t)
	}
	mouth := openRaw(t, a.Container, netlab.ContainerDev)
	check(t, netlab.AddVeth(a.Host, "loop0", b.Host, "loop0", int(a.MTU)))
	for _, s := range sites {
		check(t, s.Host.SetMaster("loop0", netlab.SiteBridge))
	}
	mouth.send(ethernet(encap.BroadcastMAC, a.MAC, nil, etherTest, marked(60, "round and round")))
	for _, d := range daemons {
		eventually(t, "it is bounded, and said", func() error {
			// One frame goes round until a bound ends it, on one host: some more, from
			// an unused MAC.
			mouth.send(ethernet(encap.BroadcastMAC, 0x0242_0000_0099, nil, etherTest, marked(60, "round and round")))
			if d.drops("blue", dataplane.Outbound, dataplane.DropStormBroadcast)+d.drops("blue", dataplane.Inbound, dataplane.DropStormBroadcast) == 0 {
				return fmt.Errorf("nothing is dropped: %+v", d.dropped())
			}
			if d.stats().Networks[0].Frozen == 0 || len(d.status().Warnings) == 0 {
				return fmt.Errorf("nothing is frozen: %+v", d.stats().Networks[0])
			}
			if !strings.Contains(d.log.String(), "a loop") {
				return errors.New("the log says nothing")
			}
			return nil
		})
	}
	// Of the three kinds each has a bucket, which is empty by now.
	start, before := time.Now(), daemons[0].stats().Networks[0].TxPackets
	time.Sleep(2 * time.Second)
	after := daemons[0].stats().Networks[0].TxPackets
	took := time.Since(start).Seconds()
	if sent := after - before; float64(sent) > 3*bound*(took+1) {
		t.Errorf("%d frames left in %.1f s, each kind bounded to %d a second", sent, took, bound)
	}

	check(t, a.Host.DeleteLink("loop0"))
	// The kernel's bridges have learned from the loop too. They know better with the
	// next frame of a container: of one that says nothing, when its neighbour asks for
	// it, after up to 45 seconds if it was heard just now (base_reachable_time).
	_ = a.Container.DeleteNeighbor(netlab.ContainerDev, b.IPv4) // there may be none
	_ = b.Container.DeleteNeighbor(netlab.ContainerDev, a.IPv4)
	reaches(t, a.Container, b.IPv4)
	reaches(t, b.Container, a.IPv4)
	for _, d := range daemons {
		quiet(t, d)
		eventually(t, "the MACs thaw", func() error {
			if s := d.stats().Networks[0]; s.Frozen > 0 {
				return fmt.Errorf("%d are frozen", s.Frozen)
			}
			return nil
		})
	}
	exchange(t, a, b, 1<<20)
}
