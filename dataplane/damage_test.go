package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// A packet that was damaged before it was encapsulated has a right outer checksum
// and a wrong inner one, which is all that its receiver has to see the damage by.
// These tests damage packets on every path and look at what arrives, as the kernel
// behind the device sees it.

// route is a path through the engine. It takes frames with whole checksums in one
// batch, and returns them as they leave.
type route struct {
	name    string
	packets bool // IP-in-IP: IPv4 without Ethernet header
	// sameSums: another route treats checksums by the same lines.
	sameSums bool
	through  func(frames [][]byte) [][]byte
}

// testRoutes are the paths that keep the bytes of what passes.
func testRoutes(t *testing.T) (all []route) {
	device := func(name string, plain, noUSO, rewrites, refuses bool) {
		n := testNetwork(addrA, addrB)
		n.Plain, n.ClampMSS = plain, rewrites
		r := newPathsOn(t, n, noUSO)
		t.Cleanup(func() { r.Close() })
		if refuses {
			r.tap.RefuseWhere(refusesOffloads)
		}
		for _, run := range []bool{false, true} {
			way := name + ", datagrams"
			if run {
				way = name + ", a run"
			}
			all = append(all, route{name: "rx, " + way, sameSums: run || noUSO || rewrites, through: func(frames [][]byte) [][]byte {
				r.GiveGSO()
				return cutAll(t, r.received(frames, run))
			}})
		}
		c := testTunnel()
		c.Plain, c.ClampMSS = plain, rewrites
		tun := newTunnelPathsOn(t, c, noUSO)
		if refuses {
			tun.tun.RefuseWhere(refusesOffloads)
		}
		all = append(all, route{name: "rx, IP-in-IP, " + name, packets: true, sameSums: noUSO || rewrites, through: func(frames [][]byte) (got [][]byte) {
			var ds []netio.Datagram
			for _, f := range frames {
				ds = append(ds, fromB(f[encap.EthernetHeaderLen:]))
			}
			tun.GiveGSO()
			for _, f := range tun.in(ds...) {
				got = append(got, cut(t, framed(f))...)
			}
			return got
		}})
	}
	device("offloads", false, false, false, false)
	device("no USO", false, true, false, false)
	device("plain", true, false, false, false)
	device("clamped", false, false, true, false)
	device("refused", false, false, false, true)

	out := newPaths(t, testNetwork(addrA, addrB))
	t.Cleanup(func() { out.Close() })
	all = append(all, route{name: "tx", through: func(frames [][]byte) (got [][]byte) {
		for _, f := range frames {
			got = append(got, out.out(netiotest.Frame{Data: f})...)
		}
		return got
	}})
	tun := newTunnelPaths(t, testTunnel())
	all = append(all, route{name: "tx, IP-in-IP", packets: true, through: func(frames [][]byte) (got [][]byte) {
		for _, f := range frames {
			for _, s := range tun.out(packet(netiotest.Frame{Data: f})) {
				for _, p := range s.Payloads {
					got = append(got, framed(netiotest.Frame{Data: p}).Data)
				}
			}
		}
		return got
	}})
	return all
}

// received takes the frames in by one batch, as datagrams or as one run.
func (r *paths) received(frames [][]byte, run bool) []netiotest.Frame {
	r.tb.Helper()
	if run {
		d := netio.Datagram{From: addrB, SegSize: encap.VXLANHeaderLen + len(frames[0])}
		for _, f := range frames {
			d.Data = append(d.Data, vxlan(testVNI, f)...)
		}
		return r.in(d)
	}
	for _, f := range frames {
		r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), netio.Datagram{From: addrB, Data: vxlan(testVNI, f)})
	}
	if err := r.Inbound(); err != nil {
		r.tb.Fatal(err)
	}
	return r.tap.Written()
}

// newPathsOn is newPaths, on a kernel that takes no UDP GSO packets if so wanted.
func newPathsOn(t *testing.T, n dataplane.Network, noUSO bool) *paths {
	t.Helper()
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(addrA)
	if noUSO {
		edges.WithoutUSO()
	}
	r, err := dataplane.NewPaths(dataplane.Options{Underlay: addrA, Backend: edges}, n)
	if err != nil {
		t.Fatal(err)
	}
	return &paths{Paths: r, u: u, backend: edges, tap: edges.TAP(n.Device), tb: t, net: n}
}

