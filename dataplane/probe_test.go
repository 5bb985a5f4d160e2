package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
	"overtap/fdb"
)

// probing is n with probes as often as may be.
func probing(n dataplane.Network) dataplane.Network {
	n.Probe = dataplane.MinProbe
	return n
}

// state returns how a peer fares.
func (h *host) state(peer netip.Addr) (state dataplane.PeerState) {
	h.tb.Helper()
	h.EachPeer(func(_ string, a netip.Addr, s dataplane.PeerState) {
		if a == peer {
			state = s
		}
	})
	for _, p := range h.Stats().Peers {
		if p.Peer == peer && p.State != state {
			h.tb.Errorf("Stats has %s %s, EachPeer %s", peer, p.State, state)
		}
	}
	return state
}

// probed returns what the host knows of a peer by probes.
func (h *host) probed(peer netip.Addr) *dataplane.Probe {
	h.tb.Helper()
	for _, p := range h.Stats().Peers {
		if p.Peer == peer {
			return p.Probe
		}
	}
	h.tb.Fatalf("there is no peer %s", peer)
	return nil
}

// TestProbe has one host ask another, which does not ask, and a third that is not
// there.
func TestProbe(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, probing(testNetwork(addrA, addrB, addrC)))
	b := newHost(t, u, addrB, testNetwork(addrB, addrA))
	eventually(t, "the peer is alive, and takes full frames", func() bool {
		p := a.probed(addrB)
		return p != nil && p.Alive && p.RTT > 0 && p.VerifiedMTU == 1500
	})
	eventually(t, "the other is not", func() bool { return !a.probed(addrC).UnansweredSince.IsZero() })
	if p := a.probed(addrB); p.FullMTU != 1500 || p.IsNarrow() || !p.Answered || !p.UnansweredSince.IsZero() || p.RTT > 5 {
		t.Errorf("the peer: %+v", p)
	}
	if p := a.probed(addrC); p.Alive || p.Answered || p.RTT != 0 || p.VerifiedMTU != 0 {
		t.Errorf("the one that is not there: %+v", p)
	}
	if got := []dataplane.PeerState{a.state(addrB), a.state(addrC), b.state(addrA)}; !slices.Equal(got, []dataplane.PeerState{"alive", "new", "heard"}) {
		t.Errorf("the peers are %v", got) // b does not ask, but hears what a asks
	}
	if p := b.probed(addrA); p != nil {
		t.Errorf("who does not ask knows %+v", p)
	}
	// Nothing is learned of it, nothing delivered, nothing counted as traffic.
	for _, h := range []*host{a, b} {
		if entries, err := h.FDB(""); err != nil || len(entries) > 0 {
			t.Errorf("learned: %+v, %v", entries, err)
		}
		n := h.blue()
		if n.Traffic != (dataplane.Traffic{}) || n.RxOffered != 0 || n.TxOffered != 0 || n.ProbesReceived < 2 || n.ProbesRefused != 0 {
			t.Errorf("counted: %+v", n)
		}
		h.wantDrops()
	}
	silent(t, a.TAP("vx0"), b.TAP("vx0"))

	// Switched off while it runs, and on again.
	a.apply(testNetwork(addrA, addrB, addrC))
	eventually(t, "nothing is known any more", func() bool { return a.probed(addrB) == nil })
	a.apply(probing(testNetwork(addrA, addrB)))
	eventually(t, "it is alive again", func() bool { p := a.probed(addrB); return p != nil && p.Alive })

	// It goes, and comes back.
	u.SetFaults(netiotest.Faults{Loss: 1})
	eventually(t, "it is gone", func() bool { p := a.probed(addrB); return !p.Alive && p.Answered })
	if s := a.state(addrB); s != dataplane.PeerLost {
		t.Errorf("gone: %s", s)
	}
	if p := a.probed(addrB); p.RTT != 0 || p.VerifiedMTU != 0 || time.Since(p.UnansweredSince) < 2*dataplane.MinProbe {
		t.Errorf("gone: %+v", p)
	}
	u.SetFaults(netiotest.Faults{})
	eventually(t, "it is back", func() bool { return a.probed(addrB).Alive })
	if s := a.state(addrB); s != dataplane.PeerAlive {
		t.Errorf("back: %s", s)
	}
}

