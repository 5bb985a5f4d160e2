package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// provocation makes host a, which has host b as its peer, drop frames.
type provocation struct {
	name      string
	reason    dataplane.Drop
	direction dataplane.Direction
	unmatched bool   // the frame belongs to no network
	count     uint64 // 0 = 1
	network   func(n *dataplane.Network)
	do        func(u *netiotest.Underlay, a *host)
}

// inject is a provocation by a frame from the TAP.
func inject(f ...netiotest.Frame) func(*netiotest.Underlay, *host) {
	return func(_ *netiotest.Underlay, a *host) { a.TAP("vx0").Inject(f...) }
}

// receive is one by a frame from host b.
func receive(f netiotest.Frame) func(*netiotest.Underlay, *host) {
	return func(u *netiotest.Underlay, a *host) { a.from(u, addrB, f.Data) }
}

// deliver is one by any datagram from host b.
func deliver(d netio.Datagram) func(*netiotest.Underlay, *host) {
	d.From = addrB
	return func(u *netiotest.Underlay, a *host) { a.datagram(u, d) }
}

// refused is one by an underlay that refuses what is sent.
func refused(e unix.Errno) func(*netiotest.Underlay, *host) {
	return func(_ *netiotest.Underlay, a *host) {
		a.RefuseSends(e, 1)
		a.TAP("vx0").Inject(plainFrame(macB, macA, "hello"))
	}
}

// untaken is one by a TAP that refuses what is written.
func untaken(e unix.Errno) func(*netiotest.Underlay, *host) {
	return func(u *netiotest.Underlay, a *host) {
		a.TAP("vx0").RefuseWrites(e)
		a.from(u, addrB, plainFrame(macA, macB, "hello").Data)
	}
}

var (
	bridgeMAC encap.MAC = 0x0180_c200_0002
	longText            = string(pattern(int(testMTU) + 2*encap.VLANTagLen + 1))
	hello               = plainFrame(macB, macA, "hello")
	helloBack           = plainFrame(macA, macB, "hello")
	notECT              = flowSpec{src: macB, dst: macA, udp: true}
)

func reserved(frame []byte) []byte {
	b := vxlan(testVNI, frame)
	b[7] = 1
	return b
}

// flagged is the frame in VXLAN with more flags than the I flag.
func flagged(flags byte, frame []byte) []byte {
	b := vxlan(testVNI, frame)
	b[0] |= flags
	return b
}

func withoutFlag(frame []byte) []byte {
	b := vxlan(testVNI, frame)
	b[0] = 0
	return b
}

func vlanDrop(n *dataplane.Network) { n.VLANDrop = true }

// storm lets one frame of each kind be flooded in some time.
func storm(n *dataplane.Network) {
	n.Storm = dataplane.Storm{Broadcast: 1, UnknownUnicast: 1, Multicast: 1}
}

// many sends more frames than storm lets pass.
func many(dst encap.MAC) func(*netiotest.Underlay, *host) {
	return inject(plainFrame(dst, macA, "x"), plainFrame(dst, macA, "x"))
}

