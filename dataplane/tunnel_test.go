package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// The inner addresses are those of flowSpec: 198.51.100.1 here, 203.0.113.2
// behind host b. Back come packets of the same flow, which route to b too by
// testTunnel's second route.
func testTunnel() dataplane.Tunnel {
	return dataplane.Tunnel{
		Name: "green", Device: "tun0", MTU: 1480,
		TTL: 64, TOS: dataplane.TOS{Inherit: true}, DF: true,
		Routes: []dataplane.TunnelRoute{
			{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Peer: addrB},
			{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Peer: addrB},
			{Prefix: netip.MustParsePrefix("198.51.100.128/25"), Peer: addrC},
		},
	}
}

// packet is the frame without its Ethernet header, as a TUN has it.
func packet(f netiotest.Frame) netiotest.Frame {
	f.Data = f.Data[encap.EthernetHeaderLen:]
	if f.VNet.Flags&encap.VnetNeedsCsum != 0 {
		f.VNet.CsumStart -= encap.EthernetHeaderLen
	}
	if f.VNet.HdrLen != 0 {
		f.VNet.HdrLen -= encap.EthernetHeaderLen
	}
	return f
}

// framed is the reverse of packet.
func framed(f netiotest.Frame) netiotest.Frame {
	f.Data = append(append(make([]byte, 12), 0x08, 0x00), f.Data...)
	if f.VNet.Flags&encap.VnetNeedsCsum != 0 {
		f.VNet.CsumStart += encap.EthernetHeaderLen
	}
	if f.VNet.HdrLen != 0 {
		f.VNet.HdrLen += encap.EthernetHeaderLen
	}
	return f
}

// tunnelPaths is a pair of paths of a tunnel at host a, without threads.
type tunnelPaths struct {
	*dataplane.TunnelPaths
	u       *netiotest.Underlay
	backend *netiotest.Backend
	tun     *netiotest.TAP
	tb      testing.TB
}

func newTunnelPaths(tb testing.TB, c dataplane.Tunnel) *tunnelPaths {
	tb.Helper()
	u := netiotest.NewUnderlay(tb)
	edges := u.Backend(addrA)
	r, err := dataplane.NewTunnelPaths(dataplane.Options{Underlay: addrA, Backend: edges}, c)
	if err != nil {
		tb.Fatal(err)
	}
	edges.Record()
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &tunnelPaths{TunnelPaths: r, u: u, backend: edges, tun: edges.TAP(c.Device), tb: tb}
}

// out takes the packets out and returns what was sent.
func (r *tunnelPaths) out(fs ...netiotest.Frame) []netiotest.Sent {
	r.tb.Helper()
	r.tun.Inject(fs...)
	if err := r.Outbound(); err != nil {
		r.tb.Fatal(err)
	}
	return r.backend.Sent()
}

// in takes the datagrams in and returns what was written.
func (r *tunnelPaths) in(ds ...netio.Datagram) []netiotest.Frame {
	r.tb.Helper()
	for _, d := range ds {
		r.u.Deliver(netip.AddrPortFrom(addrA, 0), d)
	}
	if err := r.Inbound(); err != nil {
		r.tb.Fatal(err)
	}
	return r.tun.Written()
}

func fromB(packet []byte) netio.Datagram { return netio.Datagram{From: addrB, Data: packet} }

