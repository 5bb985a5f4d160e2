package dataplane

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"overtap/encap"
	"overtap/fdb"
)

// network is a Network at work. The threads read policy, table, peers and their
// own device and tallies; everything else is the door's.
type network struct {
	name    string
	policy  atomic.Pointer[policy]
	table   *fdb.Table
	peers   *fdb.Peers
	devices []Device // by worker
	tallies []tally  // by thread
	lost    atomic.Bool
	uso     bool // the TAP takes UDP superframes

	config  Network                          // as applied
	leaving []fdb.PeerID                     // of peers gone since the last beat
	retired []fdb.PeerID                     // of peers gone before it
	paths   map[netip.Addr]encap.UnderlayMTU // by peer, as the owner was told
}

func (n *network) close() error {
	var errs []error
	for _, d := range n.devices {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// endpoint is where networks receive: a UDP port of the underlay address, or of
// a multicast group.
type endpoint struct {
	port  uint16
	group netip.Addr // invalid = the underlay address
}

// endpoints are the network's.
func (n *network) endpoints() []endpoint {
	own := []endpoint{{port: n.config.Port}}
	if n.config.Group.IsValid() {
		own = append(own, endpoint{n.config.Port, n.config.Group})
	}
	return own
}

// policy is what the road needs of a network's configuration, published whole.
type policy struct {
	vni          encap.VNI
	port         uint16
	mac          encap.MAC
	mtu          encap.OverlayMTU
	ttl          uint8
	tos          TOS
	df           bool
	learning     bool
	plain        bool
	uso          bool // the TAP takes UDP superframes
	vlanDrop     bool
	reservedDrop bool
	group        netip.Addr
	neighbors    *fdb.Neighbors // ARP and ND are answered from; nil = not at all
}

func newPolicy(c *Network, uso bool, neighbors *fdb.Neighbors) *policy {
	return &policy{
		uso: uso,
		vni: c.VNI, port: c.Port, mac: c.MAC, mtu: c.MTU,
		ttl: c.TTL, tos: c.TOS, df: c.DF, learning: c.Learning, plain: c.Plain,
		vlanDrop: c.VLANDrop, reservedDrop: c.ReservedDrop, group: c.Group,
		neighbors: neighbors,
	}
}

// outerTOS is the outer header's octet for a frame whose inner packet has tos.
func (p *policy) outerTOS(tos uint8, isIP bool) uint8 {
	outer := p.tos.Value
	if p.tos.Inherit {
		outer = 0
		if isIP {
			outer = tos
		}
	}
	outer &^= encap.ECNMask
	if isIP {
		outer |= encap.EncapECN(tos)
	}
	return outer
}

// catalogue finds networks for the threads; it is immutable and published
// whole.
type catalogue struct {
	networks []*network
	byPort   map[uint16]map[encap.VNI]*network
}

func newCatalogue(networks []*network) *catalogue {
	c := &catalogue{networks: networks, byPort: make(map[uint16]map[encap.VNI]*network)}
	for _, n := range networks {
		m := c.byPort[n.config.Port]
		if m == nil {
			m = make(map[encap.VNI]*network)
			c.byPort[n.config.Port] = m
		}
		m[n.config.VNI] = n
	}
	return c
}