func provocations(tb testing.TB) []provocation {
	const out, in = dataplane.Outbound, dataplane.Inbound
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	lying := tcp.partial(tb, pattern(10))
	lying.VNet.CsumStart = 5000
	damaged := tcp.gsoPacket(tb, pattern(3000), 1000)
	damaged.Data[tcp.l3()+8] ^= 1 // the TTL
	damagedBack := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}.partial(tb, pattern(3000))
	damagedBack.Data[tcp.l3()+8] ^= 1
	list := []provocation{
		{name: "cut off", reason: dataplane.DropTooShort, direction: out,
			do: inject(netiotest.Frame{Data: hello.Data[:13]})},
		{name: "tag cut off", reason: dataplane.DropTooShort, direction: out,
			do: inject(netiotest.Frame{Data: tagged(hello, 5).Data[:17]})},
		{name: "zero source", reason: dataplane.DropMACInvalidSource, direction: out, do: inject(plainFrame(macB, 0, "x"))},
		{name: "group source", reason: dataplane.DropMACInvalidSource, direction: out, do: inject(plainFrame(macB, groupMAC, "x"))},
		{name: "bridge protocol", reason: dataplane.DropBridgeControl, direction: out, do: inject(plainFrame(bridgeMAC, macA, "x"))},
		{name: "tagged", reason: dataplane.DropVLANTagged, direction: out, network: vlanDrop, do: inject(tagged(hello, 5))},
		{name: "no peer", reason: dataplane.DropVXLANNoRemote, direction: out,
			network: func(n *dataplane.Network) { n.Peers[0].Flood = false }, do: inject(hello)},
		{name: "long", reason: dataplane.DropTooBig, direction: out, do: inject(plainFrame(macB, macA, longText))},
		{name: "long GSO packet", reason: dataplane.DropTooBig, direction: out, count: 5,
			do: inject(tcp.gsoPacket(tb, pattern(10000), 2000))},
		{name: "path too narrow", reason: dataplane.DropTooBig, direction: out, do: refused(unix.EMSGSIZE)},
		{name: "lying checksum", reason: dataplane.DropBadOffload, direction: out, do: inject(lying)},
		{name: "damaged GSO packet", reason: dataplane.DropBadChecksum, direction: out, count: 3, do: inject(damaged)},
		{name: "damaged GSO packet", reason: dataplane.DropBadChecksum, direction: in, do: receive(damagedBack)},
		{name: "damaged GSO packet, to be cut", reason: dataplane.DropBadChecksum, direction: in,
			network: func(n *dataplane.Network) { n.Plain = true }, do: receive(damagedBack)},
		{name: "unlisted sender", reason: dataplane.DropPeerNotAdmitted, direction: in,
			do: func(u *netiotest.Underlay, a *host) { a.from(u, unlisted, helloBack.Data) }},
		{name: "own address", reason: dataplane.DropPeerNotAdmitted, direction: in,
			network: func(n *dataplane.Network) { n.Admit.Any = true },
			do:      func(u *netiotest.Underlay, a *host) { a.from(u, addrA, helloBack.Data) }},
		{name: "unlisted sender outside the prefix", reason: dataplane.DropPeerNotAdmitted, direction: in,
			network: func(n *dataplane.Network) { n.Admit.Prefixes = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/29")} },
			do:      func(u *netiotest.Underlay, a *host) { a.from(u, unlisted, helloBack.Data) }},
		{name: "own bridge", reason: dataplane.DropFromOverlay, direction: in,
			do: func(u *netiotest.Underlay, a *host) {
				a.ingress(dataplane.Ingress{Devices: []int{3, 7}})
				a.datagram(u, netio.Datagram{From: addrB, Device: 7, Data: vxlan(testVNI, helloBack.Data)})
			}},
		{name: "address in an overlay", reason: dataplane.DropFromOverlay, direction: in,
			network: func(n *dataplane.Network) { n.Admit.Any = true },
			do: func(u *netiotest.Underlay, a *host) {
				a.ingress(dataplane.Ingress{Routes: []dataplane.IngressRoute{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Overlay: true}}})
				a.from(u, unlisted, helloBack.Data)
			}},
		{name: "truncated", reason: dataplane.DropTruncated, direction: in, unmatched: true,
			do: deliver(netio.Datagram{Data: vxlan(testVNI, helloBack.Data), Truncated: true})},
		{name: "VXLAN header cut off", reason: dataplane.DropTooShort, direction: in, unmatched: true,
			do: deliver(netio.Datagram{Data: vxlan(testVNI, nil)[:7]})},
		{name: "nothing inside", reason: dataplane.DropTooShort, direction: in,
			do: deliver(netio.Datagram{Data: vxlan(testVNI, nil)})},
		{name: "no checksum", reason: dataplane.DropUDP6ZeroCsum, direction: in,
			do: deliver(netio.Datagram{Data: vxlan(testVNI, []byte{0}), ZeroChecksum: true})},
		{name: "frame cut off", reason: dataplane.DropTooShort, direction: in,
			do: deliver(netio.Datagram{Data: vxlan(testVNI, helloBack.Data[:13])})},
		{name: "no I flag", reason: dataplane.DropVXLANInvalidHdr, direction: in, unmatched: true,
			do: deliver(netio.Datagram{Data: withoutFlag(helloBack.Data)})},
		{name: "reserved bits", reason: dataplane.DropVXLANInvalidHdr, direction: in,
			network: func(n *dataplane.Network) { n.ReservedDrop = true },
			do:      deliver(netio.Datagram{Data: reserved(helloBack.Data)})},
		{name: "next protocol", reason: dataplane.DropVXLANGPE, direction: in,
			do: deliver(netio.Datagram{Data: flagged(0x04, helloBack.Data)})},
		{name: "OAM", reason: dataplane.DropVXLANGPE, direction: in,
			do: deliver(netio.Datagram{Data: flagged(0x01, helloBack.Data)})},
		{name: "next protocol where reserved bits are dropped", reason: dataplane.DropVXLANGPE, direction: in,
			network: func(n *dataplane.Network) { n.ReservedDrop = true },
			do:      deliver(netio.Datagram{Data: flagged(0x04, helloBack.Data)})},
		{name: "other VNI", reason: dataplane.DropVXLANVNINotFound, direction: in, unmatched: true,
			do: deliver(netio.Datagram{Data: vxlan(testVNI+1, helloBack.Data)})},
		{name: "zero source", reason: dataplane.DropMACInvalidSource, direction: in, do: receive(plainFrame(macA, 0, "x"))},
		{name: "broadcast source", reason: dataplane.DropMACInvalidSource, direction: in,
			do: receive(plainFrame(macA, encap.BroadcastMAC, "x"))},
		{name: "own TAP's source", reason: dataplane.DropLocalMAC, direction: in, do: receive(plainFrame(macB, tapMAC(addrA), "x"))},
		{name: "bridge protocol", reason: dataplane.DropBridgeControl, direction: in, do: receive(plainFrame(bridgeMAC, macB, "x"))},
		{name: "tagged", reason: dataplane.DropVLANTagged, direction: in, network: vlanDrop, do: receive(tagged(helloBack, 5))},
		{name: "static elsewhere", reason: dataplane.DropVXLANEntryExists, direction: in,
			network: func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: addrC}} },
			do:      receive(helloBack)},
		{name: "pinned", reason: dataplane.DropMACNotAdmitted, direction: in,
			network: func(n *dataplane.Network) { n.Peers[0].MACs = []encap.MAC{macC} },
			do:      receive(helloBack)},
		{name: "storm", reason: dataplane.DropStormBroadcast, direction: out, network: storm, do: many(encap.BroadcastMAC)},
		{name: "storm", reason: dataplane.DropStormUnknown, direction: out, network: storm, do: many(macB)},
		{name: "storm", reason: dataplane.DropStormMulticast, direction: out, network: storm, do: many(groupMAC)},
		{name: "storm", reason: dataplane.DropStormMulticast, direction: in, network: storm,
			do: func(u *netiotest.Underlay, a *host) {
				for range 2 {
					a.from(u, addrB, plainFrame(groupMAC, macB, "x").Data)
				}
			}},
		{name: "congestion", reason: dataplane.DropIPTunnelECN, direction: in,
			do: deliver(netio.Datagram{TOS: encap.CE, Data: vxlan(testVNI, notECT.complete(tb, pattern(9)))})},
		{name: "long packet", reason: dataplane.DropTooBig, direction: in,
			do: deliver(netio.Datagram{Data: vxlan(testVNI, notECT.complete(tb, pattern(int(testMTU))))})},
		{name: "long frame", reason: dataplane.DropTooBig, direction: in, do: receive(plainFrame(macA, macB, longText))},
		{name: "bound of peers", reason: dataplane.DropPeerTableFull, direction: in, count: 3,
			// Without ageing, whose look at the peers would keep new ones out.
			network: func(n *dataplane.Network) { n.Admit.Any, n.Ageing = true, 0 },
			do: func(u *netiotest.Underlay, a *host) {
				for i := range dataplane.MaxLearnedPeers + 3 {
					from := netip.AddrFrom4([4]byte{198, 51 + byte(i>>16), byte(i >> 8), byte(i)})
					a.from(u, from, helloBack.Data)
				}
			}},
	}
	for e, reason := range map[unix.Errno]dataplane.Drop{
		unix.EAGAIN: dataplane.DropWireFull, unix.ENOBUFS: dataplane.DropWireFull,
		unix.ENETUNREACH: dataplane.DropNoRoute, unix.EHOSTUNREACH: dataplane.DropNoRoute,
		unix.ENETDOWN: dataplane.DropNoRoute, unix.EADDRNOTAVAIL: dataplane.DropNoRoute,
		unix.EINVAL: dataplane.DropNoRoute,
		unix.EPERM:  dataplane.DropWireRefused, unix.EACCES: dataplane.DropWireRefused,
		unix.EIO: dataplane.DropWireError, unix.ECONNREFUSED: dataplane.DropWireError,
	} {
		list = append(list, provocation{name: e.Error(), reason: reason, direction: out, do: refused(e)})
	}
	for e, reason := range map[unix.Errno]dataplane.Drop{
		unix.EAGAIN: dataplane.DropTapFull, unix.ENOBUFS: dataplane.DropTapFull,
		unix.EIO: dataplane.DropTapDown, unix.EBADFD: dataplane.DropTapDown,
		unix.EINVAL: dataplane.DropBadOffload,
		unix.EPERM:  dataplane.DropTapError,
	} {
		list = append(list, provocation{name: e.Error(), reason: reason, direction: in, do: untaken(e)})
	}
	return list
}