// newTunnelPathsOn is newPathsOn for a tunnel.
func newTunnelPathsOn(t *testing.T, c dataplane.Tunnel, noUSO bool) *tunnelPaths {
	t.Helper()
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(addrA)
	if noUSO {
		edges.WithoutUSO()
	}
	r, err := dataplane.NewTunnelPaths(dataplane.Options{Underlay: addrA, Backend: edges}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return &tunnelPaths{TunnelPaths: r, u: u, backend: edges, tun: edges.TAP(c.Device), tb: t}
}

// damagedFlows are flows whose packets are damaged.
func damagedFlows() map[string]flowSpec {
	tcp := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK, id: 0x1234, seq: 0x01020304}
	udp := tcp
	udp.udp, udp.tcpFlags = true, 0
	options, tags, frag := tcp, udp, udp
	options.tcpOptions, options.ipOptions = 12, 8
	tags.tags = 2
	frag.frag = true
	all := map[string]flowSpec{"TCP": tcp, "UDP": udp, "TCP with options": options, "UDP with tags": tags, "UDP without DF": frag}
	for name, s := range maps.Clone(all) {
		if s.frag {
			continue
		}
		s.v6 = true
		all[name+" over IPv6"] = s
	}
	return all
}

// looksUnfinished reports whether the packet's checksum field holds the sum of its
// pseudo-header.
func looksUnfinished(s flowSpec, frame []byte) bool {
	t, ok := encap.FindTransport(frame)
	at := t.L4 + s.sumOffset()
	return ok && at+2 <= t.End && binary.BigEndian.Uint16(frame[at:]) == slowPseudo(frame, t.L3, t.L4, t.V6)
}

// TestDamageStaysVisible flips every bit of a frame, as the first, in the middle and
// as the last of its flow's, on every path: it arrives as it was damaged, with its
// old checksum, or not at all, and the others arrive as they were sent.
func TestDamageStaysVisible(t *testing.T) {
	for _, by := range testRoutes(t) {
		for name, s := range damagedFlows() {
			if by.packets && (s.v6 || s.tags > 0) {
				continue
			}
			t.Run(by.name+", "+name, func(t *testing.T) {
				if by.packets {
					s.src, s.dst = 0, 0 // as framed leaves them
				}
				sent := s.segments(t, pattern(3*32-5), 32)
				if got := by.through(cloneAll(sent)); !slices.EqualFunc(got, sent, bytes.Equal) {
					t.Fatalf("%d frames arrived undamaged, want %d as they were", len(got), len(sent))
				}
				first := 0
				if by.packets {
					first = 8 * s.l3()
				}
				for which := range sent {
					for bit := first; bit < 8*len(sent[which]); bit++ {
						frames := cloneAll(sent)
						damaged := frames[which]
						damaged[bit/8] ^= 1 << (bit % 8)
						if looksUnfinished(s, damaged) {
							continue // TestUnfinishedIsOneIn65536
						}
						for _, got := range by.through(cloneAll(frames)) {
							if problem := checkArrived(got, sent, which, damaged); problem != "" {
								t.Fatalf("bit %d of frame %d: %s:\n%x, damaged as\n%x", bit, which, problem, got, damaged)
							}
						}
					}
				}
			})
		}
	}
}

// checkArrived says what is wrong with a frame that arrived where one of those sent
// was damaged.
func checkArrived(got []byte, sent [][]byte, which int, damaged []byte) string {
	for i, f := range sent {
		if i != which && bytes.Equal(withoutID(got), withoutID(f)) {
			return ""
		}
	}
	switch {
	case bytes.Equal(got, damaged):
		return ""
	case bytes.Equal(got, sent[which]):
		return "it was repaired"
	case sumsUp(got):
		return "another frame with right checksums arrived"
	case bytes.HasPrefix(damaged, got):
		return "" // of IP-in-IP, cut where its IP length says
	case bytes.HasPrefix(got, damaged):
		return "" // its IP length holds what came behind it in the run
	}
	return "another frame arrived"
}

