package dataplane_test

import (
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// leaves is how many of n frames leave.
func (r *paths) leaves(n int, dst encap.MAC) (left int) {
	for range n {
		left += len(r.out(plainFrame(dst, macA, "storm")))
	}
	return left
}

// arrives is how many of n frames from the peer arrive.
func (r *paths) arrives(n int, d netio.Datagram) (arrived int) {
	for range n {
		arrived += len(r.in(d))
	}
	return arrived
}

// What is flooded is bounded by its kind and direction; what has one known
// destination is not.
func TestStorm(t *testing.T) {
	n := testNetwork(addrA, addrB, addrC)
	n.Storm = dataplane.Storm{Broadcast: 10, UnknownUnicast: 20, Multicast: 30}
	r := newPaths(t, n)
	defer r.Close()
	start := time.Now()
	for name, c := range map[string]struct {
		dst   encap.MAC
		bound int
		drop  dataplane.Drop
	}{
		"broadcast":       {encap.BroadcastMAC, 10, dataplane.DropStormBroadcast},
		"unknown unicast": {macC, 20, dataplane.DropStormUnknown},
		"multicast":       {groupMAC, 30, dataplane.DropStormMulticast},
	} {
		left := r.leaves(100, c.dst) / 2 // two peers
		most := c.bound + int(time.Since(start).Seconds()*float64(c.bound)) + 1
		if left < c.bound || left > most {
			t.Errorf("%s: %d of 100 left, want %d", name, left, c.bound)
		}
		if got := r.dropped(c.drop); got != uint64(100-left) {
			t.Errorf("%s: %d were dropped as %s, want %d", name, got, c.drop, 100-left)
		}
	}
	r.Learn(macB, 0)
	if left := r.leaves(100, macB); left != 100 {
		t.Errorf("%d of 100 with a known destination left", left)
	}
	// Inward it is a bound of its own, and not for what has one destination.
	for dst, want := range map[encap.MAC]int{encap.BroadcastMAC: 10, macA: 100} {
		d := netio.Datagram{From: addrB, Data: vxlan(testVNI, plainFrame(dst, macB, "storm").Data)}
		if got := r.arrives(100, d); got < want || got > want+1+int(time.Since(start).Seconds()*10) {
			t.Errorf("%d of 100 for %s arrived, want %d", got, dst, want)
		}
	}
}

// A GSO packet counts as its segments, and one larger than the bucket passes
// when that is full.
func TestStormOfGSOPackets(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.Storm = dataplane.Storm{Broadcast: 10}
	r := newPaths(t, n)
	defer r.Close()
	s := flowSpec{src: macA, dst: encap.BroadcastMAC, udp: true}
	if got := len(r.out(s.gsoPacket(t, pattern(6*1000), 1000))); got != 6 {
		t.Errorf("%d segments left, want 6", got)
	}
	if got := len(r.out(s.gsoPacket(t, pattern(6*1000), 1000))); got != 0 {
		t.Errorf("%d segments left, want none", got)
	}
	if got := r.dropped(dataplane.DropStormBroadcast); got != 6 {
		t.Errorf("%d were dropped, want 6", got)
	}
	r = newPaths(t, n)
	defer r.Close()
	if got := len(r.out(s.gsoPacket(t, pattern(20*1000), 1000))); got != 20 {
		t.Errorf("%d segments left, want 20", got)
	}
}

// What comes as a GSO packet counts as its segments inward too, whether it says
// how long they are or not.
func TestStormOfReceivedGSOPackets(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.PeerStorm = dataplane.Storm{Multicast: 10}
	udp := flowSpec{src: macB, dst: groupMAC, udp: true}
	tcp := flowSpec{src: macB, dst: groupMAC, tcpFlags: encap.TCPACK}
	for name, d := range map[string]netio.Datagram{
		"UDP": {From: addrB, Data: vxlan(testVNI, udp.partial(t, pattern(6*1000)).Data), SegSize: 1000},
		"TCP": {From: addrB, Data: vxlan(testVNI, tcp.partial(t, pattern(6*1400)).Data)},
	} {
		r := newPaths(t, n)
		for range 3 {
			r.in(d)
		}
		if got := r.Engine.Stats().Networks[0].RxPackets; got > 7 || r.dropped(dataplane.DropStormMulticast) == 0 {
			t.Errorf("%s: %d segments arrived, want those of one GSO packet: %+v", name, got, r.Engine.Stats().Drops)
		}
		r.Close()
	}
}

// One peer's storm costs others nothing.
func TestPeerStorm(t *testing.T) {
	n := testNetwork(addrA, addrB, addrC)
	n.PeerStorm = dataplane.Storm{Broadcast: 5}
	r := newPaths(t, n)
	defer r.Close()
	start := time.Now()
	storm := netio.Datagram{From: addrB, Data: vxlan(testVNI, plainFrame(encap.BroadcastMAC, macB, "storm").Data)}
	if got := r.arrives(100, storm); got < 5 || got > 6+int(5*time.Since(start).Seconds()) {
		t.Errorf("%d of 100 arrived, want 5", got)
	}
	honest := netio.Datagram{From: addrC, Data: vxlan(testVNI, plainFrame(encap.BroadcastMAC, macC, "arp").Data)}
	if got := r.arrives(5, honest); got != 5 {
		t.Errorf("%d of 5 of another peer arrived", got)
	}
	time.Sleep(250 * time.Millisecond)
	if got := r.arrives(1, storm); got != 1 {
		t.Error("nothing arrives when the storm is over")
	}
}

// One peer's storm leaves the others their share of the network's bound, and gets
// what they leave.
func TestStormIsShared(t *testing.T) {
	n := testNetwork(addrA, addrB, addrC)
	n.Storm = dataplane.Storm{Broadcast: 20}
	r := newPaths(t, n)
	defer r.Close()
	storm := netio.Datagram{From: addrB, Data: vxlan(testVNI, plainFrame(encap.BroadcastMAC, macB, "storm").Data)}
	honest := netio.Datagram{From: addrC, Data: vxlan(testVNI, plainFrame(encap.BroadcastMAC, macC, "arp").Data)}
	start := time.Now()
	most := func(burst int) int { return burst + 1 + int(20*time.Since(start).Seconds()) }
	if got := r.arrives(200, storm); got < 20 || got > most(20) {
		t.Errorf("%d of a peer's 200 arrived, want the whole bucket of 20", got)
	}
	if got := r.arrives(10, honest); got != 10 {
		t.Errorf("%d of the other's 10 arrived beside the storm, which is its share", got)
	}
	if got := r.arrives(200, honest); got > most(0) {
		t.Errorf("%d more arrived than there were", got)
	}
}

// What the network's bound refuses is not charged to the peer's own.
func TestRefusedIsNotCharged(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.Storm, n.PeerStorm = dataplane.Storm{Broadcast: 2}, dataplane.Storm{Broadcast: 100}
	r := newPaths(t, n)
	defer r.Close()
	storm := netio.Datagram{From: addrB, Data: vxlan(testVNI, plainFrame(encap.BroadcastMAC, macB, "storm").Data)}
	r.arrives(500, storm)
	n.Storm = dataplane.Storm{}
	r.Change(n)
	if got := r.arrives(90, storm); got != 90 {
		t.Errorf("%d of 90 arrived by the peer's bound of 100, after 3 did", got)
	}
}

// A pinned peer sends from its own MACs alone, and no other peer from those, also
// where nothing is learned.
func TestPins(t *testing.T) {
	for _, learning := range []bool{true, false} {
		n := testNetwork(addrA, addrB, addrC)
		n.Learning = learning
		n.Peers[0].MACs = []encap.MAC{macB}
		n.FDB = []dataplane.StaticEntry{{MAC: groupMAC + 1, Peer: addrB}}
		r := newPaths(t, n)
		from := func(peer, src int) int {
			d := netio.Datagram{From: addrB, Data: vxlan(testVNI, plainFrame(macA, []encap.MAC{macB, macC}[src], "x").Data)}
			if peer == 1 {
				d.From = addrC
			}
			return len(r.in(d))
		}
		for _, c := range []struct{ peer, src, want int }{{0, 0, 1}, {0, 1, 0}, {1, 0, 0}, {1, 1, 1}} {
			if got := from(c.peer, c.src); got != c.want {
				t.Errorf("learning=%t: peer %d from MAC %d: %d arrived, want %d", learning, c.peer, c.src, got, c.want)
			}
		}
		if a, b := r.dropped(dataplane.DropMACNotAdmitted), r.dropped(dataplane.DropVXLANEntryExists); a != 1 || b != 1 {
			t.Errorf("dropped %+v", r.Engine.Stats().Drops)
		}
		r.Close()
	}
}

// A pin that is added takes back what the peer taught before, and one that goes
// lets it teach again.
func TestPinsChange(t *testing.T) {
	u, a, _ := newPair(t)
	a.from(u, addrB, plainFrame(macA, macC, "x").Data)
	eventually(t, "learned", func() bool { return a.blue().EntriesLearned == 1 })
	n := testNetwork(addrA, addrB)
	n.Peers[0].MACs = []encap.MAC{macB}
	a.apply(n)
	if s := a.blue(); s.EntriesLearned != 0 || s.Entries != 1 {
		t.Errorf("%d entries, %d learned", s.Entries, s.EntriesLearned)
	}
	a.from(u, addrB, plainFrame(macA, macC, "x").Data)
	eventually(t, "dropped", func() bool { return dropsOf(a) == 1 })
	a.apply(testNetwork(addrA, addrB))
	a.from(u, addrB, plainFrame(macA, macC, "x").Data)
	eventually(t, "learned again", func() bool { return a.blue().EntriesLearned == 1 && a.blue().Entries == 1 })
}

// A peer with more MACs than its share teaches no more, and a MAC that flaps is
// frozen, reported, and unfreezes; all the while frames are delivered.
func TestLearningIsBounded(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 1)
	n := testNetwork(addrA, addrB, addrC)
	n.MaxEntries, n.MaxMoves, n.MoveWindow = 8, 3, time.Second
	a.apply(n)
	for i := range 6 {
		a.from(u, addrB, plainFrame(macA, macB+encap.MAC(i)<<8, "x").Data)
	}
	eventually(t, "half the table is one peer's", func() bool { s := a.blue(); return s.RxPackets == 6 && s.EntriesLearned == 4 && s.LearnQuota == 2 })
	for i := range 8 {
		peer := addrB
		if i%2 == 0 {
			peer = addrC
		}
		a.from(u, peer, plainFrame(macA, macB, "x").Data)
		eventually(t, "delivered", func() bool { return a.blue().RxPackets == uint64(7+i) })
	}
	if s := a.blue(); s.Frozen != 1 || s.LearnMoved != 2 || s.LearnFrozen == 0 {
		t.Errorf("%+v", s)
	}
	frozen := 0
	entries, err := a.FDB("")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Frozen {
			frozen++
		}
	}
	if frozen != 1 {
		t.Errorf("%d entries are marked", frozen)
	}
	select {
	case ev := <-a.Events():
		if ev.Kind != dataplane.MACsFrozen || ev.Network != "blue" || ev.Count != 1 || ev.MAC != macB {
			t.Errorf("reported %+v", ev)
		}
	case <-time.After(5 * time.Second):
		t.Error("it was not reported")
	}
	eventually(t, "thawed", func() bool { return a.blue().Frozen == 0 })
	time.Sleep(2 * time.Second) // two ticks
	select {
	case ev := <-a.Events():
		t.Errorf("reported again: %+v", ev)
	default:
	}
}
