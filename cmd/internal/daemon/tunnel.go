package daemon

import (
	"slices"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/encap"
)

// hostTunnel is what the host shall look like around t's TUN.
func (d *daemon) hostTunnel(t dataplane.Tunnel) host.Network {
	n := host.Network{Name: t.Name, TUN: true, Device: t.Device, MTU: t.MTU, Addresses: d.ipip(t.Name).Addresses}
	for _, r := range t.Routes {
		n.Routes = append(n.Routes, host.Route{Prefix: r.Prefix})
	}
	return n
}

// ipip is what the configuration says of a tunnel that it has.
func (d *daemon) ipip(name string) config.IPIP {
	all := d.conf().IPIP
	i := slices.IndexFunc(all, func(t config.IPIP) bool { return t.Name == name })
	if i < 0 {
		return config.IPIP{}
	}
	return all[i]
}

// hostNetworks is what the host shall look like around the device of every
// network and tunnel. The caller holds mu, or is alone.
func (d *daemon) hostNetworks() []host.Network {
	var all []host.Network
	for _, n := range d.base.Networks {
		all = append(all, d.hostNetwork(n))
	}
	for _, t := range d.base.Tunnels {
		all = append(all, d.hostTunnel(t))
	}
	return all
}

// overlays copies out hostNetworks as they are now.
func (d *daemon) overlays() []host.Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hostNetworks()
}

// overlayMTU is what the configuration makes of the underlay's MTU for n.
func (d *daemon) overlayMTU(n host.Network, mtu encap.UnderlayMTU) (encap.OverlayMTU, error) {
	if n.TUN {
		t := d.ipip(n.Name)
		return t.OverlayMTU(mtu)
	}
	v := d.vxlan(n.Name)
	return v.OverlayMTU(mtu, d.conf().Underlay.Address)
}
