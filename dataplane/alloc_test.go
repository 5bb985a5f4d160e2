package dataplane_test

import (
	"bytes"
	"net/netip"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// eightPeers is the test network with eight peers to flood to.
func eightPeers() dataplane.Network {
	n := testNetwork(addrA)
	for i := range 8 {
		n.Peers = append(n.Peers, dataplane.Peer{Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), Flood: true})
	}
	return n
}

func TestOutboundAllocatesNothing(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
	tcp6, udp := tcp, flowSpec{src: macA, dst: macB, udp: true}
	tcp6.v6 = true
	many := func(f ...netiotest.Frame) (all []netiotest.Frame) {
		for len(all) < dataplane.OutFrames {
			all = append(all, f...)
		}
		return all[:dataplane.OutFrames]
	}
	lying := tcp.gsoPacket(t, pattern(5000), 1000)
	lying.VNet.CsumStart = 1
	to := plainFrame
	for name, c := range map[string]struct {
		frames      []netiotest.Frame
		flood       bool
		unsegmented func(*netio.Unsegmented) bool

		suppress bool
	}{
		"small frames":            {frames: many(udp.partial(t, pattern(22)))},
		"small frames, two flows": {frames: many(udp.partial(t, pattern(22)), tcp.partial(t, nil))},
		"frames that are not IP":  {frames: many(hello, tagged(hello, 7))},
		"GSO packets":             {frames: many(tcp.gsoPacket(t, pattern(60000), 1386))},
		"GSO packets over IPv6":   {frames: many(tcp6.gsoPacket(t, pattern(60000), 1366))},
		"GSO packets of UDP":      {frames: many(udp.gsoPacket(t, pattern(60000), 1400))},
		"a full list of parts": {frames: many(tcp.gsoPacket(t, pattern(512*100), 100),
			tcp.gsoPacket(t, pattern(512*100), 100), udp.partial(t, pattern(22)))},
		"small segments":          {frames: many(tcp.gsoPacket(t, pattern(60000), 88))},
		"drops":                   {frames: many(lying, to(macB, groupMAC, "x"), to(bridgeMAC, macA, "x"), to(macB, macA, longText))},
		"flood":                   {frames: many(udp.partial(t, pattern(22))), flood: true},
		"flood of GSO packets":    {frames: many(tcp.gsoPacket(t, pattern(60000), 1386)), flood: true},
		"GSO packets unsegmented": {frames: many(tcp.gsoPacket(t, pattern(60000), 1386)), unsegmented: func(*netio.Unsegmented) bool { return true }},
		"questions passed":        {frames: many(asks(encap.BroadcastMAC, ipNobody), solicits(ip6Nobody)), flood: true, suppress: true},
		"questions answered":      {frames: many(asks(macB, ipKnown), solicits(ip6Known)), suppress: true},
		"GSO packets cut at last": {frames: many(tcp.gsoPacket(t, pattern(60000), 1386)), unsegmented: func(*netio.Unsegmented) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			n := eightPeers()
			if n.Suppress = c.suppress; n.Suppress {
				n.Neighbors = suppressing().Neighbors
			}
			r, e := nullPaths(t, n)
			e.frames, e.onWhole = c.frames, c.unsegmented
			if !c.flood {
				r.Learn(macB, 3)
			}
			if n := testing.AllocsPerRun(50, func() {
				if err := r.Outbound(); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("a batch of %d frames allocates %v times", len(c.frames), n)
			}
			s := r.Engine.Stats()
			answered := c.suppress && !c.flood
			if moved := s.Networks[0].TxPackets; (moved == 0) != (name == "drops" || answered) || (s.Networks[0].Suppressed > 0) != answered || (s.Networks[0].Flooded > 0) != c.flood {
				t.Errorf("the batches were others than meant: %+v", s)
			}
		})
	}
}

