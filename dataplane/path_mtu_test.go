package dataplane_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

var addrA6, addrB6 = netip.MustParseAddr("2001:db8:0:1::a"), netip.MustParseAddr("2001:db8:0:1::b")

// tooBig is what the sender of frame is to get.
func tooBig(tb testing.TB, frame []byte, mtu encap.OverlayMTU) netiotest.Frame {
	tb.Helper()
	b := make([]byte, encap.ICMPErrorFrameLen)
	n := encap.PutTooBigFrame(b, frame, mtu)
	if n == 0 {
		tb.Fatal("such a frame is not answered")
	}
	return netiotest.Frame{Data: b[:n]}
}

// icmpMTU is the MTU that an answer names.
func icmpMTU(tb testing.TB, answer []byte) int {
	tb.Helper()
	t, ok := encap.FindTransport(answer)
	if !ok {
		tb.Fatalf("an answer that is no IP packet: %x", answer)
	}
	if t.V6 {
		return int(encap.ICMPv6(answer[t.L4:t.End]).MTU())
	}
	return int(encap.ICMPv4(answer[t.L4:t.End]).MTU())
}

// knownPath is what the counters say of the path to the peer.
func knownPath(e *dataplane.Engine, peer netip.Addr) encap.UnderlayMTU {
	for _, p := range e.Stats().Peers {
		if p.Peer == peer {
			return p.PathMTU
		}
	}
	return 0
}

// TestPathMTUIsTold: the first frame that does not fit the path is refused by
// the wire, every later one by what was learned of that, and each time its
// sender gets how much fits; what fits passes.
func TestPathMTUIsTold(t *testing.T) {
	for _, c := range []struct {
		name               string
		v6, innerV6        bool
		udp                bool
		tags               int
		super, unsegmented bool
		path               encap.UnderlayMTU
		mtu                int
	}{
		{name: "a frame", path: 1400, mtu: 1350},
		{name: "a frame of IPv6", innerV6: true, path: 1400, mtu: 1350},
		{name: "a frame over IPv6", v6: true, path: 1400, mtu: 1330},
		{name: "a tagged frame", tags: 1, path: 1400, mtu: 1346},
		{name: "a frame in two tags over IPv6", v6: true, tags: 2, path: 1400, mtu: 1322},
		{name: "a GSO packet", super: true, path: 1400, mtu: 1350},
		{name: "a GSO packet of IPv6", super: true, innerV6: true, path: 1400, mtu: 1350},
		{name: "a GSO packet of UDP", super: true, udp: true, path: 1400, mtu: 1350},
		{name: "a GSO packet for the uplink", super: true, unsegmented: true, path: 1400, mtu: 1350},
		{name: "the least path", path: 602, mtu: 552},
		{name: "the least path of IPv6", innerV6: true, path: 1330, mtu: 1280},
		{name: "the least path over IPv6", v6: true, path: 1280, mtu: 1210},
	} {
		t.Run(c.name, func(t *testing.T) {
			self, peer := addrA, addrB
			if c.v6 {
				self, peer = addrA6, addrB6
			}
			n := testNetwork(self, peer)
			r := newPathsAt(t, self, n)
			defer r.Close()
			r.Learn(macB, 0)
			r.backend.TakeUnsegmented(c.unsegmented)
			r.backend.SetPathMTU(peer, c.path)

			s := flowSpec{src: macA, dst: macB, v6: c.innerV6, udp: c.udp, tags: c.tags, tcpFlags: encap.TCPACK}
			f := s.partial(t, pattern(int(testMTU)-(s.payloadAt()-s.l3())))
			count := 1
			if c.super {
				size := int(testMTU) - (s.payloadAt() - s.l3())
				f, count = s.gsoPacket(t, pattern(5*size), size), 5
			}
			for i := range 3 {
				if sent := r.out(f); len(sent) != 0 {
					t.Fatalf("%d frames left", len(sent))
				}
				got := r.tap.Written()
				if len(got) != 1 {
					t.Fatalf("time %d: %d answers", i, len(got))
				}
				if got := icmpMTU(t, got[0].Data); got != c.mtu {
					t.Errorf("time %d: MTU %d, want %d", i, got, c.mtu)
				}
				eth, _ := encap.ParseEthernet(got[0].Data)
				if eth.Src() != macB || eth.Dst() != macA || eth.Tags() != c.tags {
					t.Errorf("the answer goes from %s to %s with %d tags", eth.Src(), eth.Dst(), eth.Tags())
				}
				if r.dropped(dataplane.DropTooBig) != uint64((i+1)*count) {
					t.Errorf("time %d: %d dropped", i, r.dropped(dataplane.DropTooBig))
				}
				r.backend.SetPathMTU(peer, 0) // the wire would take it from here on
			}
			if got := knownPath(r.Engine, peer); got != c.path {
				t.Errorf("path MTU %d, want %d", got, c.path)
			}
			if got := r.Engine.Stats().Networks[0].Answered; got != 3 {
				t.Errorf("%d answers counted", got)
			}
			// A frame that the sender makes of it arrives.
			fit := s.partial(t, pattern(c.mtu-(s.payloadAt()-s.l3())))
			if sent := r.out(fit); len(sent) != 1 || len(r.tap.Written()) != 0 {
				t.Errorf("%d frames of the right size left", len(sent))
			}
		})
	}
}

