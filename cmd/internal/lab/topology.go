package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"overtap/bench/netlab"
	"overtap/encap"
)

// Topology says what a lab is made of: one host or two, joined by an underlay,
// what overtap does in each, the containers on them, and what to ping. Overtap
// runs in every host, but in those where the kernel can be the peer and is.
type Topology struct {
	Name    string // of the lab
	Summary string // one line

	hosts      []host
	containers []container
	mtu        int         // of the bridges and the containers, bytes
	pings      [][2]string // members: from, to; the last is worth a try by hand

	// For who reads what `lab up` prints.
	words [][2]string  // what the picture names: the word, its meaning
	tries []suggestion // beside those of every lab
}

// host is a host of a lab.
type host struct {
	name   string         // a, b: the order is that of the underlay's addresses
	router bool           // it forwards for its containers
	bridge bool           // br0 is there before overtap is; else overtap makes it
	addrs  []netip.Prefix // on br0, where bridge is set

	config string   // of overtap, behind the sections that are alike in all labs
	device string   // the TAP or TUN that config names; "" = none
	kind   string   // of device, in the picture: TAP, TUN
	does   []string // what overtap does, in the picture
	lan    string   // a second NIC, on a LAN; "" = none

	kernel *kernelEnd // in overtap's place where the peer is the kernel; nil = never
}

// kernelEnd is the kernel's own end of a tunnel. What it may send by comes only
// once overtap at the other end is ready: before, it would count as dropped.
type kernelEnd struct {
	vxlan netlab.VXLANSpec         // Flood is added late
	late  func(*netlab.Host) error // further entries, addresses and routes; nil = none
}

// container is one network namespace beside a host.
type container struct {
	name   string // of its port on the bridge too
	host   string
	join   join
	v4, v6 netip.Prefix // v6 may be missing
	routes []route
}

// join is how a container comes to its host.
type join string

const (
	plugged  join = ""         // by a veth pair to br0
	attached join = "attached" // by `overtap attach`
	onLAN    join = "LAN"      // it is a machine of its own, cabled to the host's second NIC
)

// route is one of a container; without via the destination is on its link.
type route struct {
	to  netip.Prefix
	via netip.Addr
}

// topologies are in the order of `lab list`.
var topologies = []*Topology{bridgeLab(), vxlanLab(), vxlanSubnetsLab(), vxlanStaticLab(), swarmLab(), ipipLab(), hostgwLab(), lanLab(), attachLab()}

// hostNames are the names that hosts have, in the order of their underlay
// addresses.
var hostNames = []string{"a", "b"}

const underlayMTU encap.UnderlayMTU = 1500

// Default is the topology of commands that name none.
const Default = "vxlan"

// Topologies returns all of them.
func Topologies() []*Topology { return slices.Clone(topologies) }

// Find returns the topology of that name.
func Find(name string) (*Topology, error) {
	for _, t := range topologies {
		if t.Name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("there is no lab %q: want one of %s", name, strings.Join(Names(), ", "))
}

// Names returns the names of all topologies.
func Names() []string {
	names := make([]string, len(topologies))
	for i, t := range topologies {
		names[i] = t.Name
	}
	return names
}

// members returns the names of all hosts and containers, sorted.
func (t *Topology) members() []string {
	var names []string
	for _, h := range t.hosts {
		names = append(names, h.name)
	}
	for _, c := range t.containers {
		names = append(names, c.name)
	}
	slices.Sort(names)
	return names
}

// hostOf returns the host that the member is or is on; "" of no member.
func (t *Topology) hostOf(member string) string {
	if t.host(member).name == member {
		return member
	}
	return t.container(member).host
}

// container returns the container of that name; zero when there is none.
func (t *Topology) container(name string) container {
	for _, c := range t.containers {
		if c.name == name {
			return c
		}
	}
	return container{}
}

// host returns the host of that name; zero when there is none.
func (t *Topology) host(name string) host {
	for _, h := range t.hosts {
		if h.name == name {
			return h
		}
	}
	return host{}
}

// peers returns who can be the peer.
func (t *Topology) peers() []Peer {
	for _, h := range t.hosts {
		if h.kernel != nil {
			return []Peer{KernelPeer, OvertapPeer}
		}
	}
	return []Peer{OvertapPeer}
}

// overtapIn reports whether overtap runs in the host with that peer.
func (h host) overtapIn(peer Peer) bool { return h.kernel == nil || peer != KernelPeer }

// mac is made of the IPv4 address, as Docker makes them.
func (c container) mac() encap.MAC {
	b := c.v4.Addr().As4()
	return encap.MACFrom([]byte{0x02, 0x42, b[0], b[1], b[2], b[3]})
}

// addrs are the container's addresses, IPv4 first.
func (c container) addrs() []netip.Prefix {
	if c.v6.IsValid() {
		return []netip.Prefix{c.v4, c.v6}
	}
	return []netip.Prefix{c.v4}
}

// underlay returns what the peers know the host by.
func underlay(host string) netip.Addr { return underlayOf(host, false) }

// underlayOf returns the host's IPv4 or IPv6 address on the underlay.
func underlayOf(host string, v6 bool) netip.Addr {
	return netlab.UnderlayAddr(slices.Index(hostNames, host)+1, v6)
}

// other returns the host at the other end.
func other(host string) string {
	if host == hostNames[0] {
		return hostNames[1]
	}
	return hostNames[0]
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// onLink are routes without a gateway.
func onLink(to ...string) (rs []route) {
	for _, s := range to {
		rs = append(rs, route{to: prefix(s)})
	}
	return rs
}

// byDefault are default routes by way of the gateways, one a family.
func byDefault(via ...string) (rs []route) {
	for _, s := range via {
		r := route{to: prefix("0.0.0.0/0"), via: netip.MustParseAddr(s)}
		if r.via.Is6() {
			r.to = prefix("::/0")
		}
		rs = append(rs, r)
	}
	return rs
}
