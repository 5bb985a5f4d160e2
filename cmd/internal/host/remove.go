package host

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// maxTogether bounds the links that one request deletes, and so for how long it
// holds the lock of all of the kernel's links (rtnl): the end of a bridge takes a
// grace period (rcu_barrier in br_multicast_dev_del), 4 to 20 ms, and no way to
// remove it is shorter.
const maxTogether = 128

// removal is what Undo deletes as links. What stands on them, addresses, routes
// and neighbours, goes with them.
type removal struct {
	devices []netlink.Link // the engine's
	bridges []netlink.Link
	index   map[int]bool   // of all of them
	routes  map[Route]bool // that lead over them
}

// removal looks which of the links are this run's.
func (h *Host) removal() (removal, error) {
	r := removal{index: make(map[int]bool), routes: make(map[Route]bool)}
	if len(h.networks) == 0 {
		return r, nil
	}
	links, err := h.links()
	if err != nil {
		return r, fmt.Errorf("looking for what was made: %w", err)
	}
	made := make(map[string]bool)
	for _, s := range h.undo.steps {
		if s.Do == removeBridge {
			made[s.Link] = true
		}
	}
	for _, l := range links {
		switch name := l.Attrs().Name; {
		case h.ours(deviceMark, l):
			r.devices = append(r.devices, l)
		case made[name] && h.ours(bridgeMark, l):
			r.bridges = append(r.bridges, l)
		default:
			continue
		}
		r.index[l.Attrs().Index] = true
	}
	for _, n := range h.networks {
		carrier := n.bridge
		if carrier == 0 {
			carrier = n.tap
		}
		for _, route := range n.Routes {
			if r.index[carrier] && !slices.Contains(h.routes, route) {
				r.routes[route] = true
			}
		}
	}
	return r, nil
}

// covers reports whether the step is done once the links are deleted.
func (r *removal) covers(s *Step) bool {
	switch s.Do {
	case removeBridge, takeDown, resetMTU, removeAddress, removeNeighbors:
		return r.index[s.Index]
	case removeRoute:
		return r.routes[s.Route]
	}
	return false
}

// remove deletes links many at a time, which takes less than half as long as one
// by one. Those that are gone by then are as they should be.
func (h *Host) remove(links []netlink.Link) error {
	var errs []error
	for some := range slices.Chunk(links, maxTogether) {
		errs = append(errs, h.removeTogether(some))
	}
	return errors.Join(errs...)
}

// removeTogether deletes links by a group that only they have (rtnl_group_dellink).
func (h *Host) removeTogether(links []netlink.Link) error {
	var errs []error
	group := 1<<31 | rand.Uint32()
	for _, l := range links {
		if err := h.nl.LinkSetGroup(l, int(group)); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("removing %s: %w", l.Attrs().Name, err))
		}
	}
	req := h.request(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !gone(err) {
		h.log.Debug("links cannot be removed together: one by one", "err", err)
		for _, l := range links {
			if err := h.nl.LinkDel(l); err != nil && !gone(err) {
				errs = append(errs, fmt.Errorf("removing %s: %w", l.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}