// TestOwnMTUIsTold: what is larger than the network's MTU is answered too.
func TestOwnMTUIsTold(t *testing.T) {
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	for name, f := range map[string]netiotest.Frame{
		"a frame":      s.partial(t, pattern(int(testMTU))),
		"a GSO packet": s.gsoPacket(t, pattern(5*int(testMTU)), int(testMTU)),
	} {
		t.Run(name, func(t *testing.T) {
			r := newPaths(t, testNetwork(addrA, addrB, addrC))
			defer r.Close()
			for _, known := range []bool{false, true} {
				if known {
					r.Learn(macB, 0)
				}
				r.out(f)
				got := r.tap.Written()
				if len(got) != 1 || icmpMTU(t, got[0].Data) != int(testMTU) {
					t.Errorf("known=%t: answers %+v", known, got)
				}
			}
			if knownPath(r.Engine, addrB) != 0 {
				t.Error("the path is blamed")
			}
		})
	}
}

// TestNotTold: a frame that does not fit the path is dropped without an answer.
func TestNotTold(t *testing.T) {
	whole := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	size := int(testMTU) - (whole.payloadAt() - whole.l3())
	group := whole
	group.dst = groupMAC
	for _, c := range []struct {
		name   string
		frame  netiotest.Frame
		peers  []netip.Addr
		learn  bool
		path   encap.UnderlayMTU
		change func(*dataplane.Network)
		drops  int  // a time
		passes bool // to the other peer
		known  bool // the path is known then
	}{
		{name: "no IP packet", frame: plainFrame(macB, macA, string(pattern(int(testMTU)))), learn: true, path: 1400, drops: 1, known: true},
		{name: "flooded", frame: whole.partial(t, pattern(size)), peers: []netip.Addr{addrC}, path: 1400, drops: 1, passes: true, known: true},
		{name: "a GSO packet flooded", frame: whole.gsoPacket(t, pattern(2*size), size), peers: []netip.Addr{addrC}, path: 1400, drops: 2, passes: true, known: true},
		{name: "to a group", frame: group.partial(t, pattern(size)), path: 1400, drops: 1, known: true},
		{name: "the network may be fragmented", frame: whole.partial(t, pattern(size)), learn: true, path: 1400, passes: true,
			change: func(n *dataplane.Network) { n.DF = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := testNetwork(addrA, append([]netip.Addr{addrB}, c.peers...)...)
			if c.change != nil {
				c.change(&n)
			}
			r := newPaths(t, n)
			defer r.Close()
			if c.learn {
				r.Learn(macB, 0)
			}
			r.backend.SetPathMTU(addrB, c.path)
			for i := range 2 {
				if sent := r.out(c.frame); (len(sent) > 0) != c.passes {
					t.Errorf("time %d: %d frames left", i, len(sent))
				}
				if got := r.tap.Written(); len(got) != 0 {
					t.Errorf("time %d: an answer: %x", i, got[0].Data)
				}
				if got := r.dropped(dataplane.DropTooBig); got != uint64((i+1)*c.drops) {
					t.Errorf("time %d: %d dropped", i, got)
				}
			}
			if got := knownPath(r.Engine, addrB); (got != 0) != c.known {
				t.Errorf("path MTU %d", got)
			}
		})
	}
}

