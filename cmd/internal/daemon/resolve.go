package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// Resolve implements control.Daemon: it says how this host would address a packet
// to an inner address of the network.
func (d *daemon) Resolve(network string, a netip.Addr) (control.Resolved, error) {
	name, err := d.traced(network)
	if err != nil {
		return control.Resolved{}, err
	}
	if v := d.conf().Network(name); v.Name != "" {
		return d.resolveFrame(v, a)
	}
	t := d.conf().Tunnel(name)
	r := control.Resolved{Network: name, Kind: dataplane.KindIPIP}
	if !a.Is4() {
		return r, fmt.Errorf("network %s is of IP-in-IP, which carries IPv4: %s is none", name, a)
	}
	if i := slices.IndexFunc(t.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }); i >= 0 {
		r.Source = t.Addresses[i].Addr()
	}
	return r, nil
}

// resolveFrame finds the MAC behind an address: by what is configured, by what is
// attached here, and by what this host's stack knows, in this order.
func (d *daemon) resolveFrame(v *config.VXLAN, a netip.Addr) (control.Resolved, error) {
	device := cmp.Or(v.Bridge, v.Device)
	r := control.Resolved{Network: v.Name, Kind: dataplane.KindVXLAN}
	var err error
	if r.SourceMAC, err = d.host.MACOf(device); err != nil {
		return r, err
	}
	if i := slices.IndexFunc(v.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() }); i >= 0 {
		r.Source = v.Addresses[i].Addr()
	}
	attached, err := d.attach.List(d.overlays())
	if err != nil {
		return r, err
	}
	if !r.Source.IsValid() {
		r.Source, r.SourceMAC = sender(attached, v.Name, a, r.SourceMAC)
	}
	hop := nextHop(v, a)
	if hop != a {
		r.Via = hop
	}
	if slices.ContainsFunc(v.Addresses, func(p netip.Prefix) bool { return p.Addr() == hop }) {
		r.MAC, r.Known = r.SourceMAC, "this host's own address"
		return r, nil
	}
	for _, n := range v.Neighbors {
		if n.Address == hop {
			r.MAC, r.Known = n.MAC, "a neighbour of the configuration"
			return r, nil
		}
	}
	for _, c := range attached {
		if c.Network == v.Name && slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr() == hop }) {
			r.MAC, r.Known = c.MAC, "the container "+c.Target+" on this host"
			return r, nil
		}
	}
	mac, ok, err := d.host.NeighborOf(device, hop)
	if ok {
		r.MAC, r.Known = mac, "this host's neighbours on "+device
	}
	return r, err
}

// sender is a container of this host that has an address of the family of a in the
// network, for a host that has none of its own; the MAC is mac where none has.
func sender(attached []attach.Attachment, network string, a netip.Addr, mac encap.MAC) (netip.Addr, encap.MAC) {
	for _, c := range attached {
		for _, p := range c.Addresses {
			if c.Network == network && p.Addr().Is4() == a.Is4() && p.Addr() != a {
				return p.Addr(), c.MAC
			}
		}
	}
	return netip.Addr{}, mac
}

// nextHop is the address whose MAC a packet to a gets: of the longest route of the
// network that holds a, or a itself.
func nextHop(v *config.VXLAN, a netip.Addr) netip.Addr {
	hop, bits := a, -1
	for _, p := range v.Addresses {
		if p.Masked().Contains(a) {
			bits = max(bits, p.Bits())
		}
	}
	for _, r := range v.Routes {
		if r.Prefix.Contains(a) && r.Prefix.Bits() > bits {
			hop, bits = r.Via, r.Prefix.Bits()
		}
	}
	return hop
}

// bridged explains a frame from this host's side that the bridge delivers by
// itself: it never reaches the TAP.
func (d *daemon) bridged(p *dataplane.Query, x *dataplane.Explanation) error {
	v := d.conf().Network(x.Network)
	eth, err := encap.ParseEthernet(p.Frame)
	if p.From.IsValid() || v.Bridge == "" || err != nil || eth.Dst().IsMulticast() {
		return nil
	}
	at, ok, err := d.host.Bridged(v.Bridge, eth.Dst())
	if err != nil || !ok || at.Port == v.Device && !at.Own {
		return err
	}
	to := "port " + at.Port
	if at.Own {
		to = "this host itself"
	} else if attached, err := d.attach.List(d.overlays()); err == nil {
		for _, c := range attached {
			if c.Veth == at.Port {
				to += ", the container " + c.Target
			}
		}
	}
	steps := x.Steps[:0]
	if len(x.Steps) > 0 && x.Steps[0].Name == "frame" {
		steps = x.Steps[:1]
	}
	x.Steps = append(steps, dataplane.Step{Name: "bridge", Verdict: "pass",
		Detail: fmt.Sprintf("%s has %s at %s: overtap does not see the frame", v.Bridge, eth.Dst(), to)})
	x.Copies, x.Verdict, x.Reason, x.Notified = nil, dataplane.OutcomeBridged, 0, ""
	return nil
}
