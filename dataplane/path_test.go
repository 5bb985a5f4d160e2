package dataplane_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// wantFrames fails the test unless the TAP was written exactly the frames.
func wantFrames(tb testing.TB, tap *netiotest.TAP, want ...netiotest.Frame) {
	tb.Helper()
	got := tap.Wait(len(want))
	for i, f := range got {
		if i >= len(want) || !bytes.Equal(f.Data, want[i].Data) {
			tb.Errorf("TAP %s: frame %d of %d is %x", tap.Spec.Name, i, len(got), f.Data)
		}
	}
}

// silent fails the test when the TAP is written anything for a while.
func silent(tb testing.TB, taps ...*netiotest.TAP) {
	tb.Helper()
	time.Sleep(20 * time.Millisecond)
	for _, tap := range taps {
		if w := tap.Written(); len(w) > 0 {
			tb.Errorf("TAP %s was written %d frames: %x", tap.Spec.Name, len(w), w[0].Data)
		}
	}
}

func TestFloodThenUnicast(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	hosts := []netip.Addr{addrA, addrB, addrC}
	a := newHost(t, u, addrA, testNetwork(addrA, hosts...))
	b := newHost(t, u, addrB, testNetwork(addrB, hosts...))
	c := newHost(t, u, addrC, testNetwork(addrC, hosts...))
	tapA, tapB, tapC := a.TAP("vx0"), b.TAP("vx0"), c.TAP("vx0")

	// Unknown: everyone gets it, once, and learns who spoke.
	tapA.Inject(hello)
	wantFrames(t, tapB, hello)
	wantFrames(t, tapC, hello)
	b.knows(macA, addrA)
	c.knows(macA, addrA)
	// The answer goes to the one host. No host sends on what it received.
	tapB.Inject(helloBack)
	wantFrames(t, tapA, helloBack)
	a.knows(macB, addrB)
	tapA.Inject(hello)
	wantFrames(t, tapB, hello)
	for _, dst := range []encap.MAC{encap.BroadcastMAC, groupMAC} {
		f := plainFrame(dst, macA, "to all")
		tapA.Inject(f)
		wantFrames(t, tapB, f)
		wantFrames(t, tapC, f)
	}
	silent(t, tapA, tapB, tapC)

	eventually(t, "all is counted", func() bool { return a.blue().TxPackets == 7 && b.blue().RxPackets == 4 })
	a.settle()
	if n := a.blue(); n.Flooded != 3 || n.RxPackets != 1 || n.EntriesLearned != 1 || n.RxBytes != uint64(len(hello.Data)) {
		t.Errorf("counters %+v", n)
	}
	for _, p := range a.Stats().Peers {
		want := dataplane.Traffic{TxPackets: 3, TxBytes: a.blue().TxBytes - 4*uint64(len(hello.Data))}
		if p.Peer == addrB {
			want.TxPackets, want.RxPackets, want.RxBytes = 4, 1, uint64(len(hello.Data))
			want.TxBytes = uint64(2*len(hello.Data) + 2*len(plainFrame(0, 0, "to all").Data))
		} else {
			want.TxBytes = uint64(len(hello.Data) + 2*len(plainFrame(0, 0, "to all").Data))
		}
		if p.Traffic != want || !p.Flood || p.Learned {
			t.Errorf("peer %+v, want %+v", p, want)
		}
	}
	a.wantDrops()
	b.wantDrops()
}

// TestMoves wants a container that moves to be found at its new place by the
// very next frame, in all directions of the move.
func TestMoves(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	hosts := []netip.Addr{addrA, addrB, addrC}
	a := newHost(t, u, addrA, testNetwork(addrA, hosts...))
	b := newHost(t, u, addrB, testNetwork(addrB, hosts...))
	c := newHost(t, u, addrC, testNetwork(addrC, hosts...))
	tapA, tapB, tapC := a.TAP("vx0"), b.TAP("vx0"), c.TAP("vx0")

	announce := plainFrame(encap.BroadcastMAC, macB, "here")
	tapB.Inject(announce)
	wantFrames(t, tapA, announce)
	wantFrames(t, tapC, announce)
	a.knows(macB, addrB)
	c.knows(macB, addrB)

	// From B to C: A learns, and C itself forgets B.
	tapC.Inject(announce)
	wantFrames(t, tapA, announce)
	wantFrames(t, tapB, announce)
	a.knows(macB, addrC)
	tapA.Inject(hello)
	wantFrames(t, tapC, hello)
	if n := a.blue(); n.LearnMoved != 1 || n.EntriesLearned != 1 {
		t.Errorf("counters %+v", n)
	}
	entries, err := c.FDB("blue")
	if err != nil || slices.ContainsFunc(entries, func(e dataplane.FDBEntry) bool { return e.MAC == macB }) {
		t.Errorf("the host it moved to has %+v, %v", entries, err)
	}

	// From C to A, by a frame to one host only: what A knew is gone.
	toC := plainFrame(macC, macB, "moved")
	tapA.Inject(toC) // macC is unknown: flooded
	wantFrames(t, tapB, toC)
	wantFrames(t, tapC, toC)
	c.knows(macB, addrA)
	silent(t, tapA, tapB, tapC)
}