// TestTunnelSegments compares GSO packets of a TUN with gopacket's segments, and
// joins those again.
func TestTunnelSegments(t *testing.T) {
	r := newTunnelPaths(t, testTunnel())
	rapid.Check(t, func(rt *rapid.T) {
		s := drawFlow(rt)
		s.v6, s.tags = false, 0
		size := rapid.IntRange(140, 1480+encap.EthernetHeaderLen-s.payloadAt()).Draw(rt, "size")
		most := 65535 - s.payloadAt() + s.l3()
		length := rapid.OneOf(rapid.IntRange(1, most), rapid.IntRange(1, 3*size+1), rapid.Just(2*size)).Draw(rt, "length")
		payload := pattern(length)
		want := s.segments(t, payload, size)
		var got [][]byte
		for _, sent := range r.out(packet(s.gsoPacket(t, payload, size))) {
			got = append(got, sent.Payloads...)
		}
		if len(got) != len(want) {
			rt.Fatalf("%d segments, want %d; drops %+v", len(got), len(want), r.Engine.Stats().Drops)
		}
		var datagrams []netio.Datagram
		for i := range want {
			if !bytes.Equal(got[i], want[i][encap.EthernetHeaderLen:]) {
				rt.Fatalf("segment %d of %d:\n%x, want\n%x", i, len(want), got[i], want[i])
			}
			datagrams = append(datagrams, fromB(got[i]))
		}
		var back [][]byte
		for len(datagrams) > 0 {
			n := min(len(datagrams), dataplane.InDatagrams)
			for _, f := range r.in(datagrams[:n]...) {
				back = append(back, cut(t, framed(f))...)
			}
			datagrams = datagrams[n:]
		}
		if len(back) != len(want) {
			rt.Fatalf("%d packets came back, want %d; drops %+v", len(back), len(want), r.Engine.Stats().Drops)
		}
		for i := range want {
			if !bytes.Equal(back[i][encap.EthernetHeaderLen:], want[i][encap.EthernetHeaderLen:]) {
				rt.Fatalf("packet %d of %d came back as\n%x, want\n%x", i, len(want), back[i], want[i])
			}
		}
	})
}

// TestTunnelJoins wants a batch of segments to reach the TUN as one GSO packet,
// and what a kernel peer over veth hands over whole, unfinished, to stay so.
func TestTunnelJoins(t *testing.T) {
	r := newTunnelPaths(t, testTunnel())
	for name, s := range map[string]flowSpec{
		"TCP": {src: macB, dst: macA, tcpFlags: encap.TCPACK}, "UDP": {src: macB, dst: macA, udp: true},
	} {
		var ds []netio.Datagram
		segments := s.segments(t, pattern(40*1000), 1000)
		for _, b := range segments {
			ds = append(ds, fromB(b[encap.EthernetHeaderLen:]))
		}
		got := r.in(ds...)
		if len(got) != 1 || got[0].VNet.GSOSize != 1000 {
			t.Errorf("%s: %d frames, the first %+v", name, len(got), got[0].VNet)
		}
	}
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	whole := packet(s.partial(t, pattern(30000)))
	got := r.in(fromB(whole.Data))
	if len(got) != 1 || got[0].VNet.GSO() != encap.VnetGSOTCPv4 || int(got[0].VNet.GSOSize) != 1480-40 {
		t.Fatalf("%+v", got)
	}
	n := r.Engine.Stats().Networks[0]
	if want := uint64(40 + 40 + 21); n.RxPackets != want || n.Kind != dataplane.KindIPIP {
		t.Errorf("%+v, want %d packets", n, want)
	}
}

