package host

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A remedy that an error or a warning names is one that ends no working
// connection: what carries something is never to be deleted, and what can be taken
// down again and brought up is not deleted either. Where that cannot be known, the
// remedy is to change the configuration.

// uses says what hangs on a link, in words for a sentence; "" when nothing does
// that can be seen from this namespace.
func (h *Host) uses(l netlink.Link, underlay netip.Addr, device string) string {
	a := l.Attrs()
	if a.Name == device {
		return "the underlay runs over it"
	}
	if a.Flags&unix.IFF_LOOPBACK != 0 || a.RawFlags&unix.IFF_LOOPBACK != 0 {
		return "it is the loopback device"
	}
	if list, err := h.addresses(l); err != nil {
		return "its addresses cannot be listed"
	} else {
		for _, x := range list {
			p, ok := prefixOf(x.IPNet)
			switch {
			case !ok || p.Addr().IsLinkLocalUnicast():
			case p.Addr() == underlay.WithZone(""):
				return "it has the underlay address " + p.Addr().String()
			default:
				return "it has the address " + p.Addr().String()
			}
		}
	}
	if a.MasterIndex != 0 {
		return "it is a port of " + h.linkName(a.MasterIndex)
	}
	links, err := h.links()
	if err != nil {
		return "this host's devices cannot be listed"
	}
	for _, other := range links {
		o := other.Attrs()
		if o.MasterIndex == a.Index {
			return o.Name + " is a port of it"
		}
		if o.ParentIndex == a.Index && o.NetNsID < 0 && other.Type() != "veth" {
			return o.Name + " stands on it"
		}
	}
	routes, err := h.allRoutes()
	if err != nil {
		return "this host's routes cannot be listed"
	}
	for i := range routes {
		if over, _ := by(&routes[i], a.Index); !over {
			continue
		}
		if p, ok := prefixOf(routes[i].Dst); ok && p.Addr().IsLinkLocalUnicast() || ok && p.Addr().IsMulticast() {
			continue
		}
		return "a route leads over it"
	}
	if l.Type() == "device" {
		return "it is a device of the hardware"
	}
	return ""
}

// nameTaken says that a device's name is taken, and what to do about it.
func (h *Host) nameTaken(n Network, l netlink.Link, key string, p Plan) error {
	if why := h.uses(l, p.Underlay, p.Device); why != "" {
		return fmt.Errorf("the device name %s is taken by a %s, which is in use (%s): choose another name for %s", n.Device, l.Type(), why, key)
	}
	return fmt.Errorf("the device name %s is taken by a %s: choose another name for %s, or remove that with `ip link del %s` if nothing needs it",
		n.Device, l.Type(), key, n.Device)
}

// freePort says how a UDP port that a vxlan device of the kernel holds gets free.
// Down it holds none (vxlan_stop), and it can be brought up again.
func freePort(device string, underlay bool) string {
	const other = "give one of the two another port"
	if underlay {
		return other + ": the underlay runs over that"
	}
	return fmt.Sprintf("%s, or take that down with `ip link set %s down`, and with it what it carries", other, device)
}

// isUnderlay reports whether the underlay runs over the link of a name.
func (h *Host) isUnderlay(name string) bool {
	l, err := h.nl.LinkByName(name)
	return err == nil && h.marks.isUnderlay(l.Attrs().Index)
}