// TestDrops provokes every reason and wants it counted, under its name, network
// and direction, and nothing else; the next frame passes.
func TestDrops(t *testing.T) {
	seen := make(map[dataplane.Drop]bool)
	for _, p := range provocations(t) {
		seen[p.reason] = true
		t.Run(p.reason.String()+" "+p.direction.String()+" "+p.name, func(t *testing.T) {
			u := netiotest.NewUnderlay(t)
			n := testNetwork(addrA, addrB)
			n.MaxEntries = 1 << 15
			if p.network != nil {
				p.network(&n)
			}
			a := newHost(t, u, addrA, n)
			p.do(u, a)
			want := dataplane.DropStats{Network: "blue", Direction: p.direction, Reason: p.reason, Count: max(p.count, 1)}
			if p.unmatched {
				want.Network = ""
			}
			a.wantDrops(want)
			p.wantLast(t, a.Stats().Drops[0])

			a.TAP("vx0").RefuseWrites(0)
			a.RefuseSends(0, 0)
			a.TAP("vx0").Written()
			rest := plainFrame(macA, macC, "still here")
			a.from(u, addrB, rest.Data)
			if got := a.TAP("vx0").Wait(1); !bytes.Equal(got[0].Data, rest.Data) {
				t.Errorf("the next frame arrived as %x", got[0].Data)
			}
			a.wantDrops(want)
		})
	}
	for _, d := range dataplane.Drops() {
		// An admission that meets another is a matter of nanoseconds, and a prober
		// that is behind has a test of its own.
		if !seen[d] && d != dataplane.DropPeerTableBusy && d != dataplane.DropProbeLimited && !tunnelDrops[d] {
			t.Errorf("%s was not provoked", d)
		}
	}
}

