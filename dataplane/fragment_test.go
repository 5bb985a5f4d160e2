package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// reassemble is a slow receiver of IPv4 fragments that come in order (RFC 791
// section 3.2): it returns the frames whose network header stands at l3 as they were
// before they were fragmented. None may be longer than mtu behind l3.
func reassemble(tb rapid.TB, frames [][]byte, l3, mtu int) (whole [][]byte) {
	tb.Helper()
	var head, payload []byte
	for _, f := range frames {
		ip := f[l3:]
		headers, field := int(ip[0]&0xf)*4, binary.BigEndian.Uint16(ip[6:])
		at, more := int(field&0x1fff)*8, field&0x2000 != 0
		switch {
		case len(ip) > mtu:
			tb.Fatalf("a packet of %d bytes: want at most %d", len(ip), mtu)
		case int(binary.BigEndian.Uint16(ip[2:])) != len(ip):
			tb.Fatalf("a packet of %d bytes has a length of %d in its header", len(ip), binary.BigEndian.Uint16(ip[2:]))
		case slowSum(ip[:headers]) != 0xffff:
			tb.Fatalf("a fragment at %d has a wrong header checksum", at)
		case at != len(payload):
			tb.Fatalf("a fragment at %d follows %d bytes", at, len(payload))
		case more && (len(ip)-headers)%8 != 0:
			tb.Fatalf("a fragment of %d bytes that is not the last", len(ip)-headers)
		case at != 0 && !bytes.Equal(f[:l3], head[:l3]):
			tb.Fatalf("the fragment at %d has another Ethernet header", at)
		case at != 0 && (ip[1] != head[l3+1] || !bytes.Equal(ip[4:6], head[l3+4:l3+6]) || !bytes.Equal(ip[8:10], head[l3+8:l3+10]) || !bytes.Equal(ip[12:20], head[l3+12:l3+20])):
			tb.Fatalf("the fragment at %d is of another packet", at)
		}
		if at == 0 {
			head = slices.Clone(f[:l3+headers])
		}
		payload = append(payload, ip[headers:]...)
		if !more {
			binary.BigEndian.PutUint16(head[l3+2:], uint16(len(head)-l3+len(payload)))
			binary.BigEndian.PutUint16(head[l3+6:], 0)
			binary.BigEndian.PutUint16(head[l3+10:], 0)
			binary.BigEndian.PutUint16(head[l3+10:], ^slowSum(head[l3:]))
			whole = append(whole, append(head, payload...))
			head, payload = nil, nil
		}
	}
	if len(payload) != 0 {
		tb.Fatalf("the last fragment is missing")
	}
	return whole
}

// drawLong draws a flow of IPv4 without DF, and a frame or GSO packet of it with
// the frames that it stands for.
func drawLong(t *rapid.T, tb testing.TB) (f netiotest.Frame, want [][]byte, l3 int) {
	s := drawFlow(t)
	s.v6, s.frag = false, true
	most := int(testMTU) - (s.payloadAt() - s.l3())
	if rapid.Bool().Draw(t, "super") {
		size := rapid.IntRange(most-400, most).Draw(t, "size")
		payload := pattern(rapid.IntRange(size+1, min(20*size, 60000)).Draw(t, "bytes"))
		return s.gsoPacket(tb, payload, size), s.segments(tb, payload, size), s.l3()
	}
	payload := pattern(rapid.IntRange(most-900, most).Draw(t, "bytes"))
	return s.partial(tb, payload), [][]byte{s.complete(tb, payload)}, s.l3()
}

