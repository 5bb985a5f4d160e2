package fdb

import (
	"net/netip"

	"overtap/encap"
)

// MaxNeighbors bounds the neighbours of one network.
const MaxNeighbors = 1 << 20

// Neighbor binds an inner address to the MAC that its holder answers with: what
// ARP (RFC 826) or neighbour discovery (RFC 4861) would find.
type Neighbor struct {
	Address netip.Addr // unicast, IPv4 or IPv6, without a zone
	MAC     encap.MAC  // unicast
	Origin  Origin     // zero = Static
}

// Neighbors is a set of neighbours that never changes: another set takes its
// place, so that any number of readers need no lock. The nil set is empty.
type Neighbors struct {
	byAddress map[netip.Addr]encap.MAC
}

// NewNeighbors returns the set of those listed, which it copies. Of several with
// one address the last counts.
func NewNeighbors(list []Neighbor) *Neighbors {
	n := &Neighbors{byAddress: make(map[netip.Addr]encap.MAC, len(list))}
	for _, one := range list {
		n.byAddress[one.Address] = one.MAC
	}
	return n
}

// Lookup returns the MAC of the address. It allocates nothing.
func (n *Neighbors) Lookup(a netip.Addr) (encap.MAC, bool) {
	if n == nil {
		return 0, false
	}
	m, ok := n.byAddress[a]
	return m, ok
}

// Len returns the number of addresses.
func (n *Neighbors) Len() int {
	if n == nil {
		return 0
	}
	return len(n.byAddress)
}
