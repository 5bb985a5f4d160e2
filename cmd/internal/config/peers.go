package config

import (
	"net/netip"

	"overtap/dataplane"
	"overtap/encap"
)

// admit checks from whom, beyond the listed peers, frames are taken.
func (c *checker) admit(u union, own netip.Addr) dataplane.Admit {
	const want = `want "peers", "any" or a list of prefixes such as ["192.0.2.0/24"]`
	switch n := u.at; {
	case n == nil || n.value == "peers":
		return dataplane.Admit{}
	case n.value == "any":
		return dataplane.Admit{Any: true}
	case n.kind != arrayKind:
		c.fail(n, "is not known; %s", want)
		return dataplane.Admit{}
	case len(n.items) == 0:
		c.fail(n, "admits nobody; %s", want)
		return dataplane.Admit{}
	}
	var prefixes list
	prefixes.bind(c, u.at, "")
	var a dataplane.Admit
	seen := make(map[netip.Prefix]*node)
	for _, l := range prefixes.v {
		p := c.prefix(l)
		switch {
		case !p.IsValid():
		case own.IsValid() && p.Addr().BitLen() != own.BitLen():
			c.fail(l.at, "is %s, but the underlay address %s is %s; want the same family", family(p.Addr()), own, family(own))
		default:
			if unique(c, seen, p, l.at) {
				a.Prefixes = append(a.Prefixes, p)
			}
		}
	}
	return a
}

// group checks the multicast group that carries BUM frames; "" is none.
func (c *checker) group(l leaf[string], own netip.Addr) netip.Addr {
	if l.v == "" {
		return netip.Addr{}
	}
	a := c.address(l)
	switch {
	case !a.IsValid():
	case !a.IsMulticast():
		c.fail(l.at, "is not a multicast address; want one of 224.0.0.0/4 or ff00::/8")
	case own.IsValid() && a.BitLen() != own.BitLen():
		c.fail(l.at, "is %s, but the underlay address %s is %s; want the same family", family(a), own, family(own))
	}
	return a
}

// peers checks the listed peers.
func (c *checker) peers(raw []rawPeer, own netip.Addr) []dataplane.Peer {
	var out []dataplane.Peer
	seen := make(map[netip.Addr]*node)
	for _, r := range raw {
		if r.Address.at == nil {
			c.missing(r.section, "address", "the underlay address of another host")
		}
		a := c.vtep(r.Address, own)
		if a.IsValid() && unique(c, seen, a, r.Address.at) {
			out = append(out, dataplane.Peer{Address: a, Flood: r.Flood.or(true)})
		}
	}
	return out
}

// fdb checks the static forwarding entries.
func (c *checker) fdb(raw []rawFDB, tap encap.MAC, own netip.Addr) []dataplane.StaticEntry {
	var out []dataplane.StaticEntry
	seen := make(map[encap.MAC]*node)
	for _, r := range raw {
		if r.MAC.at == nil {
			c.missing(r.section, "mac", "the address behind the peer")
		}
		if r.Peer.at == nil {
			c.missing(r.section, "peer", "the underlay address of another host")
		}
		m, ok := c.mac(r.MAC)
		switch {
		case !ok:
		case m.IsZero():
			c.fail(r.MAC.at, "is the zero address; want a unicast or multicast one")
		case m.IsBridgeControl():
			c.fail(r.MAC.at, "is for bridges alone and never crosses the overlay (IEEE 802.1D); want another")
		case m == tap:
			c.fail(r.MAC.at, "is this network's own TAP; want an address behind the peer")
		default:
			unique(c, seen, m, r.MAC.at)
		}
		out = append(out, dataplane.StaticEntry{MAC: m, Peer: c.vtep(r.Peer, own)})
	}
	return out
}

// membersAdmitted reports a group whose members nobody admits: they are not
// listed, so admit must name them.
func (c *checker) membersAdmitted(raw *rawVXLAN, v *VXLAN) {
	asked := raw.Admit.at == nil || raw.Admit.at.value == "peers"
	if v.Group.IsMulticast() && asked && len(raw.Peer) == 0 && len(raw.FDB) == 0 {
		c.fail(raw.Group.at, `no peer is listed, and admit = "peers" takes frames from listed peers only; `+
			`want admit set to "any" or to the prefixes of the group's members`)
	}
}
