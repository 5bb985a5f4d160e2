package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// mirror opens one that is closed with the test.
func mirror(tb testing.TB, e *dataplane.Engine, s dataplane.MirrorSpec) *dataplane.Mirror {
	tb.Helper()
	m, err := e.Mirror(s)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Close)
	return m
}

// kept copies what a record borrows.
func kept(rs []dataplane.Record) []dataplane.Record {
	for i := range rs {
		rs[i].Outer, rs[i].Frame = bytes.Clone(rs[i].Outer), bytes.Clone(rs[i].Frame)
	}
	return rs
}

// awaits reads the mirror until it has shown n frames, and once more.
func awaits(tb testing.TB, m *dataplane.Mirror, n int) (all []dataplane.Record) {
	tb.Helper()
	read := func() {
		more, lost := m.Read(nil)
		if lost > 0 {
			tb.Fatalf("%d frames were lost", lost)
		}
		all = append(all, kept(more)...)
	}
	eventually(tb, fmt.Sprintf("%d frames are shown", n), func() bool { read(); return len(all) >= n })
	time.Sleep(5 * time.Millisecond)
	read()
	if len(all) != n {
		tb.Fatalf("%d frames are shown, want %d: %v", len(all), n, lines(all))
	}
	return all
}

// line prints a record but for its time and bytes.
func line(r dataplane.Record) string {
	s := fmt.Sprintf("%q %s %s %s", r.Network, r.Point, r.Direction, r.Kind)
	if r.Peer.IsValid() {
		s += " " + r.Peer.String()
	}
	if r.Point == dataplane.PointDropped {
		s += " " + r.Drop.String()
	}
	if r.Segments > 0 {
		s += fmt.Sprintf(" %d×%d", r.Segments, r.SegmentSize)
	}
	for word, is := range map[string]bool{"unfinished": r.Unfinished, "answer": r.Answer} {
		if is {
			s += " " + word
		}
	}
	return s
}

func lines(rs []dataplane.Record) (out []string) {
	for _, r := range rs {
		out = append(out, line(r))
	}
	return out
}