// TestFragments has packets without DF on a path that is narrower than the network:
// each arrives in fragments that fit, which come to what was sent.
func TestFragments(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		self, peer, outer := addrA, addrB, encap.VXLANOverhead4-encap.EthernetHeaderLen
		if v6 {
			self, peer, outer = addrA6, addrB6, encap.VXLANOverhead6-encap.EthernetHeaderLen
		}
		t.Run(peer.String(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				r := newPathsAt(t, self, testNetwork(self, peer))
				defer r.Close()
				r.Learn(macB, 0)
				least := 602 + 8 // two tags leave 8 bytes less
				if v6 {
					least = 1280
				}
				path := rapid.IntRange(least, 1499).Draw(rt, "path")
				r.backend.SetPathMTU(peer, encap.UnderlayMTU(path))
				learnPath(t, r)
				var fragmented uint64
				for range rapid.IntRange(1, 3).Draw(rt, "frames") {
					f, want, l3 := drawLong(rt, t)
					got := reassemble(rt, r.out(f), l3, path-outer-l3)
					if !slices.EqualFunc(got, want, bytes.Equal) {
						rt.Fatalf("%d packets arrive, which are not the %d that were sent", len(got), len(want))
					}
					for _, w := range want {
						if len(w)+outer > path {
							fragmented++
						}
					}
				}
				if n := r.Engine.Stats().Networks[0]; n.Fragmented != fragmented || n.Answered != 0 || r.dropped(dataplane.DropTooBig) != 0 {
					rt.Fatalf("%d fragmented, want %d; %d answers; drops %+v", n.Fragmented, fragmented, n.Answered, r.Engine.Stats().Drops)
				}
			})
		})
	}
}

// learnPath sends the frame that finds out how narrow the path to macB is: it
// arrives, without DF outside.
func learnPath(t testing.TB, r *paths) {
	t.Helper()
	s := flowSpec{src: macA, dst: macB, udp: true, frag: true}
	f := s.partial(t, pattern(int(testMTU)-(s.payloadAt()-s.l3())))
	r.tap.Inject(f)
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	sent := r.backend.Sent()
	path := int(r.backend.PathMTU(r.net.Peers[0].Address))
	narrow := len(f.Data)+encap.VXLANOverhead4-encap.EthernetHeaderLen > path
	if r.net.Peers[0].Address.Is6() {
		narrow = len(f.Data)+encap.VXLANOverhead6-encap.EthernetHeaderLen > path
	}
	if len(sent) != 1 || len(sent[0].Payloads) != 1 || sent[0].DF == narrow {
		t.Fatalf("the frame that finds out leaves as %+v", sent)
	}
}

// TestFragmentsOfATunnel is TestFragments for IP-in-IP.
func TestFragmentsOfATunnel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newTunnelPaths(t, testTunnel())
		path := rapid.IntRange(572, 1499).Draw(rt, "path")
		r.backend.SetPathMTU(addrB, encap.UnderlayMTU(path))
		long := packet(flowSpec{src: macA, dst: macB, frag: true}.partial(t, pattern(1440)))
		if sent := r.out(long); len(sent) != 1 || sent[0].DF || len(sent[0].Payloads) != 1 {
			rt.Fatalf("the packet that finds out leaves as %+v", sent)
		}
		f, want, l3 := drawLong(rt, t)
		if l3 != encap.EthernetHeaderLen {
			rt.Skip("a tunnel's packets have no tags")
		}
		var got [][]byte
		for _, s := range r.out(packet(f)) {
			if !s.DF {
				rt.Fatalf("sent without DF: %+v", s)
			}
			got = append(got, s.Payloads...)
		}
		got = reassemble(rt, got, 0, path-encap.IPIPOverhead)
		for i := range want {
			want[i] = want[i][encap.EthernetHeaderLen:]
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			rt.Fatalf("%d packets arrive, which are not the %d that were sent", len(got), len(want))
		}
		if problem := unbalanced(r.Engine.Stats()); problem != "" {
			rt.Fatal(problem)
		}
	})
}

