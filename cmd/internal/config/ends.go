package config

import (
	"fmt"
	"net/netip"
	"slices"

	"overtap/dataplane"
	"overtap/encap"
)

// Ends are the addresses of this host and its peers on the underlay. No subnet or
// route of a network may contain one: the host would send into the network what it
// encapsulates.
type Ends struct {
	own   netip.Addr   // invalid = not known
	peers []netip.Addr // sorted
}

// NewEnds returns those of this host's own underlay address and its peers, where
// one may come several times. What cannot be a peer is left out.
func NewEnds(own netip.Addr, peers []netip.Addr) *Ends {
	peers = slices.DeleteFunc(slices.Clone(peers), func(a netip.Addr) bool { return dataplane.CheckPeer(a, own) != nil })
	slices.SortFunc(peers, netip.Addr.Compare)
	return &Ends{own: own, peers: slices.Compact(peers)}
}

// Holds is an error that names the end that the prefix contains, in words that
// follow the prefix; nil when it contains none. Every source of addresses and routes
// of a network must call it.
func (e *Ends) Holds(p netip.Prefix) error {
	p = p.Masked()
	if e.own.IsValid() && p.Contains(e.own) {
		return fmt.Errorf("holds our own underlay address %s, and so the way to its neighbours; want a prefix without it", e.own)
	}
	first, _ := slices.BinarySearchFunc(e.peers, p.Addr(), netip.Addr.Compare)
	if first < len(e.peers) && p.Contains(e.peers[first]) {
		return fmt.Errorf("holds the peer %s: what is encapsulated for it would go into the network again; want a prefix without peers", e.peers[first])
	}
	return nil
}

// Peers are the peers of all networks and tunnels; one may come several times.
func (c *Config) Peers() (all []netip.Addr) {
	for i := range c.VXLAN {
		for _, p := range c.VXLAN[i].AllPeers() {
			all = append(all, p.Addr)
		}
	}
	for i := range c.IPIP {
		for _, r := range c.IPIP[i].Routes {
			all = append(all, r.Peer)
		}
	}
	return all
}

// Ports are the UDP ports of the networks, each once.
func (c *Config) Ports() []uint16 {
	var all []uint16
	for i := range c.VXLAN {
		if port := c.VXLAN[i].Port; !slices.Contains(all, port) {
			all = append(all, port)
		}
	}
	return all
}

// Destinations are the peers and groups that outer packets are for.
func (c *Config) Destinations() []netip.Addr {
	all := c.Peers()
	for i := range c.VXLAN {
		if g := c.VXLAN[i].Group; g.IsValid() {
			all = append(all, g)
		}
	}
	return all
}

// LeastUnderlay is the least MTU of an underlay that carries what is configured, 0
// where all MTUs are derived from it.
func (c *Config) LeastUnderlay() (least encap.UnderlayMTU) {
	for i := range c.VXLAN {
		if mtu := c.VXLAN[i].MTU; mtu != 0 {
			least = max(least, mtu.VXLANUnderlay(c.Underlay.Address.Is6()))
		}
	}
	for i := range c.IPIP {
		if mtu := c.IPIP[i].MTU; mtu != 0 {
			least = max(least, mtu.IPIPUnderlay())
		}
	}
	return least
}

// Inward returns the prefix by which this host would route the address into a
// network or tunnel, with its name; ok is false when none does.
func (c *Config) Inward(a netip.Addr) (p netip.Prefix, network string, ok bool) {
	for _, n := range c.Plan().Networks {
		for _, p := range n.Addresses {
			if p.Contains(a) {
				return p.Masked(), n.Name, true
			}
		}
		for _, r := range n.Routes {
			if r.Prefix.Contains(a) {
				return r.Prefix, n.Name, true
			}
		}
	}
	return netip.Prefix{}, "", false
}

// inward reports, once all peers are known, subnets and routes of networks and
// tunnels that contain an underlay address.
func (c *checker) inward(raw *rawConfig, cfg *Config) {
	ends := NewEnds(cfg.Underlay.Address, cfg.Peers())
	check := func(l leaf[string], words string) {
		p, err := netip.ParsePrefix(l.v)
		if err != nil || c.failed[l.at.path()] {
			return
		}
		if err := ends.Holds(p); err != nil {
			c.fail(l.at, words+"%v", err)
		}
	}
	addresses := func(l list) {
		for _, e := range l.v {
			p, _ := netip.ParsePrefix(e.v)
			check(e, fmt.Sprintf("is in the subnet %s, which ", p.Masked()))
		}
	}
	for i := range raw.VXLAN {
		addresses(raw.VXLAN[i].Addresses)
		check(raw.VXLAN[i].Subnet, "")
		for _, r := range raw.VXLAN[i].Route {
			check(r.Prefix, "")
		}
	}
	for i := range raw.IPIP {
		addresses(raw.IPIP[i].Addresses)
		for _, r := range raw.IPIP[i].Route {
			check(r.Prefix, "")
		}
	}
}
