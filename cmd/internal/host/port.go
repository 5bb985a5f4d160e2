package host

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ports puts n's further devices on the bridge. It goes on after an error and
// returns all of them.
func (h *Host) ports(n Network, bridge netlink.Link, p *pass) error {
	var errs []error
	for _, name := range n.Ports {
		errs = append(errs, h.port(n, name, bridge, p))
	}
	return errors.Join(errs...)
}

// port puts a device on the bridge and brings it up.
func (h *Host) port(n Network, name string, bridge netlink.Link, p *pass) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for the port %s: %w", name, err)
	}
	index := l.Attrs().Index
	switch l.Attrs().MasterIndex {
	case bridge.Attrs().Index:
		h.undo.keep(Step{Do: releasePort, Link: name})
		if n.PortsTake && p.first() {
			if err := h.adoptMoved(n, name, bridge); err != nil {
				return err
			}
		}
	case 0:
		h.undo.remember(Step{Do: releasePort, Link: name, Bridge: bridge.Attrs().Name})
		if n.PortsTake {
			if err := h.noteAddresses(n, l, bridge); err != nil {
				return err
			}
		} else {
			h.warnAddresses(l)
		}
		if err := h.nl.LinkSetMaster(l, bridge); err != nil {
			return fmt.Errorf("making %s a port of %s: %w", name, bridge.Attrs().Name, err)
		}
		p.did("the port %s of %s", name, bridge.Attrs().Name)
	default:
		return portTaken(name, h.linkName(l.Attrs().MasterIndex))
	}
	if p.was.ports[name] != index {
		down := Step{Do: takeDown, Link: name, Index: index}
		if h.undo.keep(down); l.Attrs().RawFlags&unix.IFF_UP == 0 {
			h.undo.remember(down)
		}
		if err := h.up(l); err != nil {
			return err
		}
		p.now.ports[name] = index
	}
	return h.moveToBridge(name, bridge)
}

// release takes the port off the bridge, unless another program did or gave it to
// another.
func (h *Host) release(name, bridge string) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if l.Attrs().MasterIndex == 0 || h.linkName(l.Attrs().MasterIndex) != bridge {
		return nil
	}
	return h.nl.LinkSetNoMaster(l)
}

// warnAddresses says that a port's addresses are of no use any more: what comes
// in belongs to the bridge (br_handle_frame).
func (h *Host) warnAddresses(port netlink.Link) {
	if list, err := h.movableAddresses(port); err == nil && len(list) > 0 {
		h.log.Warn("the port has addresses, which do not work on the port of a bridge: put them on the bridge by addresses, or set ports_take_addresses = true",
			"port", port.Attrs().Name, "address", list[0].IPNet)
	}
}

// checkPorts looks whether n's further devices can become ports of the bridge
// of that index, 0 when there is none yet.
func (h *Host) checkPorts(p Plan, n Network, bridge int) error {
	var errs []error
	for _, name := range n.Ports {
		switch l, err := h.nl.LinkByName(name); {
		case gone(err):
			errs = append(errs, fmt.Errorf("the port %s does not exist: create it first, or take it out of ports", name))
		case err != nil:
			errs = append(errs, fmt.Errorf("looking for %s: %w", name, err))
		case l.Type() == "bridge":
			errs = append(errs, fmt.Errorf("the port %s is a bridge, and no bridge takes another: join the two by a veth pair", name))
		case l.Attrs().MasterIndex == 0:
			errs = append(errs, h.checkBearing(p, n, l))
		case l.Attrs().MasterIndex != bridge:
			errs = append(errs, portTaken(name, h.linkName(l.Attrs().MasterIndex)))
		}
	}
	return errors.Join(errs...)
}

// checkBearing refuses a port that this host needs: no host reaches the
// addresses of a bridge's port.
func (h *Host) checkBearing(p Plan, n Network, port netlink.Link) error {
	name := port.Attrs().Name
	bears := ""
	list, err := h.addresses(port)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", name, err)
	}
	for _, a := range list {
		if x, ok := prefixOf(a.IPNet); ok && x.Addr() == p.Underlay.WithZone("") {
			bears = fmt.Sprintf("the underlay address %s", x.Addr())
		}
	}
	routes, err := h.allRoutes()
	if err != nil {
		return err
	}
	for i := range routes {
		over, several := by(&routes[i], port.Attrs().Index)
		if !over {
			continue
		}
		if several && n.PortsTake {
			return fmt.Errorf("the port %s is one of several ways of the route %s, which cannot move to the bridge: take it out of ports, or give the route one way", name, routes[i].Dst)
		}
		if n.PortsTake && (routes[i].Encap != nil || routes[i].NewDst != nil || routes[i].MPLSDst != nil) {
			return fmt.Errorf("the port %s has the route %s, whose encapsulation cannot move to the bridge: take it out of ports, or give the route another way", name, routes[i].Dst)
		}
		if p, ok := prefixOf(routes[i].Dst); ok && p.Bits() == 0 && bears == "" {
			bears = "the default route"
		}
	}
	if bears == "" || n.PortsTake {
		return nil
	}
	return fmt.Errorf("the port %s carries %s, and addresses do not work on a bridge's port: this host would be cut off. "+
		"Name another device, or set ports_take_addresses = true to move its addresses and routes to the bridge", name, bears)
}

// by reports whether the route leads over the link, and whether that is one
// way of several.
func by(r *netlink.Route, index int) (over, several bool) {
	for _, nh := range r.MultiPath {
		if nh.LinkIndex == index {
			return true, true
		}
	}
	return r.LinkIndex == index, false
}

func portTaken(name, master string) error {
	return fmt.Errorf("the port %s already belongs to %s, and may carry what that needs: take it out of ports, or release it there first",
		name, master)
}
