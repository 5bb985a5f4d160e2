package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"overtap/dataplane"
	"overtap/encap"
	"overtap/fdb"
)

// View is what is known of the members, this host's own record among them. It is not
// changed once made.
type View struct {
	Self    string
	Members []Member // by name

	owners map[endpointKey]claim
}

// Member is a node with its record.
type Member struct {
	Record
	Alive  bool      `json:"alive"`
	Gossip string    `json:"gossip,omitempty"` // address and port that it gossips at
	Synced time.Time `json:"synced"`           // when its record was fetched last; zero = never
}

// claim is the endpoint that holds of all that name its MAC.
type claim struct {
	node string
	vtep netip.Addr
	at   *Endpoint
}

// NewView takes over members.
func NewView(self string, members []Member) *View {
	v := &View{Self: self, Members: members, owners: make(map[endpointKey]claim)}
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.Node.Name, b.Node.Name) })
	for i := range v.Members {
		m := &v.Members[i]
		for j := range m.Endpoints {
			e := &m.Endpoints[j]
			was, taken := v.owners[e.key()]
			// Of equal ones the first name holds, on every host alike.
			if !taken || e.Sequence > was.at.Sequence {
				v.owners[e.key()] = claim{m.Node.Name, m.Node.VTEP, e}
			}
		}
	}
	return v
}

// Additions are what a network gets of the cluster.
type Additions struct {
	Peers     []dataplane.Peer
	FDB       []dataplane.StaticEntry
	Neighbors []dataplane.Neighbor
	// Problems say what was left out, and why.
	Problems []string
}

// Additions returns what the members add to n: each that is in the network is a peer
// that gets what is flooded, and its containers are entries and neighbours of origin
// cluster. What n has by itself stays as it is. At most room entries are added. Refuse
// is an error for an address that must not be a peer.
func (v *View) Additions(n *dataplane.Network, room int, refuse func(netip.Addr) error) (a Additions) {
	if v == nil {
		return a
	}
	key := KeyOf(n)
	listed := make(map[netip.Addr]bool)
	for _, p := range n.Peers {
		listed[p.Address] = true
	}
	good := make(map[string]bool)
	for i := range v.Members {
		m := &v.Members[i]
		if m.Node.Name == v.Self {
			continue
		}
		at := slices.IndexFunc(m.Networks, func(x Network) bool { return x.Key == key })
		if at < 0 {
			continue
		}
		if err := refuse(m.Node.VTEP); err != nil {
			a.Problems = append(a.Problems, fmt.Sprintf("member %s: its address %s %v", m.Node.Name, m.Node.VTEP, err))
			continue
		}
		good[m.Node.Name] = true
		if mtu := m.Networks[at].MTU; mtu != n.MTU {
			a.Problems = append(a.Problems, fmt.Sprintf("member %s: its MTU of the network is %d, here it is %d: set the same mtu on both, or longer packets are lost one way", m.Node.Name, mtu, n.MTU))
		}
		if !listed[m.Node.VTEP] {
			listed[m.Node.VTEP] = true
			a.Peers = append(a.Peers, dataplane.Peer{Address: m.Node.VTEP, Flood: true})
		}
	}
	v.endpoints(n, key, good, room, &a)
	return a
}

func (v *View) endpoints(n *dataplane.Network, key Key, good map[string]bool, room int, a *Additions) {
	macs, addresses := make(map[encap.MAC]bool), make(map[netip.Addr]bool)
	macs[n.MAC] = true
	for _, e := range n.FDB {
		macs[e.MAC] = true
	}
	for _, p := range n.Peers {
		for _, m := range p.MACs {
			macs[m] = true
		}
	}
	for _, x := range n.Neighbors {
		addresses[x.Address] = true
	}
	tooMany := 0
	for i := range v.Members {
		m := &v.Members[i]
		if !good[m.Node.Name] {
			continue
		}
		for j := range m.Endpoints {
			e := &m.Endpoints[j]
			if e.Key != key || macs[e.MAC] || !v.Holds(e) {
				continue
			}
			if n.CheckSource(e.MAC) != nil {
				continue
			}
			if len(a.FDB) == room {
				tooMany++
				continue
			}
			macs[e.MAC] = true
			a.FDB = append(a.FDB, dataplane.StaticEntry{MAC: e.MAC, Peer: m.Node.VTEP, Origin: fdb.Cluster})
			for _, x := range e.Addresses {
				if !addresses[x] && len(n.Neighbors)+len(a.Neighbors) < fdb.MaxNeighbors {
					addresses[x] = true
					a.Neighbors = append(a.Neighbors, dataplane.Neighbor{Address: x, MAC: e.MAC, Origin: fdb.Cluster})
				}
			}
		}
	}
	if tooMany > 0 {
		a.Problems = append(a.Problems, fmt.Sprintf("%d containers of other members have no entry, and are found by learning: the table is made for max_entries = %d", tooMany, n.MaxEntries))
	}
}

// Holds reports whether the claim, one of the view's own, is the one that counts for its
// MAC.
func (v *View) Holds(e *Endpoint) bool { return v.owners[e.key()].at == e }

// NextSequence returns the sequence number with which this host claims the MAC: that
// which it has already, or one more than any other's.
func (v *View) NextSequence(key Key, mac encap.MAC) uint64 {
	if v == nil {
		return 1
	}
	c, taken := v.owners[endpointKey{key, mac}]
	switch {
	case !taken:
		return 1
	case c.node == v.Self:
		return c.at.Sequence
	}
	return c.at.Sequence + 1
}

// Holders returns the address of each container of other members on the network, with
// the member's name.
func (v *View) Holders(key Key) map[netip.Addr]string {
	all := make(map[netip.Addr]string)
	if v == nil {
		return all
	}
	for i := range v.Members {
		m := &v.Members[i]
		if m.Node.Name == v.Self {
			continue
		}
		for _, e := range m.Endpoints {
			if e.Key == key {
				for _, a := range e.Addresses {
					all[a] = m.Node.Name
				}
			}
		}
	}
	return all
}

// RangeClash says which other member gives out addresses of r too; "" = none.
func (v *View) RangeClash(key Key, r netip.Prefix) string {
	if v == nil || !r.IsValid() {
		return ""
	}
	var names []string
	for i := range v.Members {
		m := &v.Members[i]
		for _, n := range m.Networks {
			if m.Node.Name != v.Self && n.Key == key && n.Range.IsValid() && n.Range.Overlaps(r) {
				names = append(names, fmt.Sprintf("%s (%s)", m.Node.Name, n.Range))
			}
		}
	}
	return strings.Join(names, ", ")
}