// TestFragmentsKeepAWrongChecksum: a header whose checksum is wrong gets no right
// one by being fragmented.
func TestFragmentsKeepAWrongChecksum(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	r.Learn(macB, 0)
	r.backend.SetPathMTU(addrB, 1400)
	learnPath(t, r)
	s := flowSpec{src: macA, dst: macB, udp: true, frag: true}
	for bit := range 8 * encap.IPv4HeaderLen {
		f := s.complete(t, pattern(1400))
		at := s.l3() + bit/8
		switch bit / 8 {
		case 0, 2, 3, 6, 7:
			continue // version and lengths decide whether it is fragmented at all
		}
		f[at] ^= 1 << (bit % 8)
		sent := r.out(netiotest.Frame{Data: f})
		if len(sent) != 2 {
			t.Fatalf("bit %d: %d frames leave, want 2", bit, len(sent))
		}
		for i, one := range sent {
			if sum := slowSum(one[s.l3():s.l4()]); sum == 0xffff || sum != slowSum(f[s.l3():s.l4()]) {
				t.Errorf("bit %d: fragment %d sums up to %#x, the packet to %#x", bit, i, sum, slowSum(f[s.l3():s.l4()]))
			}
		}
	}
}

// TestFragmentsOptions: options without the copied flag go with the first fragment
// only, and a fragment may be fragmented.
func TestFragmentsOptions(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	r.Learn(macB, 0)
	r.backend.SetPathMTU(addrB, 1400)
	learnPath(t, r)
	s := flowSpec{src: macA, dst: macB, udp: true, frag: true, ipOptions: 16}
	f := s.complete(t, pattern(1400))
	ip := f[s.l3():]
	options := []byte{0x07, 7, 4, 1, 2, 3, 4, 0x94, 4, 0, 0, 1, 1, 1, 0, 0} // record route, router alert
	copy(ip[20:], options)
	binary.BigEndian.PutUint16(ip[6:], 0x2000|100) // more fragments, at 800
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip[:36]))

	sent := r.out(netiotest.Frame{Data: f})
	if len(sent) != 2 {
		t.Fatalf("%d frames leave, want 2", len(sent))
	}
	first, second := sent[0][s.l3():], sent[1][s.l3():]
	if !bytes.Equal(first[20:36], options) {
		t.Errorf("options of the first fragment: %x", first[20:36])
	}
	if want := []byte{1, 1, 1, 1, 1, 1, 1, 0x94, 4, 0, 0, 1, 1, 1, 0, 0}; !bytes.Equal(second[20:36], want) {
		t.Errorf("options of the second fragment: %x, want %x", second[20:36], want)
	}
	for i, want := range []uint16{0x2000 | 100, 0x2000 | uint16(100+(len(first)-36)/8)} {
		if got := binary.BigEndian.Uint16(sent[i][s.l3()+6:]); got != want {
			t.Errorf("fragment %d: flags and offset %#x, want %#x", i, got, want)
		}
	}
	if got := slices.Concat(first[36:], second[36:]); !bytes.Equal(got, ip[36:]) {
		t.Error("the payloads are not the packet's")
	}
}

// TestFragmentsForOneOfSeveral floods to peers of which one has a narrow path: the
// others get the frames whole, one of them after the fragments.
func TestFragmentsForOneOfSeveral(t *testing.T) {
	addrD := netip.MustParseAddr("192.0.2.4")
	r := newPaths(t, testNetwork(addrA, addrB, addrC, addrD))
	defer r.Close()
	r.backend.SetPathMTU(addrC, 1400)
	s := flowSpec{src: macA, dst: 0xffff_ffff_ffff, udp: true, frag: true}
	for _, count := range []int{1, 1, 40} {
		payload := pattern(count * 1400)
		want := s.segments(t, payload, 1400)
		r.tap.Inject(s.gsoPacket(t, payload, 1400))
		if err := r.Outbound(); err != nil {
			t.Fatal(err)
		}
		got := make(map[netip.Addr][][]byte)
		for _, one := range r.backend.Sent() {
			for _, p := range one.Payloads {
				got[one.To.Addr()] = append(got[one.To.Addr()], p[encap.VXLANHeaderLen:])
			}
		}
		for _, to := range []netip.Addr{addrB, addrC, addrD} {
			frames := got[to]
			if to == addrC {
				frames = reassemble(t, frames, s.l3(), 1450)
			}
			if !slices.EqualFunc(frames, want, bytes.Equal) {
				t.Errorf("of %d frames %d arrive at %s, or others", count, len(frames), to)
			}
		}
	}
	if n := r.Engine.Stats().Networks[0]; n.Fragmented != 41 || n.ClearedDF != 1 {
		t.Errorf("%d fragmented, %d without DF; want 41 and 1", n.Fragmented, n.ClearedDF)
	}
}

