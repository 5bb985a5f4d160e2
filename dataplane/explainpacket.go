package dataplane

import (
	"fmt"
	"net/netip"

	"overtap/encap"
	"overtap/fdb"
)

// packetOut explains a packet from a tunnel's TUN (packetOut.forward).
func (x *explainer) packetOut(t *tunnel) {
	p := t.policy.Load()
	s := newStage(x.e.edges, atHand{peers: t.peers, mtu: p.mtu, packets: true})
	o := &packetOut{out: s.outbound, self: x.e.options.Underlay, t: t, p: p}
	f := x.frame(encap.FindPacketTransport)
	x.out.Direction = Outbound
	if x.lost(&t.overlay, t.config.Device) {
		return
	}
	transport, to, d := o.route(f.Data)
	switch d {
	case dropNone, DropNoRoute, DropLoop:
		ip := encap.IPv4(f.Data)
		x.step("packet", stepPass, "%s to %s, %d bytes", ip.Src(), ip.Dst(), len(f.Data))
		if d == DropNoRoute {
			s.tellUnreachable(f.Data, encap.NetUnreachable)
			x.drop("route", d, fmt.Sprintf("no route of the tunnel holds %s", ip.Dst()))
			x.told(s)
			return
		}
		route, _ := t.routes.Route(ip.Dst())
		x.step("route", stepPass, "%s is the longest prefix that holds it: behind %s", route.Prefix, to.Addr)
		if !x.checked("loop", d, "neither from nor for an end of the tunnel") {
			return
		}
	default:
		x.checked("packet", d, "")
		return
	}
	u, d := o.inspect(f, transport, to.ID)
	if x.fits(s, f, &u, d) {
		before := s.dropped()
		o.deliver(&u, f, transport, to, s.wire)
		long := map[netip.Addr]bool{to.Addr: s.dropped() != before}
		s.flush(s.wire)
		x.copies(s, &u, []fdb.Target{to}, long)
	}
	x.told(s)
}