// TestTunnelOuter wants the outer header by RFC 2003 section 3.1 and RFC 6040.
func TestTunnelOuter(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*dataplane.Tunnel)
		frag    bool
		tos     uint8
		wantTOS uint8
		wantDF  bool
		wantTTL uint8
	}{
		"inherit":            {tos: 0xb9, wantTOS: 0xb9, wantDF: true, wantTTL: 64},
		"CE goes out":        {tos: encap.CE, wantTOS: encap.CE, wantDF: true, wantTTL: 64},
		"fixed, ECN follows": {change: func(c *dataplane.Tunnel) { c.TOS = dataplane.TOS{Value: 0x28} }, tos: 0xba, wantTOS: 0x2a, wantDF: true, wantTTL: 64},
		"DF always":          {frag: true, wantDF: true, wantTTL: 64},
		"DF copied up":       {change: func(c *dataplane.Tunnel) { c.DF = false }, wantDF: true, wantTTL: 64},
		"no DF":              {change: func(c *dataplane.Tunnel) { c.DF = false }, frag: true, wantTTL: 64},
		"TTL":                {change: func(c *dataplane.Tunnel) { c.TTL = 9 }, wantDF: true, wantTTL: 9},
	} {
		t.Run(name, func(t *testing.T) {
			c0 := testTunnel()
			if c.change != nil {
				c.change(&c0)
			}
			r := newTunnelPaths(t, c0)
			s := flowSpec{src: macA, dst: macB, udp: true, tos: c.tos, frag: c.frag}
			for _, f := range []netiotest.Frame{s.partial(t, pattern(100)), s.gsoPacket(t, pattern(3000), 1000)} {
				ttl := packet(f).Data[8]
				for _, got := range r.out(packet(f)) {
					if got.TOS != c.wantTOS || got.DF != c.wantDF || got.TTL != c.wantTTL || got.To != netip.AddrPortFrom(addrB, 0) {
						t.Errorf("%+v", got)
					}
					for _, p := range got.Payloads {
						if p[8] != ttl || !sumsUp(framed(netiotest.Frame{Data: p}).Data) {
							t.Errorf("inner TTL %d, want %d as it was; packet %x", p[8], ttl, p)
						}
					}
				}
			}
		})
	}
}

// TestTunnelDecapECN goes through the table of RFC 6040 section 4.2.
func TestTunnelDecapECN(t *testing.T) {
	const not, one, zero, ce = encap.NotECT, encap.ECT1, encap.ECT0, encap.CE
	const drop = 0xff
	want := map[uint8][4]uint8{ // by inner, then outer: Not-ECT, ECT(1), ECT(0), CE
		not: {not, not, not, drop}, one: {one, one, one, ce}, zero: {zero, one, zero, ce}, ce: {ce, ce, ce, ce},
	}
	r := newTunnelPaths(t, testTunnel())
	drops := uint64(0)
	for inner, row := range want {
		for outer, ecn := range row {
			s := flowSpec{src: macB, dst: macA, udp: true, tos: 0xb8 | inner}
			d := fromB(s.complete(t, pattern(20))[encap.EthernetHeaderLen:])
			d.TOS = 0x10 | uint8(outer)
			got := r.in(d)
			if ecn == drop {
				drops++
				if len(got) != 0 {
					t.Errorf("inner %d, outer %d: arrived", inner, outer)
				}
				continue
			}
			if len(got) != 1 || got[0].Data[1] != 0xb8|ecn || !sumsUp(framed(got[0]).Data) {
				t.Errorf("inner %d, outer %d: %+v, want %d", inner, outer, got, ecn)
			}
		}
	}
	if n := r.dropped(dataplane.DropIPTunnelECN, "green"); n != drops {
		t.Errorf("%d dropped, want %d", n, drops)
	}
}

func (r *tunnelPaths) dropped(d dataplane.Drop, network string) (n uint64) {
	for _, s := range r.Engine.Stats().Drops {
		if s.Reason == d && s.Network == network {
			n += s.Count
		}
	}
	return n
}

// tunnelDrops are the reasons that only tunnels have: TestTunnelDrops provokes
// them.
var tunnelDrops = map[dataplane.Drop]bool{
	dataplane.DropIPInHdr: true, dataplane.DropUnhandledProto: true, dataplane.DropTTLZero: true,
	dataplane.DropLoop: true, dataplane.DropSourceNotRouted: true,
}