// TestPeerState judges peers: one that answered a probe by probes, others by when
// they were heard last.
func TestPeerState(t *testing.T) {
	const now = 10_000
	heard := func(ago uint32) fdb.PeerInfo { return fdb.PeerInfo{LastHeard: now - ago, Known: 5000} }
	for _, c := range []struct {
		name  string
		peer  fdb.PeerInfo
		probe *dataplane.Probe
		want  dataplane.PeerState
	}{
		{"it answers", heard(0), &dataplane.Probe{Answered: true, Alive: true}, dataplane.PeerAlive},
		{"it answered", heard(100), &dataplane.Probe{Answered: true}, dataplane.PeerLost},
		{"it answered, and is heard: what we send is lost", heard(0), &dataplane.Probe{Answered: true}, dataplane.PeerLost},
		{"a kernel device", heard(60), &dataplane.Probe{}, dataplane.PeerHeard},
		{"an idle one", heard(61), &dataplane.Probe{}, dataplane.PeerSilent},
		{"not asked", heard(60), nil, dataplane.PeerHeard},
		{"not asked, and idle", heard(61), nil, dataplane.PeerSilent},
		{"heard by another engine, before this one's clock began", fdb.PeerInfo{LastHeard: 1<<32 - 5}, nil, dataplane.PeerSilent},
		{"just listed", fdb.PeerInfo{Known: 60}, &dataplane.Probe{}, dataplane.PeerNew},
		{"listed, and not there", fdb.PeerInfo{Known: 61}, &dataplane.Probe{}, dataplane.PeerNever},
		{"not asked, and not there", fdb.PeerInfo{Known: 61}, nil, dataplane.PeerNever},
	} {
		if got := dataplane.StateOf(c.peer, now, c.probe); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestManyPeersAreAskedLess has so many peers that asking each as often as
// configured would be more than the bound of them all.
func TestManyPeersAreAskedLess(t *testing.T) {
	peer := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }
	n := testNetwork(addrA)
	n.Probe = time.Second
	for _, c := range []struct {
		peers int
		want  time.Duration
	}{{499, time.Second}, {500, time.Second}, {1000, 2 * time.Second}, {5000, 10 * time.Second}} {
		for i := len(n.Peers); i < c.peers; i++ {
			n.Peers = append(n.Peers, dataplane.Peer{Address: peer(i)})
		}
		r, err := dataplane.NewPaths(dataplane.Options{Underlay: addrA, Backend: netiotest.NewUnderlay(t).Backend(addrA)}, n)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.ProbeInterval(); got != c.want {
			t.Errorf("%d peers are asked each %v, want %v", c.peers, got, c.want)
		}
		r.Close()
	}
}

// TestProbeFindsPathMTU narrows the path: so that the kernel says so, of which the
// path learns too.
func TestProbeFindsPathMTU(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, probing(testNetwork(addrA, addrB)))
	newHost(t, u, addrB, testNetwork(addrB, addrA))
	a.SetPathMTU(addrB, 1400)
	eventually(t, "the path is found", func() bool {
		p := a.probed(addrB)
		return p != nil && p.Alive && p.VerifiedMTU == 1400 && p.IsNarrow()
	})
	if pmtu := a.Stats().Peers[0].PathMTU; pmtu != 1400 {
		t.Errorf("the path knows of %d", pmtu)
	}
	a.SetPathMTU(addrB, 0)
	eventually(t, "the path is wide again", func() bool { return a.probed(addrB).VerifiedMTU == 1500 })
}

// request is a probe as a peer would send it.
func request(id uint64, length int) []byte {
	b := make([]byte, length)
	encap.PutProbe(b, tapMAC(addrB), encap.Probe{ID: id, Len: length})
	return b
}