// withoutID is the frame without the IPv4 identifier, where that says nothing (RFC
// 6864 section 4.1) and a GSO packet renumbers it.
func withoutID(frame []byte) []byte {
	t, ok := encap.FindTransport(frame)
	if !ok || t.V6 || frame[t.L3+6]&0x40 == 0 || !headerRight(frame) {
		return frame
	}
	frame = bytes.Clone(frame)
	copy(frame[t.L3+4:], []byte{0, 0})
	copy(frame[t.L3+10:], []byte{0, 0})
	return frame
}

func cloneAll(frames [][]byte) (all [][]byte) {
	for _, f := range frames {
		all = append(all, bytes.Clone(f))
	}
	return all
}

// TestDamageStaysVisibleWhereHeadersChange flips every bit of frames whose headers
// are rewritten on the way: by a congestion mark, or for the segment size of a SYN.
// What did not sum up before does not sum up then.
func TestDamageStaysVisibleWhereHeadersChange(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.ClampMSS, n.MTU = true, 1000
	for _, v6 := range []bool{false, true} {
		syn := flowSpec{src: macB, dst: macA, v6: v6, tcpFlags: encap.TCPSYN, tcpOptions: 8}
		frame := syn.complete(t, nil)
		copy(frame[syn.l4()+encap.TCPHeaderLen:], []byte{1, 2, 4, 0x05, 0xb4, 1, 1, 1}) // at an odd place
		frame = syn.withSum(frame)
		marked := flowSpec{src: macB, dst: macA, v6: v6, udp: true, tos: encap.ECT0}.complete(t, pattern(50))
		for name, c := range map[string]struct {
			frame []byte
			tos   uint8
			out   bool
		}{
			"clamped in": {frame: frame}, "clamped out": {frame: frame, out: true},
			"marked": {frame: marked, tos: encap.CE}, "clamped and marked": {frame: frame, tos: encap.ECT0},
		} {
			t.Run(fmt.Sprintf("%s, v6=%t", name, v6), func(t *testing.T) {
				r := newPaths(t, n)
				defer r.Close()
				pass := func(b []byte) [][]byte {
					if c.out {
						return r.out(netiotest.Frame{Data: b})
					}
					return cutAll(t, r.in(netio.Datagram{From: addrB, TOS: c.tos, Data: vxlan(testVNI, b)}))
				}
				if got := pass(bytes.Clone(c.frame)); len(got) != 1 || bytes.Equal(got[0], c.frame) != (c.tos == encap.ECT0 && c.out) || !sumsUp(got[0]) {
					t.Fatalf("undamaged: %x became %x", c.frame, got)
				}
				for bit := range 8 * len(c.frame) {
					damaged := bytes.Clone(c.frame)
					damaged[bit/8] ^= 1 << (bit % 8)
					if looksUnfinished(syn, damaged) || looksUnfinished(flowSpec{udp: true}, damaged) {
						continue
					}
					for _, got := range pass(bytes.Clone(damaged)) {
						if sumsUp(got) && !sumsUp(damaged) {
							t.Fatalf("bit %d: got right checksums:\n%x, damaged as\n%x", bit, got, damaged)
						}
					}
				}
			})
		}
	}
}

// TestUnfinishedIsOneIn65536 sends a damaged packet with each checksum that there
// is: one at most is taken for unfinished and gets a right one.
func TestUnfinishedIsOneIn65536(t *testing.T) {
	for _, by := range testRoutes(t) {
		for name, s := range damagedFlows() {
			if by.packets && s.v6 || s.tags+s.ipOptions > 0 || s.frag || s.udp == s.v6 || by.sameSums {
				continue // one of each is enough, it takes long
			}
			t.Run(by.name+", "+name, func(t *testing.T) {
				frame := s.complete(t, pattern(20))
				at := s.l4() + s.sumOffset()
				right, repaired := binary.BigEndian.Uint16(frame[at:]), 0
				for sum := 0; sum < 1<<16; {
					var frames [][]byte
					for ; len(frames) < dataplane.InDatagrams && sum < 1<<16; sum++ {
						// Ones for zero is no other sum.
						if uint16(sum) == right || !s.udp && right == 0 && sum == 0xffff {
							continue
						}
						damaged := bytes.Clone(frame)
						binary.BigEndian.PutUint16(damaged[at:], uint16(sum))
						frames = append(frames, damaged)
					}
					for _, got := range by.through(frames) {
						if sumsUp(got) {
							repaired++
						}
					}
				}
				if repaired > 1 {
					t.Errorf("%d of 65535 wrong checksums became right", repaired)
				}
			})
		}
	}
}