func wantLines(tb testing.TB, rs []dataplane.Record, want ...string) {
	tb.Helper()
	if got := lines(rs); !slices.Equal(got, want) {
		tb.Errorf("shown is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// outer4 is an outer header of IPv4, UDP and VXLAN as it must read.
func outer4(tb testing.TB, b []byte, src, dst netip.Addr, source uint16, payload int) {
	tb.Helper()
	ip, err := encap.ParseIPv4(append(bytes.Clone(b), make([]byte, payload)...))
	if err != nil || ip.Src() != src || ip.Dst() != dst || ip.Protocol() != encap.ProtoUDP ||
		ip.TotalLen() != len(b)+payload || slowSum(b[:20]) != 0xffff {
		tb.Errorf("outer IPv4 header % x: %v", b, err)
		return
	}
	udp, err := encap.ParseUDP(ip.Payload())
	if err != nil || udp.SrcPort() != source || udp.DstPort() != testPort || udp.Length() != 16+payload {
		tb.Errorf("outer UDP header % x: %v", b[20:], err)
		return
	}
	if h, err := encap.ParseVXLAN(udp.Payload()); err != nil || h.VNI != testVNI {
		tb.Errorf("VXLAN header % x: %v", udp.Payload()[:8], err)
	}
}

// leavesFrom is the source port by which the frame of a record leaves.
func leavesFrom(tb testing.TB, h *host, r dataplane.Record) uint16 {
	tb.Helper()
	tr, isIP := encap.FindTransport(r.Frame)
	if isIP {
		return h.SourcePort(tr.FlowHash(r.Frame), true)
	}
	return h.SourcePort(encap.FlowHash(r.Frame), true)
}

func TestMirrorShowsThePath(t *testing.T) {
	u, a, b := newPair(t)
	atA, atB := mirror(t, a.Engine, dataplane.MirrorSpec{}), mirror(t, b.Engine, dataplane.MirrorSpec{Network: "blue"})
	before := time.Now().Add(-time.Second)
	a.TAP("vx0").Inject(hello)
	wantFrames(t, b.TAP("vx0"), hello)
	out, in := awaits(t, atA, 2), awaits(t, atB, 2)
	wantLines(t, out, `"blue" tap-in outbound vxlan`, `"blue" wire-out outbound vxlan 192.0.2.2`)
	wantLines(t, in, `"blue" wire-in inbound vxlan 192.0.2.1`, `"blue" tap-out inbound vxlan 192.0.2.1`)
	for _, r := range slices.Concat(out, in) {
		if !bytes.Equal(r.Frame, hello.Data) || r.Length != len(hello.Data) || r.VNI != testVNI {
			t.Errorf("%s: %d bytes of %d: % x", line(r), len(r.Frame), r.Length, r.Frame)
		}
		if r.Time.Before(before) || time.Since(r.Time) < 0 {
			t.Errorf("%s: at %v", line(r), r.Time)
		}
		if onWire := r.Point == dataplane.PointWireOut || r.Point == dataplane.PointWireIn; !onWire {
			if r.Outer != nil {
				t.Errorf("%s has an outer header: % x", line(r), r.Outer)
			}
			continue
		}
		source := uint16(0) // a socket in memory does not know
		if r.Direction == dataplane.Outbound {
			source = leavesFrom(t, a, r)
		}
		outer4(t, r.Outer, addrA, addrB, source, len(hello.Data))
	}
	// What is known of a received packet is recorded.
	b.datagram(u, netio.Datagram{From: addrA, FromPort: 50123, TOS: 0x20, Data: vxlan(testVNI, hello.Data)})
	r := awaits(t, atB, 2)[0]
	outer4(t, r.Outer, addrA, addrB, 50123, len(hello.Data))
	if r.Outer[1] != 0x20 {
		t.Errorf("outer TOS %#x", r.Outer[1])
	}
}

func TestMirrorShowsDrops(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB, addrC))
	m := mirror(t, a.Engine, dataplane.MirrorSpec{Points: dataplane.PointSet(0).With(dataplane.PointDropped)})
	tap := a.TAP("vx0")

	bad := plainFrame(macB, groupMAC, "never")
	tap.Inject(bad)
	rs := awaits(t, m, 1)
	wantLines(t, rs, `"blue" dropped outbound vxlan mac_invalid_source`)
	if rs[0].Outer != nil || !bytes.Equal(rs[0].Frame, bad.Data) {
		t.Errorf("% x, % x", rs[0].Outer, rs[0].Frame)
	}
	// Refused by the wire: a copy for each peer.
	a.RefuseSends(unix.EPERM, 1)
	tap.Inject(hello)
	rs = awaits(t, m, 2)
	wantLines(t, rs, `"blue" dropped outbound vxlan 192.0.2.2 wire_refused`, `"blue" dropped outbound vxlan 192.0.2.3 wire_refused`)
	if !bytes.Equal(rs[1].Frame, hello.Data) {
		t.Errorf("the frame is % x", rs[1].Frame)
	}
	a.RefuseSends(0, 0)
	// By the TAP.
	tap.RefuseWrites(unix.EIO)
	a.from(u, addrB, helloBack.Data)
	rs = awaits(t, m, 1)
	wantLines(t, rs, `"blue" dropped inbound vxlan 192.0.2.2 tap_down`)
	outer4(t, rs[0].Outer, addrB, addrA, 0, len(helloBack.Data))
	// Unlisted senders: those that name a network, those that do not, and noise.
	a.datagram(u, netio.Datagram{From: unlisted, FromPort: 40000, Data: vxlan(testVNI, helloBack.Data)})
	rs = awaits(t, m, 1)
	wantLines(t, rs, `"blue" dropped inbound vxlan 203.0.113.9 peer_not_admitted`)
	outer4(t, rs[0].Outer, unlisted, addrA, 40000, len(helloBack.Data))
	a.datagram(u, netio.Datagram{From: unlisted, Data: vxlan(testVNI+1, helloBack.Data)})
	a.datagram(u, netio.Datagram{From: unlisted, Data: []byte("no"), FromPort: 7})
	a.datagram(u, netio.Datagram{From: unlisted, Data: make([]byte, 40)})
	rs = awaits(t, m, 3)
	wantLines(t, rs, `"" dropped inbound vxlan 203.0.113.9 vxlan_vni_not_found`,
		`"" dropped inbound vxlan 203.0.113.9 too_short`, `"" dropped inbound vxlan 203.0.113.9 vxlan_invalid_hdr`)
	if got := slices.Concat(rs[1].Outer[28:], rs[1].Frame); string(got) != "no" || binary.BigEndian.Uint16(rs[1].Outer[24:]) != 10 {
		t.Errorf("noise is shown as % x, % x", rs[1].Outer, rs[1].Frame)
	}
	if len(rs[2].Outer) != 36 || len(rs[2].Frame) != 32 || rs[2].Length != 32 {
		t.Errorf("noise is shown as % x, % x", rs[2].Outer, rs[2].Frame)
	}
}

// What a path does not take is shown for its peer, and the answer where it goes.
func TestMirrorShowsAnswers(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.Suppress, n.Neighbors = true, suppressing().Neighbors
	r, e := nullPaths(t, n)
	m := mirror(t, r.Engine, dataplane.MirrorSpec{})
	r.Learn(macB, 0)
	e.frames = []netiotest.Frame{asks(macB, ipKnown)}
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	rs := awaits(t, m, 2)
	wantLines(t, rs, `"blue" tap-in outbound vxlan`, `"blue" tap-out inbound vxlan answer`)
	if a, err := encap.ParseARP(rs[1].Frame[encap.EthernetHeaderLen:]); err != nil || a.Op() != encap.ARPReply {
		t.Errorf("the answer is % x", rs[1].Frame)
	}
	r.SetPathMTU(addrB, 1000)
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	e.frames = []netiotest.Frame{tcp.gsoPacket(t, pattern(4000), 1300)}
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	wantLines(t, awaits(t, m, 3), `"blue" tap-in outbound vxlan 4×1300 unfinished`,
		`"blue" dropped outbound vxlan 192.0.2.2 too_big 4×1300`, `"blue" tap-out inbound vxlan answer`)
}

// A GSO packet is shown as one where it is one, and as its segments where it was
// cut: those bytes that go out.
func TestMirrorShowsGSOPackets(t *testing.T) {
	for _, whole := range []bool{false, true} {
		u, a, b := newPair(t)
		a.TakeUnsegmented(whole)
		u.SetGRO(true)
		a.Record()
		atA, atB := mirror(t, a.Engine, dataplane.MirrorSpec{}), mirror(t, b.Engine, dataplane.MirrorSpec{})
		tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
		super := tcp.gsoPacket(t, pattern(3*1386+100), 1386)
		a.TAP("vx0").Inject(super)
		b.TAP("vx0").Wait(1)
		if whole {
			out := awaits(t, atA, 2)
			wantLines(t, out, `"blue" tap-in outbound vxlan 4×1386 unfinished`, `"blue" wire-out outbound vxlan 192.0.2.2 4×1386 unfinished`)
			outer4(t, out[1].Outer, addrA, addrB, leavesFrom(t, a, out[1]), len(super.Data))
			in := awaits(t, atB, 2)
			if in[0].Segments == 0 || in[1].Segments != 4 || !in[1].Unfinished {
				t.Errorf("shown is %v", lines(in))
			}
			continue
		}
		out := awaits(t, atA, 5)
		wantLines(t, out[:2], `"blue" tap-in outbound vxlan 4×1386 unfinished`, `"blue" wire-out outbound vxlan 192.0.2.2`)
		var sent [][]byte
		for _, s := range a.Sent() {
			sent = append(sent, s.Payloads...)
		}
		for i, r := range out[1:] {
			if !bytes.Equal(slices.Concat(r.Outer[28:], r.Frame), sent[i]) {
				t.Errorf("segment %d is not what was sent: % x", i, r.Frame)
			}
		}
		in := awaits(t, atB, 5)
		wantLines(t, in[3:], `"blue" wire-in inbound vxlan 192.0.2.1`, `"blue" tap-out inbound vxlan 192.0.2.1 4×1386 unfinished`)
	}
}

func TestMirrorOfTunnel(t *testing.T) {
	r := newTunnelPaths(t, testTunnel())
	m := mirror(t, r.Engine, dataplane.MirrorSpec{Network: "green"})
	all := mirror(t, r.Engine, dataplane.MirrorSpec{Points: dataplane.PointSet(0).With(dataplane.PointDropped)})
	udp := flowSpec{src: macA, dst: macB, udp: true}
	out := packet(udp.partial(t, pattern(100)))
	r.out(out)
	rs := awaits(t, m, 2)
	wantLines(t, rs, `"green" tap-in outbound ipip unfinished`, `"green" wire-out outbound ipip 192.0.2.2`)
	o := rs[1].Outer
	if len(o) != 20 || o[9] != encap.ProtoIPIP || slowSum(o) != 0xffff || int(binary.BigEndian.Uint16(o[2:])) != 20+rs[1].Length ||
		netip.AddrFrom4([4]byte(o[12:])) != addrA || netip.AddrFrom4([4]byte(o[16:])) != addrB {
		t.Errorf("outer header % x", o)
	}
	back := packet(netiotest.Frame{Data: flowSpec{src: macB, dst: macA, udp: true}.complete(t, pattern(30))}).Data
	r.in(fromB(back))
	wantLines(t, awaits(t, m, 2), `"green" wire-in inbound ipip 192.0.2.2`, `"green" tap-out inbound ipip 192.0.2.2`)
	r.in(netio.Datagram{From: unlisted, Data: back})
	rs = awaits(t, all, 1)
	wantLines(t, rs, `"" dropped inbound ipip 203.0.113.9 peer_not_admitted`)
	if len(rs[0].Outer) != 20 || !bytes.Equal(rs[0].Frame, back) {
		t.Errorf("% x, % x", rs[0].Outer, rs[0].Frame)
	}
}

// Over IPv6 the datagram's checksum is right, since it must not be zero.
func TestMirrorOuter6(t *testing.T) {
	a6, b6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, a6, testNetwork(a6, b6))
	points := dataplane.PointSet(0).With(dataplane.PointWireOut)
	m, short := mirror(t, a.Engine, dataplane.MirrorSpec{Points: points}), mirror(t, a.Engine, dataplane.MirrorSpec{Points: points, SnapLen: 10})
	a.TAP("vx0").Inject(hello)
	r := awaits(t, m, 1)[0]
	datagram := slices.Concat(r.Outer, r.Frame)
	ip, err := encap.ParseIPv6(datagram)
	if err != nil || ip.Src() != a6 || ip.Dst() != b6 || ip.PayloadLen() != len(datagram)-40 {
		t.Fatalf("outer header % x: %v", r.Outer, err)
	}
	sum := encap.PseudoSum6(ip.SrcBytes(), ip.DstBytes(), encap.ProtoUDP, uint32(len(datagram)-40))
	if encap.Fold(encap.Sum(datagram[40:], sum)) != 0xffff {
		t.Errorf("the UDP checksum is wrong: % x", r.Outer[40:])
	}
	// Cut short, it cannot be known.
	r = awaits(t, short, 1)[0]
	if len(r.Frame) != 10 || r.Length != len(hello.Data) || len(r.Outer) != 56 || binary.BigEndian.Uint16(r.Outer[46:]) != 0 {
		t.Errorf("%d bytes of %d behind % x", len(r.Frame), r.Length, r.Outer)
	}
}

