package config

import (
	"net/netip"
	"slices"

	"overtap/dataplane"
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
		c.fail(n, "admits no one; %s", want)
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
		case dataplane.CheckFamily(p.Addr(), own) != nil:
			c.fail(l.at, "%v", dataplane.CheckFamily(p.Addr(), own))
		case unique(c, seen, p, l.at):
			a.Prefixes = append(a.Prefixes, p)
		}
	}
	return a
}

// group reads the multicast group that carries BUM frames; "" is none.
func (c *checker) group(l leaf[string]) netip.Addr {
	if l.v == "" {
		return netip.Addr{}
	}
	return c.address(l)
}

// peers reads the listed peers, and from whom datagrams without checksum are taken.
func (c *checker) peers(raw *rawVXLAN, v *VXLAN) {
	v.ZeroChecksum.Accept = raw.UDP6ZeroCSum.or(false)
	seen := make(map[netip.Addr]*node)
	for _, r := range raw.Peer {
		c.required(r.section, r.Address.at, "address", "the underlay address of another host")
		p := dataplane.Peer{Address: c.address(r.Address), Flood: r.Flood.or(true)}
		if p.Address.IsValid() {
			unique(c, seen, p.Address, r.Address.at)
		}
		if r.UDP6ZeroCSum.or(v.ZeroChecksum.Accept) != v.ZeroChecksum.Accept {
			v.ZeroChecksum.Except = append(v.ZeroChecksum.Except, p.Address)
		}
		if r.MACs.at != nil && len(r.MACs.v) == 0 {
			c.fail(r.MACs.at, "lets the peer send from no address; want at least one, or the key left out")
		}
		for _, l := range r.MACs.v {
			p.MACs = append(p.MACs, c.mac(l))
		}
		v.Peers = append(v.Peers, p)
	}
}

// fdb reads the static forwarding entries.
func (c *checker) fdb(raw []rawFDB) (out []dataplane.StaticEntry) {
	for _, r := range raw {
		c.required(r.section, r.MAC.at, "mac", "the address behind the peer")
		c.required(r.section, r.Peer.at, "peer", "the underlay address of another host")
		out = append(out, dataplane.StaticEntry{MAC: c.mac(r.MAC), Peer: c.address(r.Peer)})
	}
	return out
}

// neighbors reads the addresses whose MACs are known beforehand.
func (c *checker) neighbors(raw []rawNeighbor, v *VXLAN) (out []dataplane.Neighbor) {
	for _, r := range raw {
		c.required(r.section, r.Address.at, "address", "an inner address of another host")
		c.required(r.section, r.MAC.at, "mac", "the MAC that the address is at")
		n := dataplane.Neighbor{Address: c.address(r.Address), MAC: c.mac(r.MAC)}
		if slices.ContainsFunc(v.Addresses, func(own netip.Prefix) bool { return own.Addr() == n.Address }) {
			c.fail(r.Address.at, "is this host's own address in the network; want that of another host")
		}
		out = append(out, n)
	}
	return out
}

// membersAdmitted reports a group whose members are not admitted: they are not
// listed, so admit must name them.
func (c *checker) membersAdmitted(raw *rawVXLAN, v *VXLAN) {
	asked := raw.Admit.at == nil || raw.Admit.at.value == "peers"
	if v.Group.IsMulticast() && asked && len(raw.Peer) == 0 && len(raw.FDB) == 0 {
		c.fail(raw.Group.at, `no peer is listed, and admit = "peers" takes frames from listed peers only; `+
			`want admit set to "any" or to the prefixes of the group's members`)
	}
}