func TestStaticEntries(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB, addrC)
	n.FDB = []dataplane.StaticEntry{
		{MAC: macB, Peer: addrB}, {MAC: groupMAC, Peer: addrC},
	}
	a := newHost(t, u, addrA, n)
	b := newHost(t, u, addrB, testNetwork(addrB, addrA))
	c := newHost(t, u, addrC, testNetwork(addrC, addrA))
	tapA, tapB, tapC := a.TAP("vx0"), b.TAP("vx0"), c.TAP("vx0")

	tapA.Inject(hello)
	wantFrames(t, tapB, hello)
	toGroup := plainFrame(groupMAC, macA, "to the group")
	tapA.Inject(toGroup)
	wantFrames(t, tapC, toGroup)
	silent(t, tapB, tapC)

	tapB.Inject(helloBack) // from its own peer
	wantFrames(t, tapA, helloBack)
	tapC.Inject(helloBack) // from another
	a.wantDrops(dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropVXLANEntryExists, Count: 1})
	// Not even the container's own appearance here displaces it.
	tapA.Inject(plainFrame(macC, macB, "here"))
	tapB.Wait(1)
	entries, err := a.FDB("")
	if err != nil || len(entries) != 2 || entries[0].MAC != groupMAC || entries[1].Peer != addrB || entries[1].Origin != "static" {
		t.Errorf("table %+v, %v", entries, err)
	}
	if n, err := a.Flush(dataplane.Match{}); n != 0 || err != nil {
		t.Errorf("flushed %d, %v", n, err)
	}
}

func TestLearningOff(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	n.Learning = false
	n.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: addrC}}
	a := newHost(t, u, addrA, n)
	newHost(t, u, addrB, testNetwork(addrB, addrA)).TAP("vx0").Inject(helloBack)
	wantFrames(t, a.TAP("vx0"), helloBack)
	eventually(t, "it is counted", func() bool { return a.blue().RxPackets == 1 })
	if n := a.blue(); n.EntriesLearned != 0 || n.Entries != 1 {
		t.Errorf("counters %+v", n)
	}
}

func TestLearnBound(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	n.MaxEntries = 10
	a := newHost(t, u, addrA, n)
	for i := range 15 {
		a.from(u, addrB, plainFrame(macA, macB+encap.MAC(i), "hello").Data)
	}
	a.TAP("vx0").Wait(15) // at the bound frames are delivered all the same
	eventually(t, "all is counted", func() bool { return a.blue().RxPackets == 15 })
	if n := a.blue(); n.EntriesLearned != 10 || n.LearnRefused != 5 || n.EntriesMax != 10 {
		t.Errorf("counters %+v", n)
	}
}

func TestAgeing(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	n.Ageing = time.Second
	n.Admit.Any = true
	a := newHost(t, u, addrA, n)
	a.from(u, unlisted, helloBack.Data)
	a.knows(macB, unlisted)
	eventually(t, "entry and peer age out", func() bool {
		return a.blue().EntriesLearned == 0 && len(a.Stats().Peers) == 1
	})
	a.TAP("vx0").Inject(hello) // flooded again, to the listed peer
	eventually(t, "it is flooded", func() bool { return a.blue().Flooded == 1 })
}

func TestAdmission(t *testing.T) {
	inside, outside := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.9")
	for name, c := range map[string]struct {
		admit   dataplane.Admit
		in, out bool
	}{
		"peers":  {dataplane.Admit{}, false, false},
		"any":    {dataplane.Admit{Any: true}, true, true},
		"prefix": {dataplane.Admit{Prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := netiotest.NewUnderlay(t)
			n := testNetwork(addrA, addrB)
			n.Admit = c.admit
			a := newHost(t, u, addrA, n)
			u.Backend(inside) // without a listener
			want := 1
			a.from(u, addrB, plainFrame(macA, macB, "peer").Data)
			for from, ok := range map[netip.Addr]bool{inside: c.in, outside: c.out} {
				a.from(u, from, plainFrame(macA, macC+encap.MAC(from.As4()[0]), "hello").Data)
				if ok {
					want++
				}
			}
			a.TAP("vx0").Wait(want)
			eventually(t, "all is counted", func() bool { return a.blue().RxPackets == uint64(want) })
			drops := []dataplane.DropStats{{
				Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropPeerNotAdmitted, Count: uint64(3 - want),
			}}
			if want == 3 {
				drops = nil
			}
			a.wantDrops(drops...)
			// An admitted unlisted sender is answered but not flooded to.
			for _, p := range a.Stats().Peers {
				if p.Learned == (p.Peer == addrB) || p.Flood == p.Learned {
					t.Errorf("peer %+v", p)
				}
			}
		})
	}
}

