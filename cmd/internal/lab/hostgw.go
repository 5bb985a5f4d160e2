package lab

import (
	"fmt"
	"net/netip"
)

// hostgwLab joins two subnets by plain routes: the hosts are on one link, so
// packets of containers can travel as they are.
func hostgwLab() *Topology {
	return &Topology{
		Name:    "hostgw",
		Summary: "two hosts that route for their containers; no tunnel",
		hosts: []host{
			hostgwHost("a", "198.51.100.254/24", "2001:db8:1::fe/64", "203.0.113.0/24", "2001:db8:2::/64"),
			hostgwHost("b", "203.0.113.254/24", "2001:db8:2::fe/64", "198.51.100.0/24", "2001:db8:1::/64"),
		},
		mtu: int(underlayMTU),
		containers: []container{
			{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64"),
				routes: byDefault("198.51.100.254", "2001:db8:1::fe")},
			{name: "b1", host: "b", v4: prefix("203.0.113.1/24"), v6: prefix("2001:db8:2::1/64"),
				routes: byDefault("203.0.113.254", "2001:db8:2::fe")},
		},
		pings: [][2]string{{"b1", "a1"}, {"a1", "b1"}},
		words: [][2]string{{"route", "overtap sets it, and puts it back when it is deleted"}},
		tries: []suggestion{
			{why: "the routes that overtap keeps in host a", program: "ip", member: "a", command: "ip route show proto 79"},
			{why: "delete one, and look again", program: "ip", member: "a", command: "ip route del 203.0.113.0/24"},
			{why: "see the packets on the underlay (while a ping runs elsewhere)", program: "tcpdump",
				member: "a", command: "tcpdump -ni eth0 -c 8 icmp"},
		},
	}
}

// hostgwHost routes for the containers of its bridge, and to the prefixes behind
// the other host.
func hostgwHost(name, own4, own6, far4, far6 string) host {
	peer := other(name)
	var config string
	for _, r := range []struct {
		prefix string
		via    netip.Addr
	}{{far4, underlayOf(peer, false)}, {far6, underlayOf(peer, true)}} {
		if config != "" {
			config += "\n"
		}
		config += fmt.Sprintf("[[route]]\nprefix = %q # the containers of host %s\nvia    = %q\n", r.prefix, peer, r.via)
	}
	return host{
		name: name, router: true, bridge: true, addrs: []netip.Prefix{prefix(own4), prefix(own6)},
		config: config, does: []string{"keeps the routes to host " + peer},
	}
}