// TestPathMTUIsForDF: a network that may be fragmented from now on is not kept
// by what was learned of a path.
func TestPathMTUIsForDF(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, n)
	b := newHost(t, u, addrB, testNetwork(addrB, addrA))
	f := netiotest.Frame{Data: flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}.complete(t, pattern(int(testMTU)-40))}
	a.SetPathMTU(addrB, 1400)
	a.TAP("vx0").Inject(f)
	a.TAP("vx0").Wait(1)
	n.DF = false
	a.apply(n)
	a.TAP("vx0").Inject(f)
	wantFrames(t, b.TAP("vx0"), f)
	silent(t, a.TAP("vx0"))
}

// TestFloodedToOneIsTold: with a single peer a flooded frame is as good as one
// whose place is known.
func TestFloodedToOneIsTold(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	r.backend.SetPathMTU(addrB, 1400)
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	f := s.partial(t, pattern(1400-20-20))
	for range 2 {
		r.out(f)
		got := r.tap.Written()
		if want := tooBig(t, finished(t, f), 1350); len(got) != 1 || !bytes.Equal(got[0].Data, want.Data) {
			t.Fatalf("answers %+v", got)
		}
	}
}

// TestAnswersAreBounded: a flood that does not listen gets a number of answers
// a second, and the answers that the TAP refuses are not counted.
func TestAnswersAreBounded(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	r.Learn(macB, 0)
	r.backend.SetPathMTU(addrB, 1400)
	s := flowSpec{src: macA, dst: macB, udp: true}
	f := s.partial(t, pattern(1400))
	start, got := time.Now(), 0
	for range 1000 {
		r.out(f)
		got += len(r.tap.Written())
	}
	seconds := int(time.Since(start)/time.Second) + 1
	if got < dataplane.AnswersPerSecond || got > seconds*dataplane.AnswersPerSecond {
		t.Errorf("%d answers to 1000 frames in %d s, want %d a second", got, seconds, dataplane.AnswersPerSecond)
	}
	if n := r.Engine.Stats().Networks[0].Answered; n != uint64(got) {
		t.Errorf("%d answers counted, %d written", n, got)
	}
	r.tap.RefuseWrites(unix.EIO)
	time.Sleep(1100 * time.Millisecond)
	r.out(f)
	if n := r.Engine.Stats().Networks[0].Answered; n != uint64(got) || r.tap.Refused() != 1 {
		t.Errorf("%d answers counted, %d written", n, got)
	}
}