// wantLast wants the drop to name who sent what came in, or whom the wire did
// not take it for, and when.
func (p *provocation) wantLast(t *testing.T, got dataplane.DropStats) {
	t.Helper()
	if age := time.Since(got.Last); age < 0 || age > time.Minute {
		t.Errorf("the last was at %v, which is %v ago", got.Last, age)
	}
	var want netip.Addr
	switch p.reason {
	case dataplane.DropPeerNotAdmitted, dataplane.DropPeerTableFull, dataplane.DropFromOverlay:
		if p.reason == dataplane.DropFromOverlay && got.LastPeer == addrB {
			return
		}
		if !got.LastPeer.IsValid() || got.LastPeer == addrB {
			t.Errorf("the last was of %v, want an unlisted sender", got.LastPeer)
		}
		return
	case dataplane.DropWireFull, dataplane.DropNoRoute, dataplane.DropWireRefused, dataplane.DropWireError:
		want = addrB
	default:
		if p.direction == dataplane.Inbound || p.name == "path too narrow" {
			want = addrB
		}
	}
	if got.LastPeer != want {
		t.Errorf("the last was of %v, want %v", got.LastPeer, want)
	}
}

// TestPartialRefusal wants what was sent of a run and what was refused of it
// each to be counted.
func TestPartialRefusal(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	r.backend.RefuseSends(unix.ENOBUFS, 3)
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	if got := r.out(s.gsoPacket(t, pattern(10*1000), 1000)); len(got) != 7 {
		t.Errorf("%d payloads left, want 7", len(got))
	}
	n := r.Engine.Stats().Networks[0]
	if n.TxPackets != 7 || n.TxBytes != uint64(7*(1000+s.payloadAt())) {
		t.Errorf("counted %d frames of %d bytes", n.TxPackets, n.TxBytes)
	}
	if got := r.dropped(dataplane.DropWireFull); got != 3 {
		t.Errorf("%d dropped as wire_full, want 3", got)
	}
}