// TestTunnelDrops wants what must not pass to be dropped by its name, and
// nothing else to happen.
func TestTunnelDrops(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	good := func() []byte { return packet(tcp.partial(t, pattern(10))).Data }
	change := func(at int, to ...byte) []byte {
		b := good()
		copy(b[at:], to)
		return b
	}
	v6 := tcp
	v6.v6 = true
	lying := packet(tcp.partial(t, pattern(10)))
	lying.VNet.CsumStart = 12
	seen := make(map[dataplane.Drop]bool)
	for name, c := range map[string]struct {
		reason  dataplane.Drop
		change  func(*dataplane.Tunnel)
		out     *netiotest.Frame
		in      *netio.Datagram
		errno   unix.Errno
		unknown bool // whose packet it is
		count   uint64
		ingress dataplane.Ingress
	}{
		"nothing but a version": {reason: dataplane.DropTooShort, out: &netiotest.Frame{Data: good()[:1]}},
		"cut off":               {reason: dataplane.DropTooShort, out: &netiotest.Frame{Data: good()[:39]}},
		"malformed":             {reason: dataplane.DropIPInHdr, out: &netiotest.Frame{Data: change(0, 0x44)}},
		"IPv6":                  {reason: dataplane.DropUnhandledProto, out: ptr(packet(v6.partial(t, nil)))},
		"no hops left":          {reason: dataplane.DropTTLZero, out: &netiotest.Frame{Data: change(8, 0)}},
		"no route":              {reason: dataplane.DropNoRoute, out: &netiotest.Frame{Data: change(16, 10, 9, 9, 9)}},
		"from our own end":      {reason: dataplane.DropLoop, out: &netiotest.Frame{Data: change(12, 192, 0, 2, 1)}},
		"from the other end":    {reason: dataplane.DropLoop, out: &netiotest.Frame{Data: change(12, 192, 0, 2, 2)}},
		"for the other end":     {reason: dataplane.DropLoop, change: routeUnderlay, out: &netiotest.Frame{Data: change(16, 192, 0, 2, 2)}},
		"for our own end":       {reason: dataplane.DropLoop, change: routeUnderlay, out: &netiotest.Frame{Data: change(16, 192, 0, 2, 1)}},
		"too long":              {reason: dataplane.DropTooBig, out: ptr(packet(tcp.partial(t, pattern(1441))))},
		"segments too long":     {reason: dataplane.DropTooBig, count: 3, out: ptr(packet(tcp.gsoPacket(t, pattern(3*1441), 1441)))},
		"lying checksum":        {reason: dataplane.DropBadOffload, out: &lying},
		"path too narrow":       {reason: dataplane.DropTooBig, errno: unix.EMSGSIZE, out: &netiotest.Frame{Data: good()}},
		"no route to the peer":  {reason: dataplane.DropNoRoute, errno: unix.ENETUNREACH, out: &netiotest.Frame{Data: good()}},
		"unlisted sender":       {reason: dataplane.DropPeerNotAdmitted, unknown: true, in: &netio.Datagram{From: unlisted, Data: good()}},
		"our own address":       {reason: dataplane.DropPeerNotAdmitted, unknown: true, change: admitAny, in: &netio.Datagram{From: addrA, Data: good()}},
		"out of an overlay":     {reason: dataplane.DropFromOverlay, ingress: overlay7, in: &netio.Datagram{From: addrB, Device: 7, Data: good()}},
		"unlisted sender out of an overlay": {reason: dataplane.DropFromOverlay, ingress: overlay7, change: admitAny, unknown: true,
			in: &netio.Datagram{From: unlisted, Device: 7, Data: good()}},
		"truncated":                 {reason: dataplane.DropTruncated, unknown: true, in: &netio.Datagram{From: addrB, Data: good(), Truncated: true}},
		"nothing inside":            {reason: dataplane.DropTooShort, in: &netio.Datagram{From: addrB}},
		"received, cut off":         {reason: dataplane.DropTooShort, in: ptr(fromB(good()[:39]))},
		"received, malformed":       {reason: dataplane.DropIPInHdr, in: ptr(fromB(change(0, 0x44)))},
		"received, IPv6":            {reason: dataplane.DropUnhandledProto, in: ptr(fromB(packet(v6.partial(t, nil)).Data))},
		"received, from ourselves":  {reason: dataplane.DropLoop, in: ptr(fromB(change(12, 192, 0, 2, 1)))},
		"received, of another peer": {reason: dataplane.DropSourceNotRouted, change: checkSource, in: ptr(fromB(change(12, 198, 51, 100, 200)))},
		"received, unrouted":        {reason: dataplane.DropSourceNotRouted, change: checkSource, in: ptr(fromB(change(12, 10, 9, 9, 9)))},
		"received, too long":        {reason: dataplane.DropTooBig, in: ptr(fromB(tcp.complete(t, pattern(1441))[encap.EthernetHeaderLen:]))},
	} {
		t.Run(name, func(t *testing.T) {
			c0 := testTunnel()
			if c.change != nil {
				c.change(&c0)
			}
			r := newTunnelPaths(t, c0)
			if err := r.Engine.SetIngress(c.ingress); err != nil {
				t.Fatal(err)
			}
			seen[c.reason] = true
			direction := dataplane.Outbound
			if c.out != nil {
				r.backend.RefuseSends(c.errno, 1)
				for _, s := range r.out(*c.out) {
					if len(s.Payloads) > 0 {
						t.Errorf("it was sent: %+v", s)
					}
				}
				r.backend.RefuseSends(0, 0)
			} else {
				direction = dataplane.Inbound
				if got := r.in(*c.in); len(got) > 0 {
					t.Errorf("it arrived: %+v", got)
				}
			}
			want := dataplane.DropStats{Network: "green", Direction: direction, Reason: c.reason, Count: max(c.count, 1)}
			if c.unknown {
				want.Network = ""
			}
			if got := r.Engine.Stats().Drops; len(got) != 1 || count(got[0]) != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			r.tun.Written() // answers have a test of their own
			if len(r.out(netiotest.Frame{Data: good()})) != 1 || len(r.in(fromB(good()))) != 1 {
				t.Error("the next packets do not pass")
			}
		})
	}
	for d := range tunnelDrops {
		if !seen[d] {
			t.Errorf("%s was not provoked", d)
		}
	}
}

