package dataplane_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// inAll takes the frames in by one batch and returns what reaches the
// containers.
func (r *paths) inAll(frames ...[]byte) [][]byte {
	r.tb.Helper()
	for _, f := range frames {
		r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), netio.Datagram{From: addrB, Data: vxlan(testVNI, f)})
	}
	for range (len(frames) + dataplane.InDatagrams - 1) / dataplane.InDatagrams {
		if err := r.Inbound(); err != nil {
			r.tb.Fatal(err)
		}
	}
	return cutAll(r.tb, r.tap.Written())
}

// TestGROIsTakenApart wants a run of datagrams to arrive as the frames it is
// made of, the last one shorter.
func TestGROIsTakenApart(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	want := s.segments(t, pattern(10*1000+7), 1000)
	var run []byte
	for _, f := range want {
		run = append(run, vxlan(testVNI, f)...)
	}
	got := cutAll(t, r.in(netio.Datagram{
		From: addrB, Data: run, SegSize: encap.VXLANHeaderLen + len(want[0]),
	}))
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d frames, want the %d of the run; drops %+v", len(got), len(want), r.Engine.Stats().Drops)
	}
	if n := r.Engine.Stats().Networks[0]; n.RxPackets != 11 {
		t.Errorf("%d frames counted, want 11", n.RxPackets)
	}
}

// TestLengthOfARun has the first inner packet of a run claim the bytes of the
// datagrams behind it: these may be of another network, so nothing of them reaches
// the packet's receiver.
func TestLengthOfARun(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, all := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%t, all of them=%t", v6, all), func(t *testing.T) {
				r := newPaths(t, testNetwork(addrA, addrB))
				defer r.Close()
				s := flowSpec{src: macB, dst: macA, v6: v6, udp: true}
				first, secret := s.complete(t, pattern(300)), bytes.Repeat([]byte("secret"), 50)
				second := s.complete(t, secret)
				claimed := first
				if all { // unfinished, as a GSO packet
					claimed = s.partial(t, append(pattern(300), vxlan(testVNI+1, second)...)).Data
				} else {
					claimed = s.complete(t, pattern(301))
				}
				d := netio.Datagram{From: addrB, SegSize: encap.VXLANHeaderLen + len(first)}
				d.Data = append(vxlan(testVNI, claimed[:len(first)]), vxlan(testVNI+1, second)...)
				for _, f := range r.in(d) {
					if bytes.Contains(f.Data, secret[:20]) {
						t.Errorf("the datagram behind arrives with the first: %x", f.Data)
					}
				}
				if got := r.Engine.Stats().Drops; len(got) != 1 || got[0].Reason != dataplane.DropBadOffload || got[0].Count != 2 || got[0].LastPeer != addrB {
					t.Errorf("%+v, want 2 as bad_offload", got)
				}
				conserves(t, r.Engine)
			})
		}
	}
}