// TestPathMTUFollows: the tick raises a path MTU as the underlay forgets it,
// and each change is reported once.
func TestPathMTUFollows(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB))
	b := newHost(t, u, addrB, testNetwork(addrB, addrA))
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	f := s.partial(t, pattern(int(testMTU)-40))
	event := func(mtu encap.UnderlayMTU) {
		t.Helper()
		select {
		case ev := <-a.Events():
			if want := (dataplane.Event{Kind: dataplane.PathMTUChanged, Network: "blue", Peer: addrB, PathMTU: mtu}); ev != want {
				t.Errorf("event %+v, want %+v", ev, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no event says that the path MTU is %d", mtu)
		}
	}
	for _, path := range []encap.UnderlayMTU{1400, 1300} {
		a.SetPathMTU(addrB, path)
		fit := s.partial(t, pattern(int(path)-50-40))
		a.TAP("vx0").Inject(f)
		errs := a.TAP("vx0").Wait(1)
		// A frame that was let through by the older one gets the newer.
		if got := icmpMTU(t, errs[0].Data); got != int(path)-50 && path == 1400 {
			t.Errorf("MTU %d", got)
		}
		event(path)
		a.TAP("vx0").Inject(fit)
		wantFrames(t, b.TAP("vx0"), netiotest.Frame{Data: finished(t, fit)})
	}
	a.SetPathMTU(addrB, 0)
	event(0)
	if got := knownPath(a.Engine, addrB); got != 0 {
		t.Errorf("path MTU %d", got)
	}
	a.TAP("vx0").Inject(f)
	wantFrames(t, b.TAP("vx0"), netiotest.Frame{Data: finished(t, f)})
	silent(t, a.TAP("vx0"))
	select {
	case ev := <-a.Events():
		t.Errorf("event %+v", ev)
	default:
	}
}

// finished is the frame with its checksum.
func finished(tb testing.TB, f netiotest.Frame) []byte {
	tb.Helper()
	segments := cut(tb, f)
	if len(segments) != 1 {
		tb.Fatal("a GSO packet")
	}
	return segments[0]
}

// TestPathMTUAllocatesNothing, neither what it keeps from leaving nor what
// leaves beside it.
func TestPathMTUAllocatesNothing(t *testing.T) {
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	for name, f := range map[string]netiotest.Frame{
		"too long": s.gsoPacket(t, pattern(5*1400), 1400),
		"fits":     s.gsoPacket(t, pattern(5*1200), 1200),
	} {
		t.Run(name, func(t *testing.T) {
			r, e := nullPaths(t, eightPeers())
			r.Learn(macB, 3)
			e.path, e.frames = 1400, []netiotest.Frame{f, f, f}
			e.onSend = func(sends []netio.Send) {
				for i := range sends {
					if sends[i].SegSize > 1350+14+8 {
						sends[i].Errno, sends[i].Refused = unix.EMSGSIZE, 5
					}
				}
			}
			e.frames = append(e.frames, s.gsoPacket(t, pattern(5*1400), 1400)) // the path is known from the first batch on
			if n := testing.AllocsPerRun(50, func() {
				if err := r.Outbound(); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("a batch allocates %v times", n)
			}
			if got := knownPath(r.Engine, addr(3)); got != 1400 {
				t.Errorf("path MTU %d", got)
			}
		})
	}
}

// addr is the underlay address of the i-th of eightPeers.
func addr(i int) netip.Addr { return eightPeers().Peers[i].Address }

// TestBoundOfAsking: the wire is asked for a path MTU only so often when that
// does not help.
func TestBoundOfAsking(t *testing.T) {
	r, e := nullPaths(t, eightPeers())
	r.Learn(macB, 3)
	e.frames = []netiotest.Frame{flowSpec{src: macA, dst: macB, udp: true}.partial(t, pattern(100))}
	e.onSend = func(sends []netio.Send) {
		for i := range sends {
			sends[i].Errno, sends[i].Refused = unix.EMSGSIZE, 1
		}
	}
	start := time.Now()
	for range 1000 {
		if err := r.Outbound(); err != nil {
			t.Fatal(err)
		}
	}
	seconds := int(time.Since(start)/time.Second) + 1
	if asked := e.asked; asked < dataplane.AnswersPerSecond || asked > seconds*dataplane.AnswersPerSecond {
		t.Errorf("asked %d times in %d s", asked, seconds)
	}
}
