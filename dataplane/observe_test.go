package dataplane_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
	"overtap/fdb"
)

func TestFlushMatches(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB, addrC)
	blue.FDB = []dataplane.StaticEntry{{MAC: groupMAC, Peer: addrB}}
	red := renamed(blue, "red", "vx1", 200)
	a := newHost(t, u, addrA, blue, red)
	fill := func() {
		for _, from := range []netip.Addr{addrB, addrC} {
			for i := range 3 {
				mac := macB + encap.MAC(i)<<8 + encap.MAC(from.As4()[3])
				for _, vni := range []encap.VNI{testVNI, 200} {
					a.datagram(u, netio.Datagram{From: from, Data: vxlan(vni, plainFrame(macA, mac, "x").Data)})
				}
			}
		}
		eventually(t, "12 are learned", func() bool {
			s := a.Stats().Networks
			return s[0].EntriesLearned+s[1].EntriesLearned == 12
		})
	}
	first := macB + encap.MAC(addrB.As4()[3])
	for _, c := range []struct {
		m    dataplane.Match
		want int
	}{
		{dataplane.Match{}, 12},
		{dataplane.Match{Network: "red"}, 6},
		{dataplane.Match{Peer: addrC}, 6},
		{dataplane.Match{Network: "blue", Peer: addrC}, 3},
		{dataplane.Match{MAC: first}, 2},
		{dataplane.Match{MAC: first, Peer: addrC}, 0},
		{dataplane.Match{MAC: groupMAC}, 0},
		{dataplane.Match{Peer: unlisted}, 0},
	} {
		fill()
		if got, err := a.Flush(c.m); got != c.want || err != nil {
			t.Errorf("Flush(%+v) = %d, %v, want %d", c.m, got, err, c.want)
		}
		entries, err := a.FDB("")
		if err != nil || len(entries) != 14-c.want {
			t.Errorf("%d entries are left, %v, want %d", len(entries), err, 14-c.want)
		}
	}
	if _, err := a.Flush(dataplane.Match{Network: "green"}); err == nil {
		t.Error("a network that is not there was flushed")
	}
	if _, err := a.FDB("green"); err == nil {
		t.Error("a network that is not there has a table")
	}
}

func TestFDBOrder(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	blue.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: addrC}, {MAC: macB, Peer: addrB}}
	a := newHost(t, u, addrA, renamed(blue, "red", "vx1", 200), blue)
	got, err := a.FDB("")
	if err != nil {
		t.Fatal(err)
	}
	row := func(network string, vni encap.VNI, mac encap.MAC, peer netip.Addr) dataplane.FDBEntry {
		return dataplane.FDBEntry{Network: network, VNI: vni, MAC: mac, Peer: peer, Port: testPort, Origin: "static"}
	}
	want := []dataplane.FDBEntry{
		row("blue", 100, macB, addrB), row("blue", 100, macC, addrC),
		row("red", 200, macB, addrB), row("red", 200, macC, addrC),
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for network, want := range map[string][]dataplane.FDBEntry{"": want, "red": want[2:]} {
		var each []dataplane.FDBEntry
		if err := a.EachFDB(network, func(e *dataplane.FDBEntry) { each = append(each, *e) }); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(each, func(a, b dataplane.FDBEntry) int {
			return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.MAC, b.MAC))
		})
		if !slices.Equal(each, want) {
			t.Errorf("each of %q: %+v, want %+v", network, each, want)
		}
	}
	if err := a.EachFDB("green", nil); err == nil {
		t.Error("a network that is not there has entries")
	}
}

func TestInfo(t *testing.T) {
	a := bareHost(t, netiotest.NewUnderlay(t), addrA, 3)
	blue := testNetwork(addrA, addrB)
	plain := renamed(blue, "plain", "vx1", 200)
	plain.Plain = true
	a.apply(blue, plain)
	i := a.Info()
	if i.Workers != 3 || i.Underlay != addrA || i.SegmentationRefused || len(i.Sources) == 0 || len(i.Networks) != 2 {
		t.Fatalf("%+v", i)
	}
	n := i.Networks[0]
	want := dataplane.NetworkInfo{
		Network: "blue", Kind: dataplane.KindVXLAN, VNI: testVNI, Port: testPort, Device: "vx0", MAC: tapMAC(addrA), MTU: testMTU, Queues: 3,
		Offloads: n.Offloads, TableBytes: n.TableBytes,
	}
	if !reflect.DeepEqual(n, want) || len(n.Offloads) == 0 || n.TableBytes < 16*blue.MaxEntries {
		t.Errorf("%+v, want %+v", n, want)
	}
	if len(i.Networks[1].Offloads) != 0 {
		t.Errorf("a plain TAP has offloads %q", i.Networks[1].Offloads)
	}
}

// TestSocketDrops wants what the kernel dropped at a full buffer to show.
func TestSocketDrops(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB))
	a.SetBuffer(0)
	for range 3 {
		a.from(u, addrB, helloBack.Data)
	}
	want := []dataplane.ConnStats{{Port: testPort, SocketDropped: 3}}
	if got := a.Stats().Wire; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestStatsAreOrdered wants lists of the same order each time, and none of them
// nil: their JSON is an array.
func TestStatsAreOrdered(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 1)
	if s := a.Stats(); s.Networks == nil || s.Peers == nil || s.Drops == nil || s.Wire == nil {
		t.Errorf("%+v", s)
	}
	var nets []dataplane.Network
	for i := range 9 {
		n := renamed(testNetwork(addrA, addrC, addrB), fmt.Sprint("n", 9-i), fmt.Sprint("vx", i), encap.VNI(i))
		n.Port = uint16(5000 - i)
		nets = append(nets, n)
	}
	a.apply(nets...)
	s := a.Stats()
	if !slices.IsSortedFunc(s.Networks, func(a, b dataplane.NetworkStats) int { return strings.Compare(a.Network, b.Network) }) ||
		!slices.IsSortedFunc(s.Wire, func(a, b dataplane.ConnStats) int { return int(a.Port) - int(b.Port) }) ||
		!slices.IsSortedFunc(s.Peers, func(a, b dataplane.PeerStats) int {
			return strings.Compare(a.Network+a.Peer.String(), b.Network+b.Peer.String())
		}) || len(s.Networks) != 9 || len(s.Wire) != 9 || len(s.Peers) != 18 {
		t.Errorf("%+v", s)
	}
}

// An entry goes from one source to another, also to one that ranks lower, and is learned
// again once none has it.
func TestEntryChangesOrigin(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB, addrC)
	a := newHost(t, u, addrA, n)
	for _, step := range []struct {
		origin fdb.Origin // Learned = in no source
		peer   netip.Addr
		want   string
	}{
		{fdb.Cluster, addrC, "cluster"}, {0, addrC, "static"}, {fdb.Cluster, addrB, "cluster"}, {fdb.Cluster, addrC, "cluster"}, {fdb.Learned, addrB, "learned"},
	} {
		n.FDB = nil
		if step.origin != fdb.Learned {
			n.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: step.peer, Origin: step.origin}}
		}
		a.apply(n)
		a.from(u, step.peer, plainFrame(macA, macC, "hello").Data)
		a.TAP("vx0").Wait(1)
		got, err := a.FDB("blue")
		if err != nil || len(got) != 1 || got[0].Origin != step.want || got[0].Peer != step.peer {
			t.Errorf("%+v: %+v, %v", step, got, err)
		}
	}
}
