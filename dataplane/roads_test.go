package dataplane_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/dataplanetest"
	"overtap/encap"
)

// roads is a pair of roads without threads over edges in memory.
type roads struct {
	*dataplane.Roads
	u     *dataplanetest.Underlay
	edges *dataplanetest.Edges
	tap   *dataplanetest.TAP
	tb    testing.TB
	net   dataplane.Network
}

func newRoads(tb testing.TB, n dataplane.Network) *roads {
	tb.Helper()
	return newRoadsAt(tb, addrA, n)
}

// newRoadsAt is newRoads with another underlay address.
func newRoadsAt(tb testing.TB, self netip.Addr, n dataplane.Network) *roads {
	tb.Helper()
	u := dataplanetest.NewUnderlay(tb)
	edges := u.Edges(self)
	r, err := dataplane.NewRoads(dataplane.Options{Underlay: self, Edges: edges}, n)
	if err != nil {
		tb.Fatal(err)
	}
	edges.Record()
	return &roads{Roads: r, u: u, edges: edges, tap: edges.TAP(n.Device), tb: tb, net: n}
}

// Close wants nothing to have been lost on the roads, and closes them.
func (r *roads) Close() error {
	r.tb.Helper()
	if problem := unbalanced(r.Engine.Stats()); problem != "" {
		r.tb.Errorf("not conserved: %s", problem)
	}
	return r.Roads.Close()
}

// out takes the frame out and returns the inner frames sent.
func (r *roads) out(f dataplanetest.Frame) [][]byte {
	r.tb.Helper()
	r.tap.Inject(f)
	if err := r.Outbound(); err != nil {
		r.tb.Fatal(err)
	}
	var inner [][]byte
	for _, s := range r.edges.Sent() {
		for _, p := range s.Payloads {
			if h, err := encap.ParseVXLAN(p); err != nil || h.VNI != r.net.VNI || h.Reserved {
				r.tb.Errorf("VXLAN header %x", p[:encap.VXLANHeaderLen])
			}
			inner = append(inner, p[encap.VXLANHeaderLen:])
		}
	}
	return inner
}

// in takes the datagram in and returns what was written.
func (r *roads) in(d dataplane.Datagram) []dataplanetest.Frame {
	r.tb.Helper()
	r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), d)
	if err := r.Inbound(); err != nil {
		r.tb.Fatal(err)
	}
	return r.tap.Written()
}

// dropped returns the drops of that reason since the start.
func (r *roads) dropped(d dataplane.Drop) (n uint64) {
	for _, s := range r.Engine.Stats().Drops {
		if s.Reason == d {
			n += s.Count
		}
	}
	return n
}

// drawFlow draws a flow in all its variety.
func drawFlow(t *rapid.T) flowSpec {
	s := flowSpec{
		src: macA, dst: macB,
		v6: rapid.Bool().Draw(t, "v6"), udp: rapid.Bool().Draw(t, "udp"), frag: rapid.Bool().Draw(t, "frag"),
		tags:      rapid.IntRange(0, 2).Draw(t, "tags"),
		tos:       rapid.Byte().Draw(t, "tos"),
		id:        rapid.Uint16().Draw(t, "id"),
		ipOptions: 8 * rapid.IntRange(0, 5).Draw(t, "ipOptions"),
	}
	if !s.udp {
		s.tcpOptions = 4 * rapid.IntRange(0, 10).Draw(t, "tcpOptions")
		s.seq = rapid.Uint32().Draw(t, "seq")
		s.tcpFlags = rapid.Byte().Draw(t, "tcpFlags")
	}
	return s
}
