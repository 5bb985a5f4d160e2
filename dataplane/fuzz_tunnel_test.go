package dataplane_test

import (
	"net/netip"
	"slices"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// What a fuzzed tunnel is like, by the bits of its script's first two bytes.
const (
	tunnelPlain = 1 << iota
	tunnelClamp
	tunnelNoDF
	tunnelCheckSource
	tunnelAdmitAny
	tunnelNoUSO
	tunnelNarrow // an MTU of 576
)

// passage is one execution of FuzzTunnelPaths.
type passage struct {
	*tunnelPaths
	t           *testing.T
	c           dataplane.Tunnel
	senders     []netip.Addr // host b, host c, an unlisted sender, ourselves
	room        []int
	unsegmented bool
}

func newPassage(t *testing.T, like uint16) *passage {
	c := testTunnel()
	c.Plain, c.ClampMSS, c.DF = like&tunnelPlain != 0, like&tunnelClamp != 0, like&tunnelNoDF == 0
	c.CheckSource, c.Admit.Any = like&tunnelCheckSource != 0, like&tunnelAdmitAny != 0
	if like&tunnelNarrow != 0 {
		c.MTU = 576
	}
	u := netiotest.NewUnderlay(t)
	edges := u.Backend(addrA)
	if like&tunnelNoUSO != 0 {
		edges.WithoutUSO()
	}
	r, err := dataplane.NewTunnelPaths(dataplane.Options{Underlay: addrA, Backend: edges}, c)
	if err != nil {
		t.Fatal(err)
	}
	edges.Record()
	return &passage{
		tunnelPaths: &tunnelPaths{TunnelPaths: r, u: u, backend: edges, tun: edges.TAP(c.Device), tb: t},
		t:           t, c: c, senders: []netip.Addr{addrB, addrC, unlisted, addrA}, room: r.Room(),
	}
}

// behind is the slow twin of the routes: the peer of the longest prefix.
func (p *passage) behind(a netip.Addr) (peer netip.Addr) {
	best := -1
	for _, r := range p.c.Routes {
		if r.Prefix.Contains(a) && r.Prefix.Bits() > best {
			best, peer = r.Prefix.Bits(), r.Peer
		}
	}
	return peer
}

func (p *passage) do(d deed) {
	switch d.kind {
	case deedOut:
		p.goOut(d)
	case deedIn:
		p.comeIn(d)
	case deedRefuse:
		p.tun.RefuseWrites(refusals[int(d.value>>8)%len(refusals)])
		p.backend.RefuseSends(refusals[int(d.value)%len(refusals)], 1+d.sender)
	case deedPath:
		p.backend.SetPathMTU(p.senders[d.sender], encap.UnderlayMTU(d.value))
	case deedEdges:
		p.unsegmented = d.value&1 != 0
		p.backend.TakeUnsegmented(p.unsegmented)
	}
	if problem := unbalanced(p.Engine.Stats()); problem != "" {
		p.t.Fatalf("not conserved: %s", problem)
	}
	if now := p.Room(); !slices.Equal(now, p.room) {
		p.t.Fatalf("the paths had room for %v, and have for %v", p.room, now)
	}
}

// goOut takes packets out: each leaves to the peer that it routes to, or its sender gets an ICMP error.
func (p *passage) goOut(d deed) {
	if len(d.frame.Data) > netio.MaxFrame {
		return
	}
	before := p.Engine.Stats().Networks[0]
	sends := p.out(slices.Repeat([]netiotest.Frame{d.frame}, d.times)...)
	after := p.Engine.Stats().Networks[0]
	count := uint64(0)
	cleared := after.ClearedDF > before.ClearedDF // on a path too narrow for it
	for _, s := range sends {
		for _, b := range s.Payloads {
			ip := encap.IPv4(b) // the backend has looked at it
			if s.To != netip.AddrPortFrom(p.behind(ip.Dst()), 0) || ip.TTL() == 0 || s.TTL != p.c.TTL ||
				s.DF != (p.c.DF || ip.DF()) && (s.DF || !cleared) {
				p.t.Fatalf("sent to %s, %+v: % x", s.To, s, b)
			}
			for _, end := range []netip.Addr{addrA, s.To.Addr()} {
				if ip.Src() == end || ip.Dst() == end {
					p.t.Fatalf("an end's own packet went into the tunnel: % x", b)
				}
			}
			if len(b) > int(p.c.MTU) && !(p.unsegmented && d.frame.VNet.GSO() != encap.VnetGSONone) {
				p.t.Fatalf("a packet of %d bytes left", len(b))
			}
			count++
		}
	}
	if sent := after.TxPackets - before.TxPackets; count != sent && !(p.unsegmented && count < sent) {
		p.t.Fatalf("%d packets left, %d are counted", count, sent)
	}
	answers := p.tun.Written()
	if want := after.Answered + after.UnreachableAnswered - before.Answered - before.UnreachableAnswered; uint64(len(answers)) != want {
		p.t.Fatalf("%d answers, %d are counted", len(answers), want)
	}
	for _, a := range answers {
		if encap.IPv4(a.Data).Dst() != encap.IPv4(d.frame.Data).Src() {
			p.t.Fatalf("% x is answered by % x", d.frame.Data, a.Data)
		}
	}
}

// comeIn takes packets in: nothing leaves again, and nothing reaches the TUN that a
// unlisted sender sent.
func (p *passage) comeIn(d deed) {
	before := p.Engine.Stats()
	written := p.in(slices.Repeat([]netio.Datagram{d.d}, d.times)...)
	after := p.Engine.Stats()
	if sent := p.backend.Sent(); len(sent) != 0 {
		p.t.Fatalf("what came in left again: %+v", sent)
	}
	was, is := before.Networks[0], after.Networks[0]
	counted := is.RxOffered - was.RxOffered + dropsOfNone(after) - dropsOfNone(before)
	if d.d.Quoted != (counted == 0) || !d.d.Quoted && counted < uint64(d.times) {
		p.t.Fatalf("%d datagrams, of which %d are counted: %+v", d.times, counted, d.d)
	}
	known := d.d.From == addrB || d.d.From == addrC
	if len(written) > 0 && !known && !p.c.Admit.Any {
		p.t.Fatalf("taken from %s", d.d.From)
	}
	var packets []netiotest.Frame
	for _, w := range written {
		packets = append(packets, framed(w))
		ip := encap.IPv4(w.Data)
		switch {
		case d.d.Quoted:
			if p.behind(ip.Src()) != d.d.From {
				p.t.Fatalf("%s said that % x does not arrive", d.d.From, w.Data)
			}
		case ip.Src() == addrA:
			p.t.Fatal("our own packet came in")
		case p.c.CheckSource && p.behind(ip.Src()) != d.d.From:
			p.t.Fatalf("taken from %s: %s", d.d.From, ip.Src())
		}
	}
	want := is.RxPackets - was.RxPackets + is.UnreachableAnswered - was.UnreachableAnswered
	if got := uint64(len(cutAll(p.t, packets))); got != want {
		p.t.Fatalf("%d packets written, %d counted", got, want)
	}
}

// FuzzTunnelPaths is FuzzPaths for a tunnel of IP-in-IP.
func FuzzTunnelPaths(f *testing.F) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK | encap.TCPPSH}
	syn := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPSYN, tcpOptions: 4}
	udp := flowSpec{src: macA, dst: macB, udp: true, ipOptions: 8, frag: true}
	for _, like := range []uint16{0, tunnelPlain | tunnelNoUSO, tunnelClamp | tunnelNoDF, tunnelCheckSource, tunnelAdmitAny | tunnelNarrow} {
		f.Add([]byte(newScript(like).
			out(1, packet(syn.partial(f, nil))).
			out(2, packet(tcp.gsoPacket(f, pattern(5000), 1200))).
			in(0, 0, encap.ECT1, 0, packet(netiotest.Frame{Data: tcp.complete(f, pattern(80))}).Data).
			in(1, 0, encap.CE, 0, packet(udp.partial(f, pattern(900))).Data).
			in(0, flagQuoted|flagUnreachable, 0, 0, packet(tcp.partial(f, pattern(8))).Data)))
		f.Add([]byte(newScript(like).
			set(deedPath, 0, 700).
			out(1, packet(tcp.partial(f, pattern(1000)))).
			out(1, packet(udp.gsoPacket(f, pattern(3000), 600))).
			set(deedEdges, 0, 1).set(deedRefuse, 0, 7).
			out(3, packet(tcp.gsoPacket(f, pattern(3000), 500))).
			in(2, 0, 0, 0, packet(udp.partial(f, pattern(20))).Data).
			in(0, 0, 0, 0, packet(tcp.partial(f, pattern(9000))).Data)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := reader(b)
		p := newPassage(t, s.uint16())
		defer func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}()
		for range maxDeeds {
			if len(s) == 0 {
				break
			}
			p.do(s.next(p.senders))
		}
	})
}
