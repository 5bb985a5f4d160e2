package config

import (
	"math"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/encap"
)

// HostNetworks describes what this host looks like around the device of every
// network and tunnel of d, which Desired has made of c.
func (c *Config) HostNetworks(d dataplane.Desired) []host.Network {
	all := make([]host.Network, 0, len(d.Networks)+len(d.Tunnels))
	for i, n := range d.Networks {
		all = append(all, c.VXLAN[i].Host(n.MTU))
	}
	for i, t := range d.Tunnels {
		all = append(all, c.IPIP[i].host(t.MTU))
	}
	return all
}

// Plan is what all of c needs of this host. The MTUs are left out: what the
// underlay carries need not be known for it.
func (c *Config) Plan() host.Plan {
	p := host.Plan{Tun: host.TunDevice, Underlay: c.Underlay.Address, Device: c.Underlay.Device, Routes: c.Routes, Ports: c.Ports()}
	for i := range c.VXLAN {
		p.Networks = append(p.Networks, c.VXLAN[i].Host(0))
	}
	for i := range c.IPIP {
		p.Networks = append(p.Networks, c.IPIP[i].host(0))
	}
	return p
}

// Host describes what this host looks like around the network's TAP of that MTU.
func (v *VXLAN) Host(mtu encap.OverlayMTU) host.Network {
	return host.Network{
		Name: v.Name, Device: v.Device, MAC: v.MAC, MTU: mtu,
		Bridge: v.Bridge, Ports: v.Ports, PortsTake: v.PortsTake,
		// The MACs of peers that the network's own table has, and as many of this host.
		MaxMACs:   uint32(min(2*int64(v.MaxEntries), math.MaxUint32)),
		Addresses: v.Addresses, Routes: v.Routes, Neighbors: v.hostNeighbors(),
		BridgeControl: v.BridgeControl,
	}
}

func (t *IPIP) host(mtu encap.OverlayMTU) host.Network {
	n := host.Network{Name: t.Name, TUN: true, Device: t.Device, MTU: mtu, Addresses: t.Addresses}
	for _, r := range t.Routes {
		n.Routes = append(n.Routes, host.Route{Prefix: r.Prefix})
	}
	return n
}

// hostNeighbors are the neighbours that this host's own stack must know: those of
// the families in which it has an address or a route in the network.
func (v *VXLAN) hostNeighbors() []dataplane.Neighbor {
	has := make(map[int]bool) // by the length of an address
	for _, a := range v.Addresses {
		has[a.Addr().BitLen()] = true
	}
	for _, r := range v.Routes {
		has[r.Via.BitLen()] = true
	}
	out := make([]dataplane.Neighbor, 0, len(v.Neighbors))
	for _, n := range v.Neighbors {
		if has[n.Address.BitLen()] {
			out = append(out, n)
		}
	}
	return out
}