// overlay7 has the device of index 7 be one of an overlay network.
var overlay7 = dataplane.Ingress{Devices: []int{7}}

func ptr[T any](v T) *T { return &v }

func checkSource(c *dataplane.Tunnel) { c.CheckSource = true }
func admitAny(c *dataplane.Tunnel)    { c.Admit.Any = true }

func routeUnderlay(c *dataplane.Tunnel) {
	c.Routes = append(c.Routes, dataplane.TunnelRoute{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Peer: addrB})
}

// TestTunnelsByPeer wants a packet to reach the tunnel of its sender, whatever
// order they come in, and unlisted senders that of the policy which lets them in.
func TestTunnelsByPeer(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 2)
	green, red := testTunnel(), testTunnel()
	green.Routes = green.Routes[:1]
	red.Name, red.Device, red.Admit.Any = "red", "tun1", true
	red.Routes = []dataplane.TunnelRoute{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Peer: addrC}}
	diff, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{testNetwork(addrA, addrB)}, Tunnels: []dataplane.Tunnel{green, red}})
	if err != nil || len(diff.Added) != 3 {
		t.Fatalf("%+v, %v", diff, err)
	}
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPSYN}
	p := s.complete(t, nil)[encap.EthernetHeaderLen:]
	for range 10 {
		for _, from := range []netip.Addr{addrB, addrC, unlisted} {
			u.Deliver(netip.AddrPortFrom(addrA, 0), netio.Datagram{From: from, Data: p})
		}
	}
	if n, m := len(a.TAP("tun0").Wait(10)), len(a.TAP("tun1").Wait(20)); n != 10 || m != 20 {
		t.Errorf("%d and %d packets", n, m)
	}
	eventually(t, "all are counted by peer", func() bool {
		counts := make(map[string]uint64)
		for _, p := range a.Stats().Peers {
			counts[p.Network+" "+p.Peer.String()] = p.RxPackets
		}
		return counts["green 192.0.2.2"] == 10 && counts["red 192.0.2.3"] == 10 && counts["red 203.0.113.9"] == 10
	})

	// Apply: routes, policy, peers and the MTU change in place, the rest does not.
	green.Routes = append(green.Routes, dataplane.TunnelRoute{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Peer: addrB})
	if diff, err := a.Apply(dataplane.Desired{Tunnels: []dataplane.Tunnel{green}}); err != nil ||
		len(diff.Changed) != 1 || len(diff.Removed) != 2 {
		t.Errorf("%+v, %v", diff, err)
	}
	if diff, err := a.Apply(dataplane.Desired{Tunnels: []dataplane.Tunnel{green}}); err != nil || !diff.Empty() {
		t.Errorf("%+v, %v", diff, err)
	}
	other := green
	other.Device = "tun9"
	if _, err := a.Apply(dataplane.Desired{Tunnels: []dataplane.Tunnel{other}}); err == nil {
		t.Error("the device of a running tunnel changed")
	}
	green.MTU = 1400
	if diff, err := a.Apply(dataplane.Desired{Tunnels: []dataplane.Tunnel{green}}); err != nil ||
		len(diff.Changed) != 1 || len(diff.Removed) != 0 {
		t.Errorf("%+v, %v", diff, err)
	}
	taken := testNetwork(addrA, addrB)
	taken.Name = green.Name
	if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{taken}}); err == nil {
		t.Error("a running tunnel became a network")
	}
	b := append([]byte(nil), p...)
	copy(b[16:], []byte{10, 9, 9, 9})
	a.Record()
	a.TAP("tun0").Inject(netiotest.Frame{Data: b})
	eventually(t, "the new route leads", func() bool { return len(a.Sent()) == 1 })
}

