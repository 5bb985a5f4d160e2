package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"overtap/bench/netlab"
	"overtap/encap"
)

// vxlanNet is a VXLAN network, as one host's overtap or kernel has it.
type vxlanNet struct {
	name   string
	vni    encap.VNI
	port   uint16
	noPeer bool     // there is no host at the other end
	keys   []string // further lines of the table
}

// labNetwork is what most labs call their network.
const labNetwork = "blue"

// blue is that network, with further lines of its table.
func blue(keys ...string) vxlanNet {
	return vxlanNet{name: labNetwork, vni: 100, port: 4789, keys: keys}
}

// tapOf is the device of a network of that name.
func tapOf(network string) string { return "vx-" + network }

// config is the [[vxlan]] table, with the other host as the peer.
func (v vxlanNet) config(host string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `[[vxlan]]
name   = %q
vni    = %d
port   = %d
tap    = %q # the device that overtap makes,
bridge = %q # and puts on this bridge, beside the containers
`, v.name, v.vni, v.port, tapOf(v.name), netlab.SiteBridge)
	for _, line := range v.keys {
		fmt.Fprintln(&b, line)
	}
	if !v.noPeer {
		fmt.Fprintf(&b, "\n  [[vxlan.peer]]\n  address = %q # host %s\n", underlay(other(host)), other(host))
	}
	return b.String()
}

// host is a host with overtap's end of the network.
func (v vxlanNet) host(name string) host {
	return host{
		name: name, bridge: true, config: v.config(name), device: tapOf(v.name), kind: "TAP",
		does: []string{fmt.Sprintf("VXLAN, VNI %d", v.vni), fmt.Sprintf("UDP port %d", v.port)},
	}
}

// kernelOr is a host with overtap's end of the network, or the kernel's.
func (v vxlanNet) kernelOr(name string, mtu int) host {
	h := v.host(name)
	h.kernel = &kernelEnd{vxlan: netlab.VXLANSpec{
		Name: netlab.SiteVXLAN, VNI: v.vni, Port: v.port, Local: underlay(name), Dev: netlab.UnderlayDev,
		Bridge: netlab.SiteBridge, MTU: mtu, Flood: []netip.Addr{underlay(other(name))},
	}}
	return h
}

// vxlanMTU is what VXLAN leaves of the underlay's MTU.
const vxlanMTU = int(underlayMTU) - encap.VXLANOverhead4

// vxlanWords are what a picture with VXLAN names.
var vxlanWords = [][2]string{
	{tapOf(labNetwork), "a TAP: a device whose other end is a program, here overtap"},
	{"VXLAN", "Ethernet frames inside UDP packets; the VNI is the network's number"},
}

// vxlanTries are for labs with a VXLAN network.
var vxlanTries = []suggestion{
	{why: "what overtap in host a knows, and what it counted", member: "a", command: "overtap fdb show"},
	{member: "a", command: "overtap stats"},
	{why: "what the kernel in host b learned", program: "bridge", peers: []Peer{KernelPeer},
		member: "b", command: "bridge fdb show dev " + netlab.SiteVXLAN},
	{why: "see the packets on the underlay (while a ping runs elsewhere)", program: "tcpdump",
		member: "a", command: "tcpdump -ni eth0 -c 8 udp"},
}

func vxlanLab() *Topology {
	return &Topology{
		Name:    "vxlan",
		Summary: "two hosts, one container on each, one VXLAN network",
		hosts:   []host{blue().host("a"), blue().kernelOr("b", vxlanMTU)},
		mtu:     vxlanMTU,
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64")},
			{name: "b1", host: "b", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64")},
		},
		pings: [][2]string{{"b1", "a1"}, {"a1", "b1"}},
		words: vxlanWords, tries: vxlanTries,
	}
}

func vxlanSubnetsLab() *Topology {
	toFirst, toSecond := onLink("198.51.100.0/24", "2001:db8:1::/64"), onLink("203.0.113.0/24", "2001:db8:2::/64")
	return &Topology{
		Name:    "vxlan-subnets",
		Summary: "two subnets on one VXLAN network, with static routes",
		hosts:   []host{blue().host("a"), blue().kernelOr("b", vxlanMTU)},
		mtu:     vxlanMTU,
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64"), routes: toSecond},
			{name: "a2", host: "a", v4: prefix("203.0.113.1/24"), v6: prefix("2001:db8:2::1/64"), routes: toFirst},
			{name: "b1", host: "b", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64"), routes: toSecond},
			{name: "b2", host: "b", v4: prefix("203.0.113.2/24"), v6: prefix("2001:db8:2::2/64"), routes: toFirst},
		},
		pings: [][2]string{{"a1", "b1"}, {"b2", "a2"}, {"b1", "a2"}, {"a1", "b2"}},
		words: vxlanWords, tries: vxlanTries,
	}
}
