package dataplane_test

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// paths is a pair of paths without threads over edges in memory.
type paths struct {
	*dataplane.Paths
	u       *netiotest.Underlay
	backend *netiotest.Backend
	tap     *netiotest.TAP
	tb      testing.TB
	net     dataplane.Network
}

func newPaths(tb testing.TB, n dataplane.Network) *paths {
	tb.Helper()
	return newPathsAt(tb, addrA, n)
}

// newPathsAt is newPaths with another underlay address.
func newPathsAt(tb testing.TB, self netip.Addr, n dataplane.Network) *paths {
	tb.Helper()
	edges := netiotest.NewUnderlay(tb).Backend(self)
	return newPathsOf(tb, dataplane.Options{Underlay: self}, edges, n)
}

// newPathsOf is newPaths with other options, over the backend.
func newPathsOf(tb testing.TB, o dataplane.Options, edges *netiotest.Backend, n dataplane.Network) *paths {
	tb.Helper()
	o.Backend = edges
	r, err := dataplane.NewPaths(o, n)
	if err != nil {
		tb.Fatal(err)
	}
	edges.Record()
	return &paths{Paths: r, u: edges.Underlay(), backend: edges, tap: edges.TAP(n.Device), tb: tb, net: n}
}

// Close wants nothing to have been lost on the paths, and closes them.
func (r *paths) Close() error {
	r.tb.Helper()
	if problem := unbalanced(r.Engine.Stats()); problem != "" {
		r.tb.Errorf("not conserved: %s", problem)
	}
	return r.Paths.Close()
}

// out takes the frame out and returns the inner frames sent.
func (r *paths) out(f netiotest.Frame) [][]byte {
	r.tb.Helper()
	r.tap.Inject(f)
	if err := r.Outbound(); err != nil {
		r.tb.Fatal(err)
	}
	var inner [][]byte
	for _, s := range r.backend.Sent() {
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
func (r *paths) in(ds ...netio.Datagram) []netiotest.Frame {
	r.tb.Helper()
	for _, d := range ds {
		r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), d)
	}
	if err := r.Inbound(); err != nil {
		r.tb.Fatal(err)
	}
	return r.tap.Written()
}

// dropped returns the drops of that reason since the start.
func (r *paths) dropped(d dataplane.Drop) (n uint64) {
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