// TestBytesSurviveCoalescing sends several flows' segments, mixed and varied in
// every way that GRO looks at, and wants each flow's frames to reach the
// containers as they were and in order.
func TestBytesSurviveCoalescing(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	rapid.Check(t, func(rt *rapid.T) {
		flows := make([]flowSpec, rapid.IntRange(1, 3).Draw(rt, "flows"))
		for i := range flows {
			flows[i] = drawFlow(rt)
			flows[i].src = macB + encap.MAC(i)<<8 // distinguishes the flows below
			flows[i].tcpFlags = encap.TCPACK
		}
		want := make([][][]byte, len(flows))
		var sent [][]byte
		for range rapid.IntRange(1, 40).Draw(rt, "frames") {
			i := rapid.IntRange(0, len(flows)-1).Draw(rt, "flow")
			s := &flows[i]
			one := *s
			length := rapid.SampledFrom([]int{1000, 1000, 1000, 1000, 500, 1, 0}).Draw(rt, "length")
			switch rapid.IntRange(0, 20).Draw(rt, "variation") {
			case 0:
				one.tcpFlags |= rapid.Byte().Draw(rt, "flags")
			case 1:
				one.tos ^= 1 << rapid.IntRange(0, 7).Draw(rt, "tos bit")
			case 2:
				one.seq += 77
			case 3:
				one.id += 3
			case 4:
				one.tcpFlags |= encap.TCPPSH
			case 5:
				one.hops++
			case 6: // stands between without taking sequence numbers
				length = 0
				one.tcpFlags |= encap.TCPURG
			}
			if !s.udp {
				s.seq += uint32(length)
			}
			s.id = one.id + 1
			frame := one.complete(t, pattern(length))
			whole := frame
			switch rapid.IntRange(0, 12).Draw(rt, "checksum") {
			case 0: // unfinished: the container must see it finished
				frame = one.partial(t, pattern(length)).Data
			case 1: // wrong: it must stay so, unless it looks unfinished
				field := frame[one.l4()+one.sumOffset():]
				partial := one.partial(t, pattern(length)).Data[one.l4()+one.sumOffset():]
				if field[0] ^= 0x55; field[0] == partial[0] {
					field[0] ^= 0x11
				}
			}
			sent = append(sent, bytes.Clone(frame))
			want[i] = append(want[i], whole)
		}
		got := make([][][]byte, len(flows))
		for _, f := range r.inAll(sent...) {
			i := int(encap.MACFrom(f[encap.MACLen:])-macB) >> 8
			got[i] = append(got[i], f)
		}
		for i := range flows {
			compareFlow(rt, flows[i], got[i], want[i])
		}
	})
}

// compareFlow compares a flow's frames. The IPv4 identifier of a packet that
// cannot be fragmented says nothing (RFC 6864) and a GRO flow renumbers it; pure
// ACKs may overtake data.
func compareFlow(rt *rapid.T, s flowSpec, got, want [][]byte) {
	normal := func(frames [][]byte) (data, acks [][]byte) {
		for _, f := range frames {
			f = bytes.Clone(f)
			if !s.v6 && !s.frag {
				copy(f[s.l3()+4:], []byte{0, 0})
				copy(f[s.l3()+10:], []byte{0, 0})
			}
			if !s.udp && len(f) == s.payloadAt() && f[s.l4()+13]&^(encap.TCPECE|encap.TCPPSH) == encap.TCPACK {
				acks = append(acks, f)
			} else {
				data = append(data, f)
			}
		}
		return data, acks
	}
	gotData, gotACKs := normal(got)
	wantData, wantACKs := normal(want)
	for i := range min(len(gotData), len(wantData)) {
		if !bytes.Equal(gotData[i], wantData[i]) {
			rt.Fatalf("flow %+v: frame %d is\n%x, want\n%x", s, i, gotData[i], wantData[i])
		}
	}
	if len(gotData) != len(wantData) || !slices.EqualFunc(gotACKs, wantACKs, bytes.Equal) {
		rt.Fatalf("flow %+v: %d frames and %d pure ACKs arrived, want %d and %d",
			s, len(gotData), len(gotACKs), len(wantData), len(wantACKs))
	}
}

// TestUDPKeepsItsOrder wants a datagram that cannot be joined, here for lack of
// a payload or of a checksum, not to be overtaken by one behind it.
func TestUDPKeepsItsOrder(t *testing.T) {
	s := flowSpec{src: macB, dst: macA, udp: true}
	none := s.complete(t, pattern(1000))
	copy(none[s.l4()+6:], []byte{0, 0})
	wrong := s.complete(t, pattern(1000))
	wrong[s.l4()+6] ^= 0x55
	for name, alone := range map[string][]byte{
		"no payload": s.complete(t, nil), "no checksum": none, "wrong checksum": wrong,
	} {
		t.Run(name, func(t *testing.T) {
			r := newPaths(t, testNetwork(addrA, addrB))
			defer r.Close()
			want := [][]byte{s.complete(t, pattern(1000)), alone, s.complete(t, pattern(1000))}
			for i, got := range r.inAll(want[0], want[1], want[2]) {
				if len(got) != len(want[i]) || !bytes.Equal(got[s.l4():], want[i][s.l4():]) {
					t.Errorf("frame %d is another", i)
				}
			}
		})
	}
}