func TestTagsPass(t *testing.T) {
	_, a, b := newPair(t)
	one := tagged(hello, 5)
	two := tagged(one, 7)
	a.TAP("vx0").Inject(one, two)
	wantFrames(t, b.TAP("vx0"), one, two)
	// The tag's bytes are not the MTU's.
	long := tagged(plainFrame(macB, macA, string(pattern(int(testMTU)))), 5)
	a.TAP("vx0").Inject(long)
	wantFrames(t, b.TAP("vx0"), long)
	a.wantDrops()
	b.wantDrops()
}

// TestNetworksAreIsolated runs two VNIs on one port and a third network with
// the first one's VNI on another port.
func TestNetworksAreIsolated(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	at := func(addr, peer netip.Addr) *host {
		blue := testNetwork(addr, peer)
		red := renamed(blue, "red", "vx1", testVNI+1)
		old := renamed(blue, "old", "vx2", testVNI)
		old.Port = 8472
		return newHost(t, u, addr, blue, red, old)
	}
	a, b := at(addrA, addrB), at(addrB, addrA)
	for i, name := range []string{"vx0", "vx1", "vx2"} {
		f := plainFrame(macB, macA+encap.MAC(i)<<8, name)
		a.TAP(name).Inject(f)
		wantFrames(t, b.TAP(name), f)
	}
	silent(t, a.TAP("vx0"), a.TAP("vx1"), a.TAP("vx2"), b.TAP("vx0"), b.TAP("vx1"), b.TAP("vx2"))
	for i, network := range []string{"blue", "red", "old"} {
		entries, err := b.FDB(network)
		if err != nil || len(entries) != 1 || entries[0].MAC != macA+encap.MAC(i)<<8 || entries[0].Network != network {
			t.Errorf("%s: %+v, %v", network, entries, err)
		}
	}
	// Frames of several networks in one batch go each to its own TAP.
	for range 10 {
		a.datagram(u, netio.Datagram{From: addrB, Data: vxlan(testVNI, helloBack.Data)})
		a.datagram(u, netio.Datagram{From: addrB, Data: vxlan(testVNI+1, helloBack.Data)})
	}
	if n := len(a.TAP("vx0").Wait(10)) + len(a.TAP("vx1").Wait(10)); n != 20 {
		t.Errorf("%d frames, want 20", n)
	}
}

func TestGroup(t *testing.T) {
	group := netip.MustParseAddr("239.1.1.1")
	u := netiotest.NewUnderlay(t)
	at := func(addr netip.Addr) *host {
		n := testNetwork(addr)
		n.Group = group
		n.Admit.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		return newHost(t, u, addr, n)
	}
	a, b, c := at(addrA), at(addrB), at(addrC)
	a.Record()
	a.TAP("vx0").Inject(hello)
	wantFrames(t, b.TAP("vx0"), hello)
	wantFrames(t, c.TAP("vx0"), hello)
	silent(t, a.TAP("vx0"), b.TAP("vx0"), c.TAP("vx0"))
	if sent := a.Sent(); len(sent) != 1 || sent[0].To != netip.AddrPortFrom(group, testPort) {
		t.Errorf("sent %+v", sent)
	}
	b.TAP("vx0").Inject(helloBack) // learned: straight back
	wantFrames(t, a.TAP("vx0"), helloBack)
	silent(t, c.TAP("vx0"))
	if n := a.blue(); n.TxPackets != 1 || n.Flooded != 1 {
		t.Errorf("counters %+v", n)
	}
}

// TestNetworksShareAGroup: many VNIs on one group is how groups are used.
func TestNetworksShareAGroup(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	at := func(addr netip.Addr) (*host, dataplane.Network) {
		blue := testNetwork(addr)
		blue.Group = netip.MustParseAddr("239.1.1.1")
		blue.Admit.Any = true
		red := renamed(blue, "red", "vx1", testVNI+1)
		return newHost(t, u, addr, blue, red), red
	}
	a, _ := at(addrA)
	b, red := at(addrB)
	for _, tap := range []string{"vx0", "vx1"} {
		a.TAP(tap).Inject(hello)
		wantFrames(t, b.TAP(tap), hello)
	}
	silent(t, b.TAP("vx0"), b.TAP("vx1"))
	b.wantDrops()
	b.apply(red) // without the first one the second goes on
	a.TAP("vx1").Inject(hello)
	wantFrames(t, b.TAP("vx1"), hello)
}

// TestIPv6Underlay is the flood and the answer over IPv6.
func TestIPv6Underlay(t *testing.T) {
	a6, b6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, a6, testNetwork(a6, b6))
	b := newHost(t, u, b6, testNetwork(b6, a6))
	a.TAP("vx0").Inject(hello)
	wantFrames(t, b.TAP("vx0"), hello)
	b.knows(macA, a6)
	b.TAP("vx0").Inject(helloBack)
	wantFrames(t, a.TAP("vx0"), helloBack)
}
