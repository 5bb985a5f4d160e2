package lab

import (
	"fmt"
	"net/netip"

	"overtap/encap"
)

// ipipEnd is what a host of the ipip lab is to the other.
type ipipEnd struct {
	own     netip.Addr   // on its TUN
	behind  netip.Prefix // its containers
	gateway netip.Prefix // on br0
}

var ipipEnds = map[string]ipipEnd{
	"a": {own: addr("198.51.100.0"), behind: prefix("198.51.100.0/24"), gateway: prefix("198.51.100.254/24")},
	"b": {own: addr("203.0.113.0"), behind: prefix("203.0.113.0/24"), gateway: prefix("203.0.113.254/24")},
}

// ipipDevice is the TUN of the ipip lab.
const ipipDevice = "tun0"

// ipipLab routes between the subnets of two hosts through IP-in-IP.
func ipipLab() *Topology {
	return &Topology{
		Name:    "ipip",
		Summary: "two hosts that route through IP-in-IP",
		hosts:   []host{ipipHost("a"), ipipHost("b")},
		mtu:     int(underlayMTU) - encap.IPIPOverhead,
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), routes: byDefault("198.51.100.254")},
			{name: "b1", host: "b", v4: prefix("203.0.113.1/24"), routes: byDefault("203.0.113.254")},
		},
		pings: [][2]string{{"b1", "a1"}, {"a1", "b1"}},
		words: [][2]string{
			{ipipDevice, "a TUN: a device whose other end is a program, here overtap"},
			{"IP-in-IP", "IPv4 packets inside IPv4 packets: 20 bytes more, and nothing else"},
		},
		tries: []suggestion{
			{why: "what overtap in host a counted", member: "a", command: "overtap stats"},
			{why: "the routes that it keeps there", program: "ip", member: "a", command: "ip route show proto 79"},
			{why: "see the packets on the underlay (while a ping runs elsewhere)", program: "tcpdump",
				member: "a", command: "tcpdump -ni eth0 -c 8 ip proto 4"},
		},
	}
}

func ipipHost(name string) host {
	end, peer := ipipEnds[name], ipipEnds[other(name)]
	return host{
		name: name, router: true, bridge: true, addrs: []netip.Prefix{end.gateway},
		config: fmt.Sprintf(`[[ipip]]
name      = %q # the device that overtap makes
addresses = ["%s/32"]

  [[ipip.route]] # the containers of host %s
  prefix = %q
  peer   = %q
`, ipipDevice, end.own, other(name), peer.behind, underlay(other(name))),
		device: ipipDevice, kind: "TUN", does: []string{"IP-in-IP"},
	}
}