// TestWrongHeaderChecksumStaysWrong wants a broken IPv4 header not to be made
// whole: the receiver would take what it has to drop.
func TestWrongHeaderChecksumStaysWrong(t *testing.T) {
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	for broken := range 3 {
		r := newPaths(t, testNetwork(addrA, addrB))
		want := s.segments(t, pattern(3000), 1000)
		want[broken][s.l3()+10] ^= 0x55
		got := r.inAll(want...)
		wrong := 0
		for _, f := range got {
			if !sumsUp(f) {
				wrong++
			}
		}
		if len(got) != 3 || wrong != 1 {
			t.Errorf("frame %d broken: %d frames, of them %d broken", broken, len(got), wrong)
		}
		r.Close()
	}
}

// TestPlainTAP wants complete checksums and no GSO packets where the TAP has no
// vnet header; the edge checks that there is none.
func TestPlainTAP(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.Plain = true
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%t udp=%t", v6, udp), func(t *testing.T) {
				r := newPaths(t, n)
				defer r.Close()
				s := flowSpec{src: macB, dst: macA, v6: v6, udp: udp, tags: 1, tcpFlags: encap.TCPACK | encap.TCPPSH}
				const size = 1200
				room := int(testMTU) - s.payloadAt() + s.l3()
				got := r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, s.partial(t, pattern(500)).Data)})
				if len(got) != 1 || !bytes.Equal(got[0].Data, s.complete(t, pattern(500))) {
					t.Errorf("unfinished: wrote %+v", got)
				}
				d := netio.Datagram{From: addrB, Data: vxlan(testVNI, s.partial(t, pattern(20000)).Data)}
				want := s.segments(t, pattern(20000), room)
				if udp {
					d.SegSize = size
					want = s.segments(t, pattern(20000), size)
				}
				if got := cutAll(t, r.in(d)); !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("GSO packet: %d frames, want %d", len(got), len(want))
				}
			})
		}
	}
}

// TestPaddedFrames wants trailing bytes behind a packet to be carried where
// they fit and never to take a frame past the MTU.
func TestPaddedFrames(t *testing.T) {
	s := flowSpec{src: macB, dst: macA, udp: true}
	frame := s.complete(t, pattern(10))
	for _, c := range []struct {
		frame []byte
		want  int
	}{
		{append(bytes.Clone(frame), make([]byte, 8)...), 1},
		{append(bytes.Clone(frame), make([]byte, 2000)...), 0},
	} {
		r := newPaths(t, testNetwork(addrA, addrB))
		if got := r.inAll(c.frame); len(got) != c.want {
			t.Errorf("a packet of %d bytes in a frame of %d: %d frames written, want %d",
				len(frame), len(c.frame), len(got), c.want)
		}
		if got := int(r.dropped(dataplane.DropTooBig)); got != 1-c.want {
			t.Errorf("%d dropped as too_big", got)
		}
		r.Close()
	}
}

// TestEmptyGSOPacket announces segments of a UDP packet that carries nothing:
// it is one frame, and counts as one.
func TestEmptyGSOPacket(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macB, dst: macA, udp: true}
	d := netio.Datagram{From: addrB, Data: vxlan(testVNI, s.partial(t, nil).Data)}
	d.SegSize = len(d.Data) - 4 // within the inner packet, so that it is taken for a GSO packet
	got := r.in(d)
	n := r.Engine.Stats().Networks[0]
	if len(got) != 1 || n.RxPackets != 1 || n.RxBytes != uint64(s.payloadAt()) {
		t.Errorf("%d frames written, %d of %d bytes counted", len(got), n.RxPackets, n.RxBytes)
	}
}