func TestMirrorIsRefused(t *testing.T) {
	_, a, _ := newPair(t)
	for _, c := range []struct {
		spec dataplane.MirrorSpec
		want string
	}{
		{dataplane.MirrorSpec{Network: "green"}, `no network "green": name one of blue`},
		{dataplane.MirrorSpec{SnapLen: -1}, "snap length of 0 or more"},
		{dataplane.MirrorSpec{Points: 1 << 7}, "points that there are"},
	} {
		if _, err := a.Mirror(c.spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
	var open []*dataplane.Mirror
	for range dataplane.MaxMirrors {
		open = append(open, mirror(t, a.Engine, dataplane.MirrorSpec{}))
	}
	if _, err := a.Mirror(dataplane.MirrorSpec{}); err == nil || !strings.Contains(err.Error(), "4 captures and traces run already") {
		t.Errorf("one more: %v", err)
	}
	for range 2 { // all of them make room, a second time none does
		for _, m := range open {
			m.Close()
		}
	}
	for range dataplane.MaxMirrors {
		mirror(t, a.Engine, dataplane.MirrorSpec{})
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Mirror(dataplane.MirrorSpec{}); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("of a closed engine: %v", err)
	}
}

// What finds no room is counted, each frame once, and room comes back.
func TestMirrorOverflow(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	for name, fs := range map[string][]netiotest.Frame{
		"slots": {hello, plainFrame(macB, macA, "another")},
		"bytes": {tcp.gsoPacket(t, pattern(60000), 1386), tcp.gsoPacket(t, pattern(50001)[1:], 1386)},
	} {
		r, e := nullPaths(t, testNetwork(addrA, addrB))
		m := mirror(t, r.Engine, dataplane.MirrorSpec{Points: dataplane.PointSet(0).With(dataplane.PointTapIn)})
		r.Learn(macB, 0)
		e.frames = slices.Concat(fs, fs)
		shown, lost, rounds := 0, uint64(0), 5000
		for i := range rounds {
			if err := r.Outbound(); err != nil {
				t.Fatal(err)
			}
			if i%2500 == 2499 {
				for {
					rs, missed := m.Read(nil)
					for _, one := range rs {
						if !bytes.Equal(one.Frame, fs[0].Data) && !bytes.Equal(one.Frame, fs[1].Data) {
							t.Fatalf("%s: a frame was shown otherwise than it was", name)
						}
					}
					shown, lost = shown+len(rs), lost+missed
					if len(rs) == 0 {
						break
					}
				}
			}
		}
		if lost == 0 || shown+int(lost) != 4*rounds {
			t.Errorf("%s: %d shown and %d lost of %d", name, shown, lost, 4*rounds)
		}
	}
}

// What a mirror shows comes to what is counted, with any mix of frames and faults.
func TestMirrorAgreesWithCounters(t *testing.T) {
	u, a, b := newPair(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	u.SetFaults(netiotest.Faults{Seed: seed, Loss: 0.02, Duplicate: 0.02, Reorder: 0.05})
	random := rand.New(rand.NewPCG(seed, 0))
	m := mirror(t, a.Engine, dataplane.MirrorSpec{SnapLen: 64})
	shown := make(map[string]uint64)
	read := func() {
		rs, lost := m.Read(nil)
		if lost > 0 {
			t.Fatalf("%d lost", lost)
		}
		for _, r := range rs {
			key := r.Point.String()
			if r.Point == dataplane.PointDropped {
				key += fmt.Sprint(" ", r.Network, r.Direction, r.Drop)
			}
			shown[key] += uint64(max(r.Segments, 1))
		}
	}
	for range 500 {
		for _, h := range []*host{a, b} {
			f, _ := mixedFrame(t, random)
			h.TAP("vx0").Inject(f)
			a.from(u, unlisted, hello.Data)
		}
		read()
	}
	u.Release()
	// Counters of the path's end come before what is shown of it.
	want := func() map[string]uint64 {
		n := a.blue()
		w := map[string]uint64{"wire-out": n.TxPackets, "wire-in": n.RxOffered, "tap-out": n.RxPackets}
		for _, d := range a.drops() {
			w["dropped "+fmt.Sprint(d.Network, d.Direction, d.Reason)] = d.Count
		}
		return w
	}
	eventually(t, "all is shown", func() bool {
		read()
		for k, v := range want() {
			if shown[k] != v {
				return false
			}
		}
		return true
	})
	if shown["tap-in"] == 0 || shown["wire-out"] == 0 || shown["tap-out"] == 0 {
		t.Errorf("shown is %v", shown)
	}
}

// Mirrors come and go while frames travel, and readers read.
func TestMirrorsComeAndGo(t *testing.T) {
	_, a, b := newPair(t)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				m, err := a.Mirror(dataplane.MirrorSpec{Network: "blue"})
				if err != nil {
					t.Error(err)
					return
				}
				for range 20 {
					rs, _ := m.Read(nil)
					for _, r := range rs {
						if r.Point == dataplane.PointTapIn && !bytes.Equal(r.Frame, hello.Data) {
							t.Errorf("shown is % x", r.Frame)
						}
					}
					time.Sleep(100 * time.Microsecond)
				}
				m.Close()
			}
		})
	}
	for range 300 {
		a.TAP("vx0").Inject(hello, hello, hello, hello)
		b.TAP("vx0").Inject(helloBack)
		time.Sleep(time.Millisecond)
	}
	close(done)
	wg.Wait()
	b.TAP("vx0").Wait(1200)
}