func TestTunnelIsChecked(t *testing.T) {
	for name, spoil := range map[string]func(c *dataplane.Tunnel){
		"no name":        func(c *dataplane.Tunnel) { c.Name = "" },
		"no device":      func(c *dataplane.Tunnel) { c.Device = "" },
		"MTU":            func(c *dataplane.Tunnel) { c.MTU = 67 },
		"TTL":            func(c *dataplane.Tunnel) { c.TTL = 0 },
		"IPv6 prefix":    func(c *dataplane.Tunnel) { c.Routes[0].Prefix = netip.MustParsePrefix("2001:db8::/64") },
		"host bits":      func(c *dataplane.Tunnel) { c.Routes[0].Prefix = netip.MustParsePrefix("10.0.0.1/24") },
		"twice":          func(c *dataplane.Tunnel) { c.Routes[1].Prefix = c.Routes[0].Prefix },
		"own address":    func(c *dataplane.Tunnel) { c.Routes[0].Peer = addrA },
		"IPv6 peer":      func(c *dataplane.Tunnel) { c.Routes[0].Peer = netip.MustParseAddr("2001:db8::1") },
		"device of blue": func(c *dataplane.Tunnel) { c.Device = "vx0" },
		"name of blue":   func(c *dataplane.Tunnel) { c.Name = "blue" },
	} {
		a := bareHost(t, netiotest.NewUnderlay(t), addrA, 1)
		c := testTunnel()
		spoil(&c)
		d := dataplane.Desired{Networks: []dataplane.Network{testNetwork(addrA, addrB)}, Tunnels: []dataplane.Tunnel{c}}
		if _, err := a.Apply(d); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if len(a.Info().Networks) != 0 {
			t.Errorf("%s: something was opened", name)
		}
	}
	a := bareHost(t, netiotest.NewUnderlay(t), addrA, 1)
	one, two := testTunnel(), testTunnel()
	two.Name, two.Device = "red", "tun1"
	if _, err := a.Apply(dataplane.Desired{Tunnels: []dataplane.Tunnel{one, two}}); err == nil {
		t.Error("a peer of two tunnels was accepted")
	}
}

