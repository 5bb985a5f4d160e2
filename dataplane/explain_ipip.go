package dataplane

import (
	"fmt"

	"overtap/encap"
	"overtap/fdb"
)

// packetOut explains a packet from a tunnel's TUN (txIPIP.forward).
func (x *explainer) packetOut(t *tunnel) {
	p := t.config.Load()
	s := newDryRun(x.e.backend, current{peers: t.peers, mtu: p.MTU, ttl: p.TTL, packets: true})
	o := &txIPIP{sender: s.sender, self: x.e.options.Underlay, t: t, p: p}
	f := x.frame(encap.FindPacketTransport)
	x.out.Direction = Outbound
	if x.lost(&t.netBase, t.config.Load().Device) {
		return
	}
	transport, to, d := o.route(f.Data)
	switch d {
	case dropNone, DropNoRoute, DropLoop:
		ip := encap.IPv4(f.Data)
		x.step("packet", stepPass, "%s to %s, %d bytes", ip.Src(), ip.Dst(), len(f.Data))
		if d == DropNoRoute {
			s.sendUnreachable(f.Data, encap.NetUnreachable)
			x.drop("route", d, fmt.Sprintf("no route of the tunnel holds %s", ip.Dst()))
			x.notified(s)
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
		x.send(s, &u, []fdb.Target{to}, func(fdb.Target) { o.deliver(&u, f, transport, to, s.conn) })
	}
	x.notified(s)
}
