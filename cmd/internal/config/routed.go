package config

import (
	"net/netip"
)

// neighbors checks the entries from which ARP and ND are answered.
func (c *checker) neighbors(raw []rawNeighbor) {
	seen := make(map[netip.Addr]*node)
	for _, r := range raw {
		if r.Address.at == nil {
			c.missing(r.section, "address", "the inner address to answer for")
		}
		if r.MAC.at == nil {
			c.missing(r.section, "mac", "the address to answer with")
		}
		if a := c.unicast(r.Address); a.IsValid() {
			unique(c, seen, a, r.Address.at)
		}
		c.sourceMAC(r.MAC)
	}
}
