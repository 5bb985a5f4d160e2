package daemon

import (
	"fmt"

	"overtap/dataplane"
)

// warnings are what an operator should look at although traffic flows.
func (d *daemon) warnings(s dataplane.Stats) []string {
	all := append([]string{}, d.warnKernelIPIP()...)
	for _, n := range s.Networks {
		if n.Frozen > 0 {
			all = append(all, fmt.Sprintf("network %s: %d MACs moved too often and are frozen: a loop, one MAC twice, or an impostor; "+
				"`overtap fdb show --network %s` marks them", n.Network, n.Frozen, n.Network))
		}
	}
	for _, drop := range s.Drops {
		if drop.Reason == dataplane.DropLocalMAC {
			all = append(all, fmt.Sprintf("network %s: %d frames of this host's own came back since the start: there is a loop, or another host has the TAP's MAC",
				drop.Network, drop.Count))
		}
	}
	return all
}
