package lab

import (
	"fmt"
	"strings"

	"overtap/bench/netlab"
)

// swarmNet is a network as Docker's swarm mode has them.
var swarmNet = vxlanNet{name: labNetwork, vni: 4097, port: 4789, keys: []string{
	"suppress = true # questions for the neighbours below are answered here",
}}

// swarmLab joins two hosts that know beforehand where each container is.
func swarmLab() *Topology {
	containers := []container{
		{name: "a1", host: "a", v4: prefix("198.51.100.1/24"), v6: prefix("2001:db8:1::1/64")},
		{name: "b1", host: "b", v4: prefix("198.51.100.2/24"), v6: prefix("2001:db8:1::2/64")},
	}
	a, b := swarmNet.host("a"), swarmNet.kernelOr("b", vxlanMTU)
	a.config += knownContainers("b", containers)
	b.config += knownContainers("a", containers)
	b.kernel.vxlan.Suppress, b.kernel.vxlan.Flood = true, nil
	b.kernel.late = func(h *netlab.Host) error { return tellKernel(h, "a", containers) }
	return &Topology{
		Name:       "swarm",
		Summary:    "containers known beforehand, as on swarm nodes",
		hosts:      []host{a, b},
		mtu:        vxlanMTU,
		containers: containers,
		pings:      [][2]string{{"b1", "a1"}, {"a1", "b1"}},
		words:      vxlanWords,
		tries: append([]suggestion{
			{why: "whom overtap in host a answers for", member: "a", command: "overtap neigh show"},
		}, vxlanTries...),
	}
}

// knownContainers are the tables for those of the host.
func knownContainers(host string, containers []container) string {
	var b strings.Builder
	for _, c := range containers {
		if c.host != host {
			continue
		}
		fmt.Fprintf(&b, "\n  [[vxlan.fdb]] # container %s\n  mac  = %q\n  peer = %q\n", c.name, c.mac(), underlay(host))
		for _, a := range c.addrs() {
			fmt.Fprintf(&b, "\n  [[vxlan.neighbor]]\n  address = %q\n  mac     = %q\n", a.Addr(), c.mac())
		}
	}
	return b.String()
}

// tellKernel gives the kernel's device the same.
func tellKernel(h *netlab.Host, host string, containers []container) error {
	for _, c := range containers {
		if c.host != host {
			continue
		}
		if err := h.AddFDB(netlab.SiteVXLAN, c.mac(), underlay(host)); err != nil {
			return err
		}
		for _, a := range c.addrs() {
			if err := h.AddNeighbor(netlab.SiteVXLAN, a.Addr(), c.mac()); err != nil {
				return err
			}
		}
	}
	return nil
}