// TestProbeAnswers has requests come in from peers and unlisted senders: each admitted
// one is answered by a frame of the least length, up to a bound in a second, and
// nothing else is.
func TestProbeAnswers(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	n.Peers[0].MACs = []encap.MAC{macB} // a probe's source is no MAC of a container
	a := newHost(t, u, addrA, n)
	a.Record()
	a.from(u, unlisted, request(1, 60))
	a.wantDrops(dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropPeerNotAdmitted, Count: 1})
	if sent := a.Sent(); len(sent) > 0 {
		t.Errorf("an unlisted sender is answered: %+v", sent)
	}
	a.from(u, addrB, request(2, 1464))
	var sent []netiotest.Sent
	eventually(t, "an answer", func() bool { sent = append(sent, a.Sent()...); return len(sent) > 0 })
	if s := sent[0]; s.To != netip.AddrPortFrom(addrB, testPort) || len(s.Payloads) != 1 || !s.DF || s.TTL != 64 {
		t.Fatalf("answered by %+v", s)
	}
	payload := sent[0].Payloads[0]
	p, ok := encap.ParseProbe(payload[encap.VXLANHeaderLen:])
	if h, err := encap.ParseVXLAN(payload); err != nil || h.VNI != testVNI || !ok || !p.Reply || p.ID != 2 || p.Len != 1464 ||
		len(payload) != encap.VXLANHeaderLen+encap.ProbeLen {
		t.Errorf("the answer: %+v in %x", p, payload)
	}
	if src := encap.MACFrom(payload[encap.VXLANHeaderLen+encap.MACLen:]); src != tapMAC(addrA) {
		t.Errorf("the answer is from %s", src)
	}

	// An unexpected reply, and what is none, changes nothing.
	reply := make([]byte, encap.ProbeLen)
	encap.PutProbe(reply, tapMAC(addrB), encap.Probe{Reply: true, ID: 3, Len: 60})
	a.from(u, addrB, reply)
	lying := request(4, 100)
	binary.BigEndian.PutUint32(lying[30:], 1464)
	a.from(u, addrB, lying)
	a.from(u, addrB, request(5, 100)[:30])
	a.wantDrops(
		dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropPeerNotAdmitted, Count: 1},
		dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropBridgeControl, Count: 2})
	if sent := a.Sent(); len(sent) > 0 {
		t.Errorf("answered: %+v", sent)
	}

	// Too many: all are counted, the bound is kept.
	const many = 5000
	for i := range many {
		a.from(u, addrB, request(uint64(100+i), 60))
	}
	limited := func() (count uint64) {
		for _, d := range a.drops() {
			if d.Reason == dataplane.DropProbeLimited {
				count = d.Count
			}
		}
		return count
	}
	begin := time.Now()
	eventually(t, "all are counted", func() bool { return a.blue().ProbesReceived+limited() == many+2 })
	answers := 0
	eventually(t, "all are answered or refused", func() bool {
		answers += len(a.Sent())
		s := a.blue()
		return uint64(answers)+s.ProbesRefused+2 == s.ProbesReceived // but the reply, and what was answered before
	})
	if most := int(time.Since(begin).Seconds()+2) * dataplane.RepliesPerSecond; answers > most || answers == 0 {
		t.Errorf("%d answers, at most %d are due", answers, most)
	}
	if entries, err := a.FDB(""); err != nil || slices.ContainsFunc(entries, func(e dataplane.FDBEntry) bool { return e.Origin == "learned" }) {
		t.Errorf("learned: %+v, %v", entries, err)
	}
	silent(t, a.TAP("vx0"))
}

// TestProbesWithoutProber takes out nothing of what the thread puts by: what there is
// no room for is dropped by name, and frames go on.
func TestProbesWithoutProber(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	var frames [][]byte
	for range dataplane.ProbeBoxSize + 5 {
		frames = append(frames, request(1, 60))
	}
	frames = append(frames, helloBack.Data)
	if got := r.inAll(frames...); len(got) != 1 || !bytes.Equal(got[0], helloBack.Data) {
		t.Errorf("%d frames arrived", len(got))
	}
	s := r.Engine.Stats()
	if n := r.dropped(dataplane.DropProbeLimited); n != 5 || s.Networks[0].ProbesReceived != dataplane.ProbeBoxSize {
		t.Errorf("%d dropped: %+v", n, s)
	}
	if problem := unbalanced(s); problem != "" {
		t.Error(problem)
	}
}

// TestProbesBesideTraffic asks while frames cross, of several workers, and has
// every frame counted.
func TestProbesBesideTraffic(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a, b := bareHost(t, u, addrA, 3), bareHost(t, u, addrB, 2)
	a.apply(probing(testNetwork(addrA, addrB)), renamed(probing(testNetwork(addrA, addrB)), "red", "vx1", 101))
	b.apply(probing(testNetwork(addrB, addrA)), renamed(probing(testNetwork(addrB, addrA)), "red", "vx1", 101))
	tapA, tapB := a.TAP("vx0"), b.TAP("vx0")
	rounds := 0
	eventually(t, "both are alive", func() bool {
		rounds++
		tapA.Inject(hello)
		wantFrames(t, tapB, hello)
		p, q := a.probed(addrB), b.probed(addrA)
		return p != nil && p.VerifiedMTU == 1500 && q != nil && q.VerifiedMTU == 1500
	})
	if n := b.blue(); n.RxPackets != uint64(rounds) || n.ProbesReceived == 0 {
		t.Errorf("%d frames: %+v", rounds, n)
	}
	b.wantDrops()
}

func TestProbeInterval(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 1)
	n := testNetwork(addrA, addrB)
	for _, probe := range []time.Duration{-1, 1, dataplane.MinProbe - 1} {
		n.Probe = probe
		if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{n}}); err == nil {
			t.Errorf("probes every %v are taken", probe)
		}
	}
}
