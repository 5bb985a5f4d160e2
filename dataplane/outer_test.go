package dataplane_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// TestECNInbound is RFC 6040 section 4.2, figure 4, on the path.
func TestECNInbound(t *testing.T) {
	const dropped = 0xff
	order := [4]uint8{encap.NotECT, encap.ECT0, encap.ECT1, encap.CE}
	table := map[uint8][4]uint8{
		encap.NotECT: {encap.NotECT, encap.NotECT, encap.NotECT, dropped},
		encap.ECT0:   {encap.ECT0, encap.ECT0, encap.ECT1, encap.CE},
		encap.ECT1:   {encap.ECT1, encap.ECT1, encap.ECT1, encap.CE},
		encap.CE:     {encap.CE, encap.CE, encap.CE, encap.CE},
	}
	const dscp = 0xb8
	for _, v6 := range []bool{false, true} {
		for inner, row := range table {
			for i, want := range row {
				r := newPaths(t, testNetwork(addrA, addrB))
				s := flowSpec{src: macB, dst: macA, v6: v6, tos: dscp | inner, udp: true}
				got := r.in(netio.Datagram{From: addrB, TOS: 0x10 | order[i], Data: vxlan(testVNI, s.complete(t, pattern(50)))})
				what := fmt.Sprintf("v6=%t inner %02b outer %02b", v6, inner, order[i])
				if want == dropped {
					if len(got) != 0 || r.dropped(dataplane.DropIPTunnelECN) != 1 {
						t.Errorf("%s: %d frames arrived", what, len(got))
					}
				} else {
					marked := s
					marked.tos = dscp | want
					if len(got) != 1 || !bytes.Equal(got[0].Data, marked.complete(t, pattern(50))) {
						t.Errorf("%s: arrived as %+v", what, got)
					}
				}
				r.Close()
			}
		}
	}
	// What is not IP has nothing to mark.
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	got := r.in(netio.Datagram{From: addrB, TOS: encap.CE, Data: vxlan(testVNI, helloBack.Data)})
	if len(got) != 1 || !bytes.Equal(got[0].Data, helloBack.Data) {
		t.Errorf("a frame that is not IP arrived as %+v", got)
	}
}

// TestOuterHeader wants TOS, TTL and DF of what is sent to be as configured,
// and the ECN bits to be the inner packet's in any case (RFC 6040 section 4.1).
func TestOuterHeader(t *testing.T) {
	for _, c := range []struct {
		tos   dataplane.TOS
		inner uint8
		want  uint8
		notIP uint8
	}{
		{tos: dataplane.TOS{Inherit: true}, inner: 0xb8 | encap.ECT1, want: 0xb8 | encap.ECT1},
		{tos: dataplane.TOS{Inherit: true}, inner: 0xb8 | encap.CE, want: 0xb8 | encap.CE},
		{tos: dataplane.TOS{Inherit: true}, inner: 0},
		{tos: dataplane.TOS{Value: 0x28}, inner: 0xb8 | encap.ECT0, want: 0x28 | encap.ECT0, notIP: 0x28},
		{tos: dataplane.TOS{Value: 0x2b}, inner: 0xb8, want: 0x28, notIP: 0x28},
		{tos: dataplane.TOS{}, inner: 0xff, want: encap.CE},
	} {
		for _, v6 := range []bool{false, true} {
			n := testNetwork(addrA, addrB)
			n.TOS, n.TTL, n.DF = c.tos, 7, v6
			r := newPaths(t, n)
			s := flowSpec{src: macA, dst: macB, v6: v6, tos: c.inner, tcpFlags: encap.TCPACK}
			for want, f := range map[*uint8]netiotest.Frame{
				&c.want: s.gsoPacket(t, pattern(4000), 1000), &c.notIP: hello,
			} {
				r.tap.Inject(f)
				if err := r.Outbound(); err != nil {
					t.Fatal(err)
				}
				sent := r.backend.Sent()
				if len(sent) != 1 {
					t.Fatalf("%d sends", len(sent))
				}
				if got := sent[0]; got.TOS != *want || got.TTL != 7 || got.DF != v6 ||
					got.To != netip.AddrPortFrom(addrB, testPort) {
					t.Errorf("%+v: TOS %#x, TTL %d, DF %t, to %s; want TOS %#x", c, got.TOS, got.TTL, got.DF, got.To, *want)
				}
			}
			r.Close()
		}
	}
}

// TestFlowsKeepTheirPort wants one flow to leave as one, flows to differ, and
// the copies of a flooded frame to be alike.
func TestFlowsKeepTheirPort(t *testing.T) {
	n := testNetwork(addrA, addrB, addrC)
	r := newPaths(t, n)
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	udp := s
	udp.udp = true
	flows := make(map[uint32]bool)
	for _, f := range []netiotest.Frame{s.partial(t, pattern(10)), s.gsoPacket(t, pattern(5000), 900), udp.partial(t, pattern(10)), hello} {
		r.tap.Inject(f)
		if err := r.Outbound(); err != nil {
			t.Fatal(err)
		}
		sent := r.backend.Sent()
		if len(sent) != 2 || sent[0].Flow != sent[1].Flow || sent[0].To.Addr() == sent[1].To.Addr() {
			t.Errorf("copies %+v", sent)
		}
		flows[sent[0].Flow] = true
	}
	if len(flows) != 3 {
		t.Errorf("%d flows, want 3: TCP, UDP and what is not IP", len(flows))
	}
}
