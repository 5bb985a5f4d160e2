package dataplane_test

import (
	"bytes"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// TestUnlistedSource has peers of a static network, as flannel's, send from MACs
// that no entry has behind them: each frame is delivered and counted, and the last
// sender named. A network that learns, or that has no entries, counts nothing.
func TestUnlistedSource(t *testing.T) {
	const other encap.MAC = 0x0242_0000_0777
	static := testNetwork(addrA, addrB, addrC)
	static.Learning = false
	static.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: addrB}, {MAC: macC, Peer: addrC}}
	r := newPaths(t, static)
	defer r.Close()
	receive := func(frame []byte) {
		t.Helper()
		if got := r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, frame)}); len(got) != 1 || !bytes.Equal(got[0].Data, frame) {
			t.Errorf("delivered %d frames, want the one that was sent", len(got))
		}
	}
	stats := func() dataplane.NetworkStats { return r.Engine.Stats().Networks[0] }

	receive(plainFrame(macA, macB, "as listed").Data)
	if n := stats(); n.UnlistedSources != 0 || n.Unlisted != nil {
		t.Errorf("a listed source: %d, %+v", n.UnlistedSources, n.Unlisted)
	}
	receive(plainFrame(macA, other, "a new MAC").Data)
	if n := stats(); n.UnlistedSources != 1 || n.Unlisted == nil || n.Unlisted.MAC != other || n.Unlisted.Peer != addrB {
		t.Errorf("a new MAC: %d, %+v", n.UnlistedSources, n.Unlisted)
	}
	receive(plainFrame(macA, macC, "another peer's").Data)
	if n := stats(); n.UnlistedSources != 2 || n.Unlisted == nil || n.Unlisted.MAC != macC || n.Unlisted.Peer != addrB {
		t.Errorf("another peer's MAC: %d, %+v", n.UnlistedSources, n.Unlisted)
	}

	empty := testNetwork(addrA, addrB)
	empty.Learning = false
	for _, n := range []dataplane.Network{empty, testNetwork(addrA, addrB)} {
		r := newPaths(t, n)
		r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, plainFrame(macA, other, "hello").Data)})
		if n := r.Engine.Stats().Networks[0]; n.UnlistedSources != 0 || n.RxPackets != 1 {
			t.Errorf("learning %v, no entries: %+v", n, n)
		}
		r.Close()
	}
}
