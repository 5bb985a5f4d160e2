package dataplane_test

import (
	"net/netip"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// ingress sets what is no peer's.
func (h *host) ingress(i dataplane.Ingress) {
	h.tb.Helper()
	if err := h.SetIngress(i); err != nil {
		h.tb.Fatal(err)
	}
}

// TestIngress takes datagrams in that differ by their device and sender alone: what
// came out of an overlay is dropped before its sender becomes a peer, and nothing is
// learned of it, whatever was found of the datagram before.
func TestIngress(t *testing.T) {
	n := testNetwork(addrA, addrB, addrC)
	n.Admit.Any = true
	r := newPaths(t, n)
	defer r.Close()
	prefix := netip.MustParsePrefix
	if err := r.Engine.SetIngress(dataplane.Ingress{
		Devices: []int{7, 9},
		Routes: []dataplane.IngressRoute{
			{Prefix: prefix("203.0.113.0/24"), Overlay: true},
			{Prefix: prefix("203.0.113.128/25")},
			{Prefix: prefix("192.0.2.3/32"), Overlay: true},
		},
	}); err != nil {
		t.Fatal(err)
	}
	type way struct {
		device int32
		from   string
	}
	for _, c := range []struct {
		way
		passes bool
	}{
		{way{2, "192.0.2.2"}, true},
		{way{7, "192.0.2.2"}, false}, // a bridge of ours
		{way{9, "192.0.2.2"}, false},
		{way{8, "192.0.2.2"}, true},
		{way{0, "192.0.2.2"}, true},    // not known
		{way{2, "192.0.2.3"}, false},   // a listed peer, routed into an overlay
		{way{2, "203.0.113.9"}, false}, // a sender that admit = "any" lets in
		{way{2, "203.0.113.9"}, false},
		{way{2, "203.0.113.129"}, true}, // the longer prefix leads elsewhere
		{way{7, "203.0.113.129"}, false},
		{way{2, "198.51.100.1"}, true},
	} {
		want := 0
		if c.passes {
			want = 1
		}
		d := netio.Datagram{From: netip.MustParseAddr(c.from), Device: c.device, Data: vxlan(testVNI, helloBack.Data)}
		// Alone, and in the middle of a batch of others that pass and do not.
		if got := r.in(d); len(got) != want {
			t.Errorf("%+v: %d frames arrive, want %d", c.way, len(got), want)
		}
		good, bad := d, d
		good.From, good.Device = addrB, 2
		bad.From, bad.Device = addrB, 7
		if got := r.in(good, d, bad, d, good, d); len(got) != 2+3*want {
			t.Errorf("%+v among others: %d frames arrive, want %d", c.way, len(got), 2+3*want)
		}
	}
	for _, p := range r.Engine.Stats().Peers {
		if p.Peer == unlisted {
			t.Errorf("a sender out of an overlay became a peer: %+v", p)
		}
	}
	conserves(t, r.Engine)

	if err := r.Engine.SetIngress(dataplane.Ingress{}); err != nil {
		t.Fatal(err)
	}
	if got := r.in(netio.Datagram{From: addrB, Device: 7, Data: vxlan(testVNI, helloBack.Data)}); len(got) != 1 {
		t.Errorf("%d frames arrive once nothing is refused, want 1", len(got))
	}
}

// TestIngressOfARun refuses a run of datagrams (UDP_GRO) whole, and counts each.
func TestIngressOfARun(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	if err := r.Engine.SetIngress(dataplane.Ingress{Devices: []int{7}}); err != nil {
		t.Fatal(err)
	}
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	var run []byte
	segments := s.segments(t, pattern(10*1000), 1000)
	for _, f := range segments {
		run = append(run, vxlan(testVNI, f)...)
	}
	d := netio.Datagram{From: addrB, Device: 7, Data: run, SegSize: encap.VXLANHeaderLen + len(segments[0])}
	if got := r.in(d); len(got) != 0 {
		t.Errorf("%d frames arrive", len(got))
	}
	got := r.Engine.Stats().Drops
	if len(got) != 1 || got[0].Network != "blue" || got[0].Reason != dataplane.DropFromOverlay || got[0].Count != 10 {
		t.Errorf("%+v, want 10 as from_overlay", got)
	}
}

// TestIngressOutlivesApply keeps refusing after networks came and went, and
// refuses what cannot be set whole.
func TestIngressOutlivesApply(t *testing.T) {
	u, a, _ := newPair(t)
	a.ingress(dataplane.Ingress{Devices: []int{7}})
	red := renamed(testNetwork(addrA, addrB), "red", "vx1", 200)
	a.apply(testNetwork(addrA, addrB), red)
	a.apply(testNetwork(addrA, addrB))
	for _, bad := range []dataplane.Ingress{
		{Devices: []int{0}}, {Devices: []int{-1}}, {Devices: []int{1 << 40}},
		{Routes: []dataplane.IngressRoute{{Overlay: true}}},
		{Routes: []dataplane.IngressRoute{{Prefix: netip.MustParsePrefix("192.0.2.1/24"), Overlay: true}}},
	} {
		if a.SetIngress(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	a.datagram(u, netio.Datagram{From: addrB, Device: 7, Data: vxlan(testVNI, helloBack.Data)})
	eventually(t, "the datagram is dropped", func() bool {
		d := a.Stats().Drops
		return len(d) == 1 && d[0].Reason == dataplane.DropFromOverlay && d[0].Count == 1
	})
}

// TestExplainIngress says of a sender that the host routes into an overlay that it is
// no peer.
func TestExplainIngress(t *testing.T) {
	_, a, _ := newPair(t)
	a.ingress(dataplane.Ingress{Routes: []dataplane.IngressRoute{{Prefix: netip.MustParsePrefix("192.0.2.2/32"), Overlay: true}}})
	x, err := a.Explain(dataplane.Query{Network: "blue", Frame: helloBack.Data, From: addrB})
	if err != nil || x.Verdict != dataplane.OutcomeDropped || x.Reason != dataplane.DropFromOverlay {
		t.Errorf("%+v, %v", x, err)
	}
}