// TestReservedBits wants them to be ignored and counted where they are not
// refused (RFC 7348 section 5), but for the P and O bits of VXLAN-GPE: what they
// are set in is dropped, and nothing is learned from it.
func TestReservedBits(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB))
	want := uint64(0)
	const gpeP, gpeO = 58, 56
	for bit := range 64 {
		b := vxlan(testVNI, helloBack.Data)
		if bit == gpeP || bit == gpeO {
			b = vxlan(testVNI, plainFrame(macA, macC, "hello").Data)
		}
		word := binary.BigEndian.Uint64(b) ^ 1<<bit
		isFlagI, isVNI := bit == 59, bit >= 8 && bit < 32
		if isFlagI || isVNI {
			continue
		}
		binary.BigEndian.PutUint64(b, word)
		a.datagram(u, netio.Datagram{From: addrB, Data: b})
		if bit != gpeP && bit != gpeO {
			want++
		}
	}
	// GBP: the G bit, D and A, and a group of policy. The frame is a frame.
	gbp := vxlan(testVNI, helloBack.Data)
	copy(gbp, []byte{0x88, 0x48, 0x0f, 0xff})
	a.datagram(u, netio.Datagram{From: addrB, Data: gbp})
	want++
	a.TAP("vx0").Wait(int(want))
	eventually(t, "every frame is counted", func() bool { return a.blue().ReservedBits == want })
	a.wantDrops(dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropVXLANGPE, Count: 2})
	entries, err := a.FDB("")
	if err != nil {
		t.Fatal(err)
	}
	learned := func(m encap.MAC) bool {
		return slices.ContainsFunc(entries, func(e dataplane.FDBEntry) bool { return e.MAC == m })
	}
	if !learned(macB) || learned(macC) {
		t.Errorf("learned %+v, want %s and not %s, the source of VXLAN-GPE", entries, macB, macC)
	}
}