// An open mirror costs no allocation, on the path or to read.
func TestMirrorAllocatesNothing(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	r, e := nullPaths(t, eightPeers())
	e.frames = []netiotest.Frame{hello, tcp.gsoPacket(t, pattern(60000), 1386), plainFrame(macB, groupMAC, "never")}
	var ds []netio.Datagram
	for _, f := range [][]byte{helloBack.Data, plainFrame(macA, 0, "x").Data} {
		ds = append(ds, netio.Datagram{From: netip.AddrFrom4([4]byte{192, 0, 2, 10}), Data: vxlan(testVNI, f)},
			netio.Datagram{From: unlisted, Data: vxlan(testVNI+1, f)})
	}
	e.receives(ds...)
	m := mirror(t, r.Engine, dataplane.MirrorSpec{})
	var records []dataplane.Record
	round := func() {
		if err := errors.Join(r.Outbound(), r.Inbound()); err != nil {
			t.Fatal(err)
		}
		records, _ = m.Read(records[:0])
	}
	for range 10 {
		round()
	}
	if len(records) < 50 {
		t.Fatalf("%d frames are shown", len(records))
	}
	if n := testing.AllocsPerRun(50, round); n != 0 {
		t.Errorf("a round with a mirror allocates %v times", n)
	}
}

func TestPointNames(t *testing.T) {
	for p := dataplane.PointTapIn; p <= dataplane.PointDropped; p++ {
		var q dataplane.Point
		text, _ := p.MarshalText()
		if err := q.UnmarshalText(text); err != nil || q != p {
			t.Errorf("%s reads as %v, %v", text, q, err)
		}
	}
	var p dataplane.Point
	if err := p.UnmarshalText([]byte("tapin")); err == nil || !strings.Contains(err.Error(), "want one of tap-in, wire-out, wire-in, tap-out, dropped") {
		t.Errorf("tapin: %v", err)
	}
}