// TestPathBelowTheFloor: where a path is too narrow for what a sender goes down to,
// packets leave without DF, the first included, and no sender is notified.
func TestPathBelowTheFloor(t *testing.T) {
	for _, c := range []struct {
		name                      string
		v6, innerV6               bool
		udp, frag                 bool
		tags                      int
		super, unsegmented, known bool
		path                      encap.UnderlayMTU
	}{
		{name: "a locked route", path: 552},
		{name: "less than that", path: 300},
		{name: "the widest", path: 601},
		{name: "a tagged frame", tags: 1, path: 605},
		{name: "without DF inside", frag: true, path: 601},
		{name: "IPv6 inside", innerV6: true, path: 1329},
		{name: "IPv6 inside and outside", v6: true, innerV6: true, path: 1280},
		{name: "the widest over IPv6", v6: true, innerV6: true, path: 1349},
		{name: "a GSO packet", super: true, path: 552},
		{name: "a GSO packet of UDP", super: true, udp: true, path: 552},
		{name: "a GSO packet of IPv6", super: true, innerV6: true, path: 1300},
		{name: "a GSO packet for the uplink", super: true, unsegmented: true, path: 552},
	} {
		t.Run(c.name, func(t *testing.T) {
			self, peer := addrA, addrB
			if c.v6 {
				self, peer = addrA6, addrB6
			}
			r := newPathsAt(t, self, testNetwork(self, peer))
			defer r.Close()
			r.Learn(macB, 0)
			r.backend.TakeUnsegmented(c.unsegmented)
			r.backend.SetPathMTU(peer, c.path)
			s := flowSpec{src: macA, dst: macB, v6: c.innerV6, udp: c.udp, frag: c.frag, tags: c.tags, tcpFlags: encap.TCPACK}
			size := int(testMTU) - (s.payloadAt() - s.l3())
			f, want := s.partial(t, pattern(size)), [][]byte{s.complete(t, pattern(size))}
			if c.super {
				f, want = s.gsoPacket(t, pattern(5*size), size), s.segments(t, pattern(5*size), size)
			}
			for i := range 3 {
				r.tap.Inject(f)
				if err := r.Outbound(); err != nil {
					t.Fatal(err)
				}
				var got [][]byte
				for _, one := range r.backend.Sent() {
					if one.DF {
						t.Errorf("time %d: %d packets leave with DF", i, len(one.Payloads))
					}
					for _, p := range one.Payloads {
						got = append(got, p[encap.VXLANHeaderLen:])
					}
				}
				if !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("time %d: %d frames leave, want %d, the same", i, len(got), len(want))
				}
			}
			n := r.Engine.Stats().Networks[0]
			if n.ClearedDF != uint64(3*len(want)) || n.Answered != 0 || len(r.tap.Written()) != 0 || len(r.Engine.Stats().Drops) != 0 {
				t.Errorf("%d without DF, want %d; %d answers; drops %+v", n.ClearedDF, 3*len(want), n.Answered, r.Engine.Stats().Drops)
			}
			if got := knownPath(r.Engine, peer); got != c.path {
				t.Errorf("path MTU %d, want %d", got, c.path)
			}
			small := s.partial(t, pattern(64))
			if r.out(small); len(r.backend.Sent()) != 0 {
				t.Error("more than one send of one frame")
			}
		})
	}
}
