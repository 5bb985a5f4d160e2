package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"overtap/bench/netlab"
	"overtap/encap"
)

// staticEnd is what a host of the static lab is to the other.
type staticEnd struct {
	mac        encap.MAC      // of its device
	own4, own6 netip.Addr     // on its device, without a subnet
	net4, net6 netip.Prefix   // of its containers
	gateways   []netip.Prefix // on br0
}

var staticEnds = map[string]staticEnd{
	"a": {
		mac: 0x0242_0a01_0100, own4: addr("198.51.100.0"), own6: addr("2001:db8:1::"),
		net4: prefix("198.51.100.0/24"), net6: prefix("2001:db8:1::/64"),
		gateways: []netip.Prefix{prefix("198.51.100.254/24"), prefix("2001:db8:1::fe/64")},
	},
	"b": {
		mac: 0x0242_0a01_0200, own4: addr("203.0.113.0"), own6: addr("2001:db8:2::"),
		net4: prefix("203.0.113.0/24"), net6: prefix("2001:db8:2::/64"),
		gateways: []netip.Prefix{prefix("203.0.113.254/24"), prefix("2001:db8:2::fe/64")},
	},
}

// staticVNI and staticPort are those of flannel.
const (
	staticVNI  encap.VNI = 1
	staticPort uint16    = 8472
	staticName           = "green"
)

// vxlanStaticLab routes between the subnets of two hosts through a VXLAN network
// on which nothing is learned, as flannel does.
func vxlanStaticLab() *Topology {
	a, b := staticEnds["a"], staticEnds["b"]
	return &Topology{
		Name:    "vxlan-static",
		Summary: "VXLAN with static entries only, as flannel has it",
		hosts:   []host{staticHost("a"), staticHost("b")},
		mtu:     vxlanMTU,
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64"),
				routes: byDefault(a.gateways[0].Addr().String(), a.gateways[1].Addr().String())},
			{name: "b1", host: "b", v4: prefix("203.0.113.1/24"), v6: prefix("2001:db8:2::1/64"),
				routes: byDefault(b.gateways[0].Addr().String(), b.gateways[1].Addr().String())},
		},
		pings: [][2]string{{"b1", "a1"}, {"a1", "b1"}},
		words: [][2]string{
			{tapOf(staticName), "a TAP: a device whose other end is a program, here overtap"},
			{"VXLAN", "frames inside UDP packets; nothing is learned here, nothing flooded"},
		},
		tries: []suggestion{
			{why: "the one entry, and the neighbour it is for", member: "a", command: "overtap fdb show"},
			{member: "a", command: "overtap neigh show"},
			{why: "what the kernel of host a knows", program: "ip", member: "a", command: "ip neigh show dev " + tapOf(staticName)},
			{why: "see the packets on the underlay (while a ping runs elsewhere)", program: "tcpdump",
				member: "a", command: "tcpdump -ni eth0 -c 8 udp port 8472"},
		},
	}
}

// staticHost has the network's end by overtap or by the kernel.
func staticHost(name string) host {
	end, peer := staticEnds[name], staticEnds[other(name)]
	var b strings.Builder
	fmt.Fprintf(&b, `[[vxlan]]
name      = %q
vni       = %d
port      = %d
tap       = %q
bridge    = ""    # the host routes: nothing is bridged
mac       = %q # by which the other host knows it
addresses = ["%s/32", "%s/128"]
learning  = false

  [[vxlan.fdb]] # host %s
  mac  = %q
  peer = %q
`, staticName, staticVNI, staticPort, tapOf(staticName), end.mac, end.own4, end.own6,
		other(name), peer.mac, underlay(other(name)))
	for _, r := range []struct {
		prefix netip.Prefix
		via    netip.Addr
	}{{peer.net4, peer.own4}, {peer.net6, peer.own6}} {
		fmt.Fprintf(&b, `
  [[vxlan.neighbor]]
  address = %q
  mac     = %q

  [[vxlan.route]] # its containers
  prefix = %q
  via    = %q
`, r.via, peer.mac, r.prefix, r.via)
	}
	return host{
		name: name, router: true, bridge: true, addrs: end.gateways,
		config: b.String(), device: tapOf(staticName), kind: "TAP",
		does:   []string{fmt.Sprintf("VXLAN, VNI %d", staticVNI), fmt.Sprintf("UDP port %d", staticPort)},
		kernel: staticKernel(name),
	}
}

// staticKernel is the same by the kernel's device, in host b's place.
func staticKernel(name string) *kernelEnd {
	if name == hostNames[0] {
		return nil
	}
	end, peer := staticEnds[name], staticEnds[other(name)]
	return &kernelEnd{
		vxlan: netlab.VXLANSpec{
			Name: netlab.SiteVXLAN, VNI: staticVNI, Port: staticPort, Local: underlay(name), Dev: netlab.UnderlayDev,
			NoLearning: true, MAC: end.mac, MTU: vxlanMTU,
		},
		late: func(h *netlab.Host) error {
			if err := h.AddFDB(netlab.SiteVXLAN, peer.mac, underlay(other(name))); err != nil {
				return err
			}
			for _, r := range []struct {
				own, via netip.Addr
				prefix   netip.Prefix
			}{{end.own4, peer.own4, peer.net4}, {end.own6, peer.own6, peer.net6}} {
				if err := h.AddAddr(netlab.SiteVXLAN, netip.PrefixFrom(r.own, r.own.BitLen())); err != nil {
					return err
				}
				if err := h.AddNeighbor(netlab.SiteVXLAN, r.via, peer.mac); err != nil {
					return err
				}
				if err := h.AddOnlinkRoute(r.prefix, r.via, netlab.SiteVXLAN); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
