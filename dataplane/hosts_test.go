package dataplane_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// Addresses of the hosts on the underlay.
var (
	addrA    = netip.MustParseAddr("192.0.2.1")
	addrB    = netip.MustParseAddr("192.0.2.2")
	addrC    = netip.MustParseAddr("192.0.2.3")
	unlisted = netip.MustParseAddr("203.0.113.9")
)

const (
	testVNI  encap.VNI        = 100
	testPort                  = 4789
	testMTU  encap.OverlayMTU = 1450
)

// testNetwork is network "blue" at a host of the address, on TAP "vx0", which
// floods to the peers.
func testNetwork(at netip.Addr, peers ...netip.Addr) dataplane.Network {
	n := dataplane.Network{
		Name: "blue", VNI: testVNI, Port: testPort, Device: "vx0",
		MAC: tapMAC(at), MTU: testMTU,
		Learning: true, Ageing: 300 * time.Second, MaxEntries: 1024,
		TTL: 64, TOS: dataplane.TOS{Inherit: true}, DF: true,
	}
	for _, p := range peers {
		if p != at {
			n.Peers = append(n.Peers, dataplane.Peer{Address: p, Flood: true})
		}
	}
	return n
}

// tapMAC is the MAC of the TAP at a host.
func tapMAC(at netip.Addr) encap.MAC {
	b := at.AsSlice()
	return 0x0242_c000_0000 + encap.MAC(b[len(b)-1])
}

// renamed is another network beside n: its own name, TAP and VNI.
func renamed(n dataplane.Network, name, device string, vni encap.VNI) dataplane.Network {
	n.Name, n.Device, n.VNI = name, device, vni
	return n
}

// host is an engine with its edges on an underlay in memory.
type host struct {
	*dataplane.Engine
	*netiotest.Backend
	tb   testing.TB
	addr netip.Addr
}

// Close closes the engine, and with it the backend.
func (h *host) Close() error { return h.Engine.Close() }

// bareHost is an engine without networks. It is closed with the test.
func bareHost(tb testing.TB, u *netiotest.Underlay, addr netip.Addr, workers int) *host {
	tb.Helper()
	edges := u.Backend(addr)
	e, err := dataplane.New(dataplane.Options{Underlay: addr, Workers: workers, Backend: edges})
	if err != nil {
		tb.Fatal(err)
	}
	h := &host{Engine: e, Backend: edges, tb: tb, addr: addr}
	tb.Cleanup(func() {
		conserves(tb, h.Engine)
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// newHost is an engine with the networks.
func newHost(tb testing.TB, u *netiotest.Underlay, addr netip.Addr, nets ...dataplane.Network) *host {
	tb.Helper()
	h := bareHost(tb, u, addr, 1)
	h.apply(nets...)
	return h
}

// apply makes the networks be nets.
func (h *host) apply(nets ...dataplane.Network) dataplane.Diff {
	h.tb.Helper()
	diff, err := h.Apply(dataplane.Desired{Networks: nets})
	if err != nil {
		h.tb.Fatal(err)
	}
	return diff
}

// newPair is two hosts, each with testNetwork and the other as its peer.
func newPair(tb testing.TB) (u *netiotest.Underlay, a, b *host) {
	tb.Helper()
	u = netiotest.NewUnderlay(tb)
	a = newHost(tb, u, addrA, testNetwork(addrA, addrB))
	b = newHost(tb, u, addrB, testNetwork(addrB, addrA))
	return u, a, b
}

// from delivers the frame in a VXLAN packet of testVNI to the host.
func (h *host) from(u *netiotest.Underlay, sender netip.Addr, frame []byte) {
	h.tb.Helper()
	h.datagram(u, netio.Datagram{From: sender, Data: vxlan(testVNI, frame)})
}

func (h *host) datagram(u *netiotest.Underlay, d netio.Datagram) {
	h.tb.Helper()
	u.Deliver(netip.AddrPortFrom(h.addr, testPort), d)
}

// vxlan puts a VXLAN header before the frame.
func vxlan(vni encap.VNI, frame []byte) []byte {
	b := make([]byte, encap.VXLANHeaderLen, encap.VXLANHeaderLen+len(frame))
	encap.PutVXLAN(b, vni)
	return append(b, frame...)
}

// eventually fails the test when ok does not become true.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("it did not come to this: %s", what)
		}
	}
}

// blue returns the counters of network "blue".
func (h *host) blue() dataplane.NetworkStats {
	h.tb.Helper()
	for _, n := range h.Stats().Networks {
		if n.Network == "blue" {
			return n
		}
	}
	h.tb.Fatal(`there is no network "blue"`)
	return dataplane.NetworkStats{}
}

// drops returns every drop of the host, in the order of the JSON.
// drops are the host's, without whose the last was and when.
func (h *host) drops() []dataplane.DropStats {
	all := h.Stats().Drops
	for i := range all {
		all[i] = count(all[i])
	}
	return all
}

// count is what of a drop's record is a count.
func count(d dataplane.DropStats) dataplane.DropStats {
	d.LastPeer, d.Last = netip.Addr{}, time.Time{}
	return d
}

// wantDrops waits until the host's drops are exactly want.
func (h *host) wantDrops(want ...dataplane.DropStats) {
	h.tb.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !slices.Equal(h.drops(), want) {
		if time.Now().After(deadline) {
			h.tb.Fatalf("drops %+v, want %+v", h.drops(), want)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// counted is how many frames were counted one way, as passed or as dropped.
func (h *host) counted(d dataplane.Direction) (n uint64) {
	h.tb.Helper()
	s := h.Stats()
	for _, drop := range s.Drops {
		if drop.Direction == d {
			n += drop.Count
		}
	}
	for _, net := range s.Networks {
		if d == dataplane.Outbound {
			n += net.TxPackets
		} else {
			n += net.RxPackets
		}
	}
	return n
}

// knows fails the test unless the MAC is behind the peer in the host's table
// when all that came in was dealt with. It does not look before: while control
// walks the table the path cannot learn.
func (h *host) knows(m encap.MAC, peer netip.Addr) {
	h.tb.Helper()
	h.settle()
	entries, err := h.FDB("")
	if err != nil {
		h.tb.Fatal(err)
	}
	if !slices.ContainsFunc(entries, func(e dataplane.FDBEntry) bool { return e.MAC == m && e.Peer == peer }) {
		h.tb.Fatalf("%s is not behind %s: %+v", m, peer, entries)
	}
}

// settle waits until all that came in is counted, and all that was counted for a
// network for its peers too. No peer may have been removed before.
func (h *host) settle() {
	h.tb.Helper()
	eventually(h.tb, "all that came in is counted", func() bool {
		if h.counted(dataplane.Inbound) != uint64(h.Received()) {
			return false
		}
		var networks, peers dataplane.Traffic
		s := h.Stats()
		for _, n := range s.Networks {
			networks.TxBytes += n.TxBytes
			networks.RxBytes += n.RxBytes
		}
		for _, p := range s.Peers {
			peers.TxBytes += p.TxBytes
			peers.RxBytes += p.RxBytes
		}
		return networks == peers
	})
}
