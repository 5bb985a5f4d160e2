package dataplane_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"overtap/encap"
)

// A GSO packet of more payloads than one UDP_SEGMENT carries goes on in the send
// of the one before it, where a run of both is one flow's and only its last
// payload is short; what is on the wire stays the same.
func TestGSOPacketsShareSends(t *testing.T) {
	const size, perSend = 1398, 44 // of 1398 + 66 + 8 bytes each below 65000
	flow := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
	other, marked, odd := flow, flow, flow
	other.udp = true
	marked.tos = 0x20
	odd.tcpOptions = 0
	for name, c := range map[string]struct {
		peers   []netip.Addr
		frames  []flowSpec
		lengths []int // of the GSO packets' payloads
		sends   []int // payloads of each send
	}{
		"one after another": {[]netip.Addr{addrB}, []flowSpec{flow, flow, flow},
			[]int{46 * size, 46 * size, 46 * size}, []int{perSend, perSend, perSend, 6}},
		"short ones gather": {[]netip.Addr{addrB}, []flowSpec{flow, flow, flow},
			[]int{2 * size, 3 * size, 4*size + 1}, []int{10}},
		"a short payload ends it": {[]netip.Addr{addrB}, []flowSpec{flow, flow},
			[]int{46*size - 1, 46 * size}, []int{perSend, 2, perSend, 2}},
		"another TOS": {[]netip.Addr{addrB}, []flowSpec{flow, marked},
			[]int{2 * size, 2 * size}, []int{2, 2}},
		"other headers": {[]netip.Addr{addrB}, []flowSpec{flow, odd},
			[]int{2 * size, 2 * size}, []int{2, 2}},
		"another flow between": {[]netip.Addr{addrB}, []flowSpec{flow, other, flow},
			[]int{2 * size, 2 * size, 2 * size}, []int{2, 2, 2}},
		"a full send": {[]netip.Addr{addrB}, []flowSpec{flow, flow},
			[]int{perSend * size, 2 * size}, []int{perSend, 2}},
		"copies": {[]netip.Addr{addrB, addrC}, []flowSpec{flow, flow},
			[]int{2 * size, 2 * size}, []int{2, 2, 2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPaths(t, testNetwork(addrA, c.peers...))
			defer r.Close()
			var want [][]byte
			for i, s := range c.frames {
				payload := pattern(c.lengths[i])
				r.tap.Inject(s.gsoPacket(t, payload, size))
				want = append(want, s.segments(t, payload, size)...)
			}
			if err := r.Outbound(); err != nil {
				t.Fatal(err)
			}
			got := make(map[netip.Addr][][]byte)
			var sends []int
			for _, one := range r.backend.Sent() {
				sends = append(sends, len(one.Payloads))
				for _, p := range one.Payloads {
					got[one.To.Addr()] = append(got[one.To.Addr()], p[encap.VXLANHeaderLen:])
				}
			}
			if !slices.Equal(sends, c.sends) {
				t.Errorf("sends of %v payloads, want %v", sends, c.sends)
			}
			for _, p := range c.peers {
				if !slices.EqualFunc(got[p], want, bytes.Equal) {
					t.Errorf("%d payloads for %v, want %d and the same bytes", len(got[p]), p, len(want))
				}
			}
			if n := r.Engine.Stats().Networks[0]; n.TxPackets != uint64(len(want)*len(c.peers)) {
				t.Errorf("counted %d frames, want %d", n.TxPackets, len(want)*len(c.peers))
			}
		})
	}
}