func TestInboundAllocatesNothing(t *testing.T) {
	tcp := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK, tcpOptions: 12}
	udp := flowSpec{src: macB, dst: macA, udp: true}
	peer := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}) }
	many := func(ds ...netio.Datagram) (all []netio.Datagram) {
		for len(all) < dataplane.InDatagrams {
			all = append(all, ds...)
		}
		return all[:dataplane.InDatagrams]
	}
	from := func(i int, frame []byte) netio.Datagram {
		return netio.Datagram{From: peer(i), Data: vxlan(testVNI, frame)}
	}
	var run []byte
	segments := tcp.segments(t, pattern(40*1386), 1386)
	for _, s := range segments {
		run = append(run, vxlan(testVNI, s)...)
	}
	run40 := netio.Datagram{From: peer(1), Data: run, SegSize: 8 + len(segments[0])}
	unknown := netio.Datagram{From: peer(0), Data: vxlan(testVNI+1, helloBack.Data)}
	marked := from(0, flowSpec{src: macB, dst: macA, udp: true, tos: encap.ECT0}.complete(t, pattern(22)))
	marked.TOS = encap.CE
	for name, c := range map[string]struct {
		datagrams []netio.Datagram
		plain     bool
		noGSO     bool
	}{
		"small frames":            {datagrams: many(from(0, udp.complete(t, pattern(22))))},
		"frames that are not IP":  {datagrams: many(from(0, helloBack.Data))},
		"probes":                  {datagrams: many(from(0, helloBack.Data), from(0, request(1, 60)))},
		"frames from all peers":   {datagrams: many(from(0, helloBack.Data), from(5, plainFrame(macA, macC, "x").Data))},
		"a MAC that moves":        {datagrams: many(from(0, helloBack.Data), from(5, helloBack.Data))},
		"congestion marks":        {datagrams: many(marked)},
		"runs":                    {datagrams: many(run40)},
		"unfinished GSO packets":  {datagrams: many(from(2, tcp.partial(t, pattern(60000)).Data))},
		"the same on a plain TAP": {datagrams: many(from(2, tcp.partial(t, pattern(60000)).Data)), plain: true},
		"refused GSO packets":     {datagrams: many(run40, from(2, tcp.partial(t, pattern(60000)).Data)), noGSO: true},
		"small segments on a plain TAP": {plain: true, datagrams: many(netio.Datagram{
			From: peer(2), Data: vxlan(testVNI, udp.partial(t, pattern(60000)).Data), SegSize: 88})},
		"drops": {datagrams: many(unknown, from(9, helloBack.Data), from(0, plainFrame(macA, 0, "x").Data),
			netio.Datagram{From: peer(0), Data: []byte("short")})},
	} {
		t.Run(name, func(t *testing.T) {
			n := eightPeers()
			n.Plain = c.plain
			r, e := nullPaths(t, n)
			e.receives(c.datagrams...)
			e.noGSO = c.noGSO
			if n := testing.AllocsPerRun(50, func() {
				r.GiveGSO()
				if err := r.Inbound(); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("a batch of %d datagrams allocates %v times", len(c.datagrams), n)
			}
			if s := r.Engine.Stats(); (s.Networks[0].RxPackets == 0) != (name == "drops") {
				t.Errorf("the batches were others than meant: %+v", s)
			}
		})
	}
}

// TestOutboundCopiesNoPayload wants every payload byte to be handed to the wire
// where the device put it.
func TestOutboundCopiesNoPayload(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	const size = 1386
	super := tcp.gsoPacket(t, pattern(30*size+5), size)
	small := flowSpec{src: macA, dst: macB, udp: true}.partial(t, pattern(100))
	for name, targets := range map[string]int{"unicast": 1, "flood": 8} {
		t.Run(name, func(t *testing.T) {
			r, e := nullPaths(t, eightPeers())
			if targets == 1 {
				r.Learn(macB, 0)
			}
			e.frames = []netiotest.Frame{hello, super, small, hello}
			at, payloads := make(map[int]int), 0
			e.onSend = func(s []netio.Send) {
				for _, one := range s {
					for _, p := range one.Parts {
						i := e.slotOf(p)
						switch {
						case i < 0 && len(p) != encap.VXLANHeaderLen+tcp.payloadAt():
							t.Errorf("%d bytes that are not in the arena are no headers", len(p))
						case i == 1:
							segment := at[i] % 31
							if want := tcp.payloadAt() + segment*size; !startsAt(p, e.slots[i], want) || len(p) != min(size, len(e.slots[i])-want) {
								t.Errorf("segment %d is not where it was read", segment)
							}
						case i >= 0:
							if !startsAt(p, e.slots[i], -encap.VXLANHeaderLen) || len(p) != encap.VXLANHeaderLen+len(e.slots[i]) {
								t.Errorf("frame %d is not where it was read", i)
							}
						}
						if i >= 0 {
							at[i]++
							payloads++
						}
					}
				}
			}
			if err := r.Outbound(); err != nil {
				t.Fatal(err)
			}
			if want := targets * (31 + 3); payloads != want {
				t.Errorf("%d payloads were sent, want %d", payloads, want)
			}
			if got := e.slots[1][tcp.payloadAt():]; !bytes.Equal(got, super.Data[tcp.payloadAt():]) {
				t.Error("the GSO packet's payload was changed")
			}
		})
	}
}