// TestDamagedGSOPackets flips every bit of the network header, the length and the
// checksum of a GSO packet: no segment of it gets checksums that are right. It is
// cut here on its way out, and on its way in for a TAP that takes none.
func TestDamagedGSOPackets(t *testing.T) {
	plain := testNetwork(addrA, addrB)
	plain.Plain = true
	for name, s := range damagedFlows() {
		t.Run(name, func(t *testing.T) {
			out, in, whole := newPaths(t, testNetwork(addrA, addrB)), newPaths(t, plain), newPaths(t, testNetwork(addrA, addrB))
			defer out.Close()
			defer in.Close()
			defer whole.Close()
			payload := pattern(3000)
			super := s.gsoPacket(t, payload, 1000)
			back := netio.Datagram{From: addrB, Data: vxlan(testVNI, super.Data)}
			if s.udp {
				back.SegSize = 1000
			}
			if n := len(out.out(super)); n != 3 {
				t.Fatalf("undamaged: %d segments left", n)
			}
			if n := len(in.in(back)); n < 3 {
				t.Fatalf("undamaged: %d segments arrived", n)
			}
			covered := s.l4() - s.l3()
			for bit := range 8 * (covered + 4) {
				at := s.l3() + bit/8
				switch extra := bit/8 - covered; {
				case extra >= 2:
					at = s.l4() + s.sumOffset() + extra - 2
				case extra >= 0 && s.udp:
					at = s.l4() + 4 + extra // the length of UDP
				case extra >= 0:
					continue
				}
				f := s.gsoPacket(t, payload, 1000)
				f.Data[at] ^= 1 << (bit % 8)
				if s.v6 && !protected(at-s.l3(), s) {
					continue
				}
				for _, segment := range out.out(f) {
					if sumsUp(segment) {
						t.Fatalf("bit %d of byte %d: a segment left with right checksums:\n%x", bit%8, at, segment)
					}
				}
				d := back
				d.Data = vxlan(testVNI, f.Data)
				for _, segment := range in.in(d) {
					// The field is all that says of a packet from the wire that it is a GSO
					// packet; the length of UDP is no part of the sum then.
					if sumsUp(segment.Data) {
						t.Fatalf("bit %d of byte %d: a segment arrived with right checksums:\n%x", bit%8, at, segment.Data)
					}
				}
				for _, f := range whole.in(d) {
					if f.VNet.GSOSize != 0 && !headerRight(f.Data) {
						t.Fatalf("bit %d of byte %d: the TAP's kernel would make it right:\n%x", bit%8, at, f.Data)
					}
				}
			}
			if !s.v6 && out.dropped(dataplane.DropBadChecksum) == 0 || !s.v6 && in.dropped(dataplane.DropBadChecksum) == 0 {
				t.Errorf("drops %+v and %+v", out.Engine.Stats().Drops, in.Engine.Stats().Drops)
			}
		})
	}
}

// protected reports whether a checksum covers the byte of an IPv6 packet: not what
// routers change, nor the extension headers.
func protected(at int, s flowSpec) bool {
	return at >= 4 && at < 6 || at >= 8 && at < encap.IPv6HeaderLen || at >= s.l4()-s.l3()
}

// headerRight reports whether the checksum of the IPv4 header is right, or there is
// none.
func headerRight(frame []byte) bool {
	t, ok := encap.FindTransport(frame)
	return ok && (t.V6 || slowSum(frame[t.L3:t.L4]) == 0xffff)
}
