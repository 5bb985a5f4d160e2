package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"overtap/bench/netlab"
	"overtap/encap"
)

// Topology says what a lab is made of: two hosts, a and b, joined by an
// underlay, each with a bridge, containers on it, and one end of a VXLAN
// network. Overtap makes the end in host a.
type Topology struct {
	Name    string // of the lab
	Summary string // one line

	network    string // what overtap calls it
	vni        encap.VNI
	port       uint16
	containers []container
	pings      [][2]string // containers: from, to; the last is worth a try by hand
}

// container is one network namespace on the bridge of a host.
type container struct {
	name   string // of its port on the bridge too
	host   string
	v4, v6 netip.Prefix
	routes []netip.Prefix // static, straight onto the container's device
}

var topologies = []*Topology{
	{
		Name:    "vxlan",
		Summary: "two hosts, one container on each, one VXLAN network",
		network: "blue", vni: 100, port: 4789,
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64")},
			{name: "b1", host: "b", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64")},
		},
		pings: [][2]string{{"b1", "a1"}, {"a1", "b1"}},
	},
	{
		Name:    "vxlan-subnets",
		Summary: "two subnets on one VXLAN network, with static routes",
		network: "blue", vni: 100, port: 4789,
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64"),
				routes: []netip.Prefix{prefix("203.0.113.0/24"), prefix("2001:db8:2::/64")}},
			{name: "a2", host: "a", v4: prefix("203.0.113.1/24"), v6: prefix("2001:db8:2::1/64"),
				routes: []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:1::/64")}},
			{name: "b1", host: "b", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64"),
				routes: []netip.Prefix{prefix("203.0.113.0/24"), prefix("2001:db8:2::/64")}},
			{name: "b2", host: "b", v4: prefix("203.0.113.2/24"), v6: prefix("2001:db8:2::2/64"),
				routes: []netip.Prefix{prefix("198.51.100.0/24"), prefix("2001:db8:1::/64")}},
		},
		pings: [][2]string{{"a1", "b1"}, {"b2", "a2"}, {"b1", "a2"}, {"a1", "b2"}},
	},
}

// Of every topology. The first host runs overtap.
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
	return nil, fmt.Errorf("there is no lab %q: want %s", name, strings.Join(Names(), " or "))
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
	names := slices.Clone(hostNames)
	for _, c := range t.containers {
		names = append(names, c.name)
	}
	slices.Sort(names)
	return names
}

// hostOf returns the host that the member is or is on; "" of no member.
func (t *Topology) hostOf(member string) string {
	if slices.Contains(hostNames, member) {
		return member
	}
	c := t.container(member)
	return c.host
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

// mac is made of the IPv4 address, as Docker makes them.
func (c container) mac() encap.MAC {
	b := c.v4.Addr().As4()
	return encap.MACFrom([]byte{0x02, 0x42, b[0], b[1], b[2], b[3]})
}

// underlay returns what the peers know the host by.
func underlay(host string) netip.Addr {
	return netlab.UnderlayAddr(slices.Index(hostNames, host)+1, false)
}

// other returns the host at the other end.
func other(host string) string {
	if host == hostNames[0] {
		return hostNames[1]
	}
	return hostNames[0]
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
