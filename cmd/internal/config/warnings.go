package config

import (
	"fmt"
	"net/netip"
	"slices"

	"overtap/dataplane"
)

// Warnings are about what is accepted and probably not meant. They are found when a
// configuration is free of mistakes, and come in the order of the file's lines.

// warn notes what is probably not meant at n; the text says what, and what to write.
func (c *checker) warn(n *node, format string, args ...any) {
	e := c.place(n)
	e.Problem = fmt.Sprintf(format, args...)
	c.warnings = append(c.warnings, e)
}

// doubts looks for what is probably not meant.
func (c *checker) doubts(raw *rawConfig, cfg *Config) {
	var subnets []subnet
	for i := range raw.VXLAN {
		c.doubtNetwork(&raw.VXLAN[i], &cfg.VXLAN[i])
		v := &cfg.VXLAN[i]
		on := v.Bridge
		if on == "" {
			on = v.Device
		}
		subnets = append(subnets, c.subnetsOf(raw.VXLAN[i].Addresses, on)...)
	}
	for i := range raw.IPIP {
		subnets = append(subnets, c.subnetsOf(raw.IPIP[i].Addresses, cfg.IPIP[i].Name)...)
	}
	c.doubtSubnets(subnets)
}

// doubtNetwork looks at one network by itself.
func (c *checker) doubtNetwork(raw *rawVXLAN, v *VXLAN) {
	if len(v.Peers) == 0 && len(v.FDB) == 0 && !v.Group.IsValid() && !v.Cluster {
		what := "nothing leaves this host"
		if v.Admit.Any || len(v.Admit.Prefixes) > 0 {
			what = "frames leave only for MACs that were learned from hosts that admit lets in, and none is flooded"
		}
		c.warn(raw.Name.at, "has no peers and no group: %s; want a [[vxlan.peer]] for each other host, or group", what)
	}
	pinned := slices.ContainsFunc(v.Peers, func(p dataplane.Peer) bool { return len(p.MACs) > 0 })
	if !v.Learning && len(v.FDB) == 0 && !pinned && !v.Cluster {
		c.warn(raw.Learning.at, "is off, and there is no [[vxlan.fdb]] and no macs: every frame is flooded to all peers; want entries, or learning = true")
	}
	if v.Suppress && len(v.Neighbors) == 0 && !v.Cluster {
		c.warn(raw.Suppress.at, "is on, and there is no [[vxlan.neighbor]]: nothing is answered; want one for each address, or suppress = false")
	}
}

// subnet is one of a device's addresses, with its subnet.
type subnet struct {
	at      *node
	address netip.Prefix
	on      string // the device that has it
}

// subnetsOf reads addresses that addresses has checked, and looks at each.
func (c *checker) subnetsOf(l list, on string) []subnet {
	var all []subnet
	for _, e := range l.v {
		p, err := netip.ParsePrefix(e.v)
		if err != nil {
			continue
		}
		all = append(all, subnet{e.at, p, on})
		switch a := p.Addr(); {
		case p.Bits() >= p.Addr().BitLen()-1: // RFC 3021, RFC 6164
		case a == p.Masked().Addr():
			c.warn(e.at, "is the address of the network itself, and no host's; want one such as %q", netip.PrefixFrom(a.Next(), p.Bits()))
		case a.Is4() && !p.Contains(a.Next()):
			c.warn(e.at, "is the broadcast address of its subnet, and no host's; want one such as %q", netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()))
		}
	}
	return all
}

// doubtSubnets looks for subnets that overlap on different devices, and for one
// address on two of them.
func (c *checker) doubtSubnets(all []subnet) {
	slices.SortStableFunc(all, func(a, b subnet) int {
		p, q := a.address.Masked(), b.address.Masked()
		if d := p.Addr().Compare(q.Addr()); d != 0 {
			return d
		}
		return p.Bits() - q.Bits()
	})
	var around []subnet // those that hold the current one
	for _, s := range all {
		around = slices.DeleteFunc(around, func(o subnet) bool { return !o.address.Contains(s.address.Masked().Addr()) })
		i := slices.IndexFunc(around, func(o subnet) bool { return o.on != s.on })
		same := slices.IndexFunc(around, func(o subnet) bool { return o.on != s.on && o.address.Addr() == s.address.Addr() })
		switch {
		case same >= 0:
			first, second := inFile(around[same], s)
			c.warn(second.at, "is the address of %s too, by %s on line %d: this host answers for it on either; want an address of its own for each device", first.on, first.at.path(), first.at.line)
		case i >= 0:
			first, second := inFile(around[i], s)
			c.warn(second.at, "overlaps the subnet %s of %s, by %s on line %d: this host sends what is in both by one of them; want subnets apart", first.address.Masked(), first.on, first.at.path(), first.at.line)
		}
		around = append(around, s)
	}
}

// inFile returns the two in the order of their lines.
func inFile(a, b subnet) (first, second subnet) {
	if a.at.line > b.at.line {
		return b, a
	}
	return a, b
}