func TestTunnelAllocatesNothing(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
	udp := flowSpec{src: macA, dst: macB, udp: true}
	e := &null{slots: make([][]byte, 0, dataplane.OutFrames)}
	c := testTunnel()
	c.CheckSource = true
	r, err := dataplane.NewTunnelPaths(dataplane.Options{Underlay: addrA, Backend: e}, c)
	if err != nil {
		t.Fatal(err)
	}
	super := packet(tcp.gsoPacket(t, pattern(60000), 1386))
	zero := packet(udp.partial(t, pattern(22)))
	zero.Data[8] = 0
	for range 16 {
		e.frames = append(e.frames, super, packet(udp.partial(t, pattern(22))), zero)
	}
	var sent, copied int
	e.onSend = func(s []netio.Send) {
		for i := range s {
			sent++
			if len(s[i].Parts) == 1 {
				continue
			}
			// Every second part is payload, where it was read.
			for j := 1; j < len(s[i].Parts); j += 2 {
				within := false
				for _, slot := range e.slots {
					within = within || startsAt(s[i].Parts[j], slot, 52+1386*(j/2))
				}
				if !within {
					copied++
				}
			}
		}
	}
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	if sent < 8 || copied != 0 {
		t.Errorf("%d sends, in which %d payloads were copied", sent, copied)
	}
	e.onSend = nil
	if n := testing.AllocsPerRun(50, func() {
		if err := r.Outbound(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a batch outbound allocates %v times", n)
	}

	var ds []netio.Datagram
	for _, b := range tcp.segments(t, pattern(40000), 1386) {
		ds = append(ds, fromB(b[encap.EthernetHeaderLen:]))
	}
	marked := fromB(flowSpec{src: macA, dst: macB, udp: true, tos: encap.ECT0}.complete(t, pattern(22))[encap.EthernetHeaderLen:])
	marked.TOS = encap.CE
	stray := fromB(append([]byte(nil), marked.Data...))
	stray.From = unlisted
	spoofed := fromB(append([]byte(nil), marked.Data...))
	binary.BigEndian.PutUint32(spoofed.Data[12:], 0x0a010101)
	e.receives(append(ds, marked, stray, spoofed)...)
	if n := testing.AllocsPerRun(50, func() {
		if err := r.Inbound(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a batch inbound allocates %v times", n)
	}
	if s := r.Engine.Stats(); s.Networks[0].RxPackets == 0 || len(s.Drops) != 3 {
		t.Errorf("%+v", s)
	}
}

// TestTunnelAnswers wants the inner sender to get what the path says, from
// the address that it sent to, and no other sender to get anything.
func TestTunnelAnswers(t *testing.T) {
	const tooBig, host, net = 4, 1, 0 // codes of Destination Unreachable
	s := flowSpec{src: macA, dst: macB, udp: true}
	long, short := packet(s.partial(t, pattern(1400))), packet(s.partial(t, pattern(100)))
	super := packet(flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}.gsoPacket(t, pattern(14000), 1400))
	frag := packet(flowSpec{src: macA, dst: macB, udp: true, frag: true}.partial(t, pattern(1400)))
	echoed := func(f netiotest.Frame) netio.Datagram {
		return netio.Datagram{From: addrB, Data: f.Data[:28], Quoted: true, Unreachable: true}
	}
	for name, c := range map[string]struct {
		change func(*dataplane.Tunnel)
		errno  unix.Errno
		path   encap.UnderlayMTU
		out    []netiotest.Frame
		in     []netio.Datagram
		code   []byte // of each answer
		mtu    uint16
		sent   int
	}{
		"the path is narrow":          {path: 1400, out: []netiotest.Frame{long, long, short}, code: []byte{tooBig, tooBig}, mtu: 1380, sent: 1},
		"for a GSO packet":            {path: 1400, out: []netiotest.Frame{super, super, short}, code: []byte{tooBig, tooBig}, mtu: 1380, sent: 1},
		"too narrow for TCP":          {path: 571, out: []netiotest.Frame{long, long, short}, sent: 3},
		"narrow, and DF is not set":   {path: 1400, out: []netiotest.Frame{frag, frag, short}, sent: 4},
		"the path may cut":            {change: func(c *dataplane.Tunnel) { c.DF = false }, path: 1400, out: []netiotest.Frame{frag, frag}, sent: 2},
		"DF of the inner packet":      {change: func(c *dataplane.Tunnel) { c.DF = false }, path: 1400, out: []netiotest.Frame{long, long}, code: []byte{tooBig, tooBig}, mtu: 1380},
		"longer than the tunnel's":    {out: []netiotest.Frame{packet(s.partial(t, pattern(1453)))}, code: []byte{tooBig}, mtu: 1480},
		"the underlay has no route":   {errno: unix.ENETUNREACH, out: []netiotest.Frame{short}, code: []byte{host}},
		"the tunnel has no route":     {change: func(c *dataplane.Tunnel) { c.Routes = c.Routes[1:] }, out: []netiotest.Frame{short}, code: []byte{net}},
		"a buffer is full":            {errno: unix.ENOBUFS, out: []netiotest.Frame{short}},
		"a router says unreachable":   {in: []netio.Datagram{echoed(short), echoed(short)}, code: []byte{host, host}},
		"it says something else":      {in: []netio.Datagram{{From: addrB, Data: short.Data[:28], Quoted: true}}},
		"it quotes too little":        {in: []netio.Datagram{{From: addrB, Data: short.Data[:20], Quoted: true, Unreachable: true}}},
		"it quotes nothing":           {in: []netio.Datagram{{From: addrB, Quoted: true, Unreachable: true}}},
		"of an unknown packet":        {in: []netio.Datagram{{From: unlisted, Data: short.Data[:28], Quoted: true, Unreachable: true}}},
		"of a packet to another peer": {in: []netio.Datagram{{From: addrC, Data: short.Data[:28], Quoted: true, Unreachable: true}}},
		"a whole batch of errors":     {in: manyOf(64, echoed(short)), code: bytes.Repeat([]byte{host}, 64)},
	} {
		t.Run(name, func(t *testing.T) {
			c0 := testTunnel()
			if c.change != nil {
				c.change(&c0)
			}
			r := newTunnelPaths(t, c0)
			r.backend.SetPathMTU(addrB, c.path)
			r.backend.RefuseSends(c.errno, 100)
			sent := 0
			for _, f := range c.out {
				for _, s := range r.out(f) {
					sent += len(s.Payloads)
				}
			}
			answers := r.tun.Written()
			if len(c.in) > 0 {
				answers = r.in(c.in...)
			}
			if len(answers) != len(c.code) || sent != c.sent {
				t.Fatalf("%d answers, want %d; %d sent, want %d; drops %+v", len(answers), len(c.code), sent, c.sent, r.Engine.Stats().Drops)
			}
			for i, a := range answers {
				ip := encap.IPv4(a.Data)
				icmp := encap.ICMPv4(ip.Payload())
				if ip.Src().String() != "203.0.113.2" || ip.Dst().String() != "198.51.100.1" || ip.Protocol() != encap.ProtoICMPv4 {
					t.Errorf("answer %d is from %s to %s", i, ip.Src(), ip.Dst())
				}
				if icmp[0] != 3 || icmp[1] != c.code[i] || binary.BigEndian.Uint16(icmp[6:]) != c.mtu {
					t.Errorf("answer %d: type %d, code %d, MTU %d; want 3, %d, %d", i, icmp[0], icmp[1], binary.BigEndian.Uint16(icmp[6:]), c.code[i], c.mtu)
				}
			}
			n := r.Engine.Stats().Networks[0]
			if got := int(n.Answered + n.UnreachableAnswered); got != len(c.code) {
				t.Errorf("%d answers are counted, want %d", got, len(c.code))
			}
		})
	}
}

func manyOf[T any](n int, v T) (all []T) {
	for range n {
		all = append(all, v)
	}
	return all
}
