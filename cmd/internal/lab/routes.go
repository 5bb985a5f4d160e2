package lab

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	hostsetup "overtap/cmd/internal/host"
)

// hostRoutes are the routes that overtap keeps in a host.
type hostRoutes struct {
	host   string
	routes []string // as `ip route` has them, sorted
}

// overtapRoutes lists those that overtap made.
func overtapRoutes(h *netlab.Host) (lines []string, err error) {
	nl, err := h.Netlink()
	if err != nil {
		return nil, err
	}
	list, err := nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: hostsetup.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list the routes of host %s: %w", h.Name(), err)
	}
	for _, r := range list {
		line := r.Dst.String()
		if r.Gw != nil {
			line += " via " + r.Gw.String()
		}
		l, err := nl.LinkByIndex(r.LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("look up the device of the route %s of host %s: %w", line, h.Name(), err)
		}
		lines = append(lines, line+" dev "+l.Attrs().Name)
	}
	slices.Sort(lines)
	return lines, nil
}
