package interop

import (
	"fmt"
	"net/netip"
	"strings"

	"overtap/bench/netlab"
	"overtap/encap"
)

// config is what a daemon is started with. Zero fields are left out of the
// file.
type config struct {
	underlay netip.Addr
	device   string
	metrics  string   // address of the listener; "" = none
	engine   []string // further lines of [engine]
	cluster  []string // lines of [cluster]; none = no such table
	networks []network
	last     string // tables of the last network
}

// network is a [[vxlan]] table.
type network struct {
	name   string
	vni    encap.VNI
	port   uint16
	bridge string
	peers  []netip.Addr
	more   []string // further lines, of the table itself
}

// tap is the name of the network's TAP.
func (n network) tap() string { return "vx-" + n.name }

// blue is VNI 100 on the site's bridge, with every other site as a peer.
func blue(s *netlab.Site, sites ...*netlab.Site) network {
	n := network{name: "blue", vni: 100, port: 4789, bridge: netlab.SiteBridge}
	for _, p := range sites {
		if p.N != s.N {
			n.peers = append(n.peers, p.Underlay)
		}
	}
	return n
}

// with returns the network with further lines.
func (n network) with(lines ...string) network {
	n.more = append(n.more, lines...)
	return n
}

// at is the configuration of a site with these networks.
func at(s *netlab.Site, networks ...network) config {
	return config{underlay: s.Underlay, networks: networks}
}

// toml returns the file, with the control socket at the path.
func (c config) toml(socket string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[underlay]\naddress = %q\n", c.underlay)
	if c.device != "" {
		fmt.Fprintf(&b, "device = %q\n", c.device)
	}
	fmt.Fprintf(&b, "[control]\nsocket = %q\nmetrics = %q\n", socket, c.metrics)
	fmt.Fprintf(&b, "[engine]\n%s\n", strings.Join(c.engine, "\n"))
	if len(c.cluster) > 0 {
		fmt.Fprintf(&b, "[cluster]\n%s\n", strings.Join(c.cluster, "\n"))
	}
	for _, n := range c.networks {
		fmt.Fprintf(&b, "[[vxlan]]\nname = %q\nvni = %d\ntap = %q\n", n.name, n.vni, n.tap())
		if n.port != 0 {
			fmt.Fprintf(&b, "port = %d\n", n.port)
		}
		if n.bridge != "" {
			fmt.Fprintf(&b, "bridge = %q\n", n.bridge)
		}
		for _, line := range n.more {
			fmt.Fprintln(&b, line)
		}
		for _, p := range n.peers {
			fmt.Fprintf(&b, "[[vxlan.peer]]\naddress = %q\n", p)
		}
	}
	b.WriteString(c.last)
	return b.String()
}