// TestUnsegmentedIsNotCopied wants a GSO packet that leaves unsegmented to be
// handed over where the device put it, all of it and as it was.
func TestUnsegmentedIsNotCopied(t *testing.T) {
	for _, udp := range []bool{false, true} {
		s := flowSpec{src: macA, dst: macB, udp: udp, tcpFlags: encap.TCPACK}
		super := s.gsoPacket(t, pattern(30*1386+5), 1386)
		for name, targets := range map[string]int{"unicast": 1, "flood": 8} {
			r, e := nullPaths(t, eightPeers())
			if targets == 1 {
				r.Learn(macB, 0)
			}
			e.frames = []netiotest.Frame{hello, super}
			taken := 0
			e.onWhole = func(w *netio.Unsegmented) bool {
				taken++
				if !startsAt(w.Data, e.slots[1], 0) || len(w.Data) != len(super.Data) || !bytes.Equal(w.Data, super.Data) {
					t.Errorf("%s: %d bytes, not the %d where they were read", name, len(w.Data), len(super.Data))
				}
				return true
			}
			if err := r.Outbound(); err != nil {
				t.Fatal(err)
			}
			if taken != targets {
				t.Errorf("%s: %d were taken unsegmented, want %d", name, taken, targets)
			}
		}
	}
}

// slotOf is the frame that p is, or is part of; -1 for none.
func (e *null) slotOf(p []byte) int {
	for i, s := range e.slots {
		for _, off := range []int{-encap.VXLANHeaderLen, 0} {
			if startsAt(p, s, off) {
				return i
			}
		}
		for off := range s {
			if startsAt(p, s, off) {
				return i
			}
		}
	}
	return -1
}

// TestInboundCopiesNoPayload wants every payload byte to be handed to the
// device where the wire put it, also from frames that were joined.
func TestInboundCopiesNoPayload(t *testing.T) {
	tcp := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	segments := tcp.segments(t, pattern(4*1000), 1000)
	for _, plain := range []bool{false, true} {
		n := testNetwork(addrA, addrB)
		n.Plain = plain
		r, e := nullPaths(t, n)
		var ds []netio.Datagram
		for _, frame := range [][]byte{segments[0], segments[1], segments[2], segments[3], helloBack.Data, tcp.partial(t, pattern(20000)).Data} {
			ds = append(ds, netio.Datagram{From: addrB, Data: vxlan(testVNI, frame)})
		}
		e.receives(ds...)
		inPlace, elsewhere := 0, 0
		e.onWrite = func(frames []netio.OutFrame) {
			for _, f := range frames {
				for _, p := range f.Parts {
					if e.received(p) {
						inPlace += len(p)
					} else {
						elsewhere += len(p)
					}
				}
			}
		}
		if err := r.Inbound(); err != nil {
			t.Fatal(err)
		}
		headers, cuts := 0, 0
		if plain { // the GSO packet is cut here, by headers
			cuts = (20000 + 1409) / 1410
			headers = cuts * tcp.payloadAt()
		}
		if elsewhere != headers {
			t.Errorf("plain=%t: %d bytes were written from elsewhere, want the %d of %d headers", plain, elsewhere, headers, cuts)
		}
		if least := 4*1000 + 20000 + len(helloBack.Data); inPlace < least {
			t.Errorf("plain=%t: %d bytes were written where they were received, want %d", plain, inPlace, least)
		}
	}
}

// received reports whether p lies in a datagram's buffer.
func (e *null) received(p []byte) bool {
	for _, d := range e.datagrams {
		for off := range d.Data {
			if startsAt(p, d.Data, off) {
				return off+len(p) <= len(d.Data)
			}
		}
	}
	return false
}
