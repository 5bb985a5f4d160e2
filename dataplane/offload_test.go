package dataplane_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// offloadOf is what Info says of the offload of that name.
func offloadOf(t *testing.T, i dataplane.Info, name string) dataplane.OffloadInfo {
	t.Helper()
	at := slices.IndexFunc(i.Offloads, func(o dataplane.OffloadInfo) bool { return o.Name == name })
	if at < 0 {
		t.Fatalf("Info does not name %s: %+v", name, i.Offloads)
	}
	return i.Offloads[at]
}

// states are those of all offloads, in their order.
func states(i dataplane.Info) (all []dataplane.OffloadState) {
	for _, o := range i.Offloads {
		all = append(all, o.State)
	}
	return all
}

// TestOffloadsOff switches the offloads of the TAP and the joining off, one by
// one, and sends what each is about through the path in and the path out: the
// bytes that arrive are the same, and cross the TAP as what is left allows. The
// twin refuses a GSO packet that its device does not take.
func TestOffloadsOff(t *testing.T) {
	const on, off, unsupported = dataplane.OffloadOn, dataplane.OffloadOff, dataplane.OffloadUnsupported
	tcp := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK, id: 1}
	udp := flowSpec{src: macB, dst: macA, udp: true, id: 1}
	for _, c := range []struct {
		name     string
		o        netio.Offloads
		network  func(*dataplane.Network)
		noUSO    bool
		tcp, udp int // frames written for four segments
		states   []dataplane.OffloadState
	}{
		{name: "none", tcp: 1, udp: 1, states: []dataplane.OffloadState{on, on, on, on, on}},
		{name: "tap_gso", o: netio.Offloads{NoTAPGSO: true}, tcp: 4, udp: 4, states: []dataplane.OffloadState{off, off, on, on, off}},
		{name: "tap_uso", o: netio.Offloads{NoTAPUSO: true}, tcp: 1, udp: 4, states: []dataplane.OffloadState{on, off, on, on, off}},
		{name: "join_udp", o: netio.Offloads{NoJoinUDP: true}, tcp: 1, udp: 4, states: []dataplane.OffloadState{on, on, on, on, off}},
		{name: "udp_segment", o: netio.Offloads{NoUDPSegment: true}, tcp: 1, udp: 1, states: []dataplane.OffloadState{on, on, off, on, on}},
		{name: "udp_gro", o: netio.Offloads{NoUDPGRO: true}, tcp: 1, udp: 1, states: []dataplane.OffloadState{on, on, on, off, on}},
		{name: "a plain TAP", network: func(n *dataplane.Network) { n.Plain = true }, tcp: 4, udp: 4, states: []dataplane.OffloadState{off, off, on, on, off}},
		{name: "an old kernel", noUSO: true, tcp: 1, udp: 4, states: []dataplane.OffloadState{on, unsupported, on, on, unsupported}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := testNetwork(addrA, addrB)
			if c.network != nil {
				c.network(&n)
			}
			edges := netiotest.NewUnderlay(t).Backend(addrA)
			if c.noUSO {
				edges.WithoutUSO()
			}
			r := newPathsOf(t, dataplane.Options{Underlay: addrA, Offloads: c.o}, edges, n)
			defer r.Close()
			if got := states(r.Engine.Info()); !slices.Equal(got, c.states) {
				t.Errorf("%v, want %v", got, c.states)
			}
			for _, kind := range []struct {
				name string
				spec flowSpec
				want int
			}{{"TCP", tcp, c.tcp}, {"UDP", udp, c.udp}} {
				segments := kind.spec.segments(t, pattern(4000), 1000)
				for _, s := range segments {
					r.u.Deliver(netip.AddrPortFrom(addrA, n.Port), netio.Datagram{From: addrB, Data: vxlan(testVNI, s)})
				}
				if err := r.Inbound(); err != nil {
					t.Fatal(err)
				}
				written := r.tap.Written()
				if len(written) != kind.want {
					t.Errorf("%d segments of %s are written as %d frames, want %d", len(segments), kind.name, len(written), kind.want)
				}
				if got := cutAll(t, written); !slices.EqualFunc(got, segments, bytes.Equal) {
					t.Errorf("%s: other segments came out", kind.name)
				}
				// A GSO packet that the sender's kernel left unsegmented (a peer over
				// veth) is joined already; only what the device takes counts.
				gso := kind.spec.partial(t, pattern(4000))
				written = r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, gso.Data), SegSize: 1000})
				isCut := kind.want > 1 && !c.o.NoJoinUDP
				if isCut != (len(written) > 1) {
					t.Errorf("a GSO packet of %s is written as %d frames", kind.name, len(written))
				}
				var payload []byte
				for _, f := range cutAll(t, written) {
					payload = append(payload, f[kind.spec.payloadAt():]...)
					if !sumsUp(f) {
						t.Errorf("%s: a segment of a GSO packet has a wrong checksum", kind.name)
					}
				}
				if !bytes.Equal(payload, pattern(4000)) {
					t.Errorf("%s: another payload came out of a GSO packet", kind.name)
				}
			}
		})
	}
}
