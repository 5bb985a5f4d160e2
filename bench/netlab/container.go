package netlab

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"overtap/encap"
)

// ContainerDev is the name of a container's only device.
const ContainerDev = "eth0"

// ContainerSpec says what a container must be.
type ContainerSpec struct {
	Name    string // of the namespace, and of the port on the host's bridge
	Bridge  string // of the host
	Addrs   []netip.Prefix
	MAC     encap.MAC  // 0 = random
	MTU     int        // bytes; 0 = 1500
	Gateway netip.Addr // of the default route; invalid = none
}

// AddContainer makes a namespace joined to the host's bridge by a veth pair:
// eth0 inside, named as the container on the host. A container without IPv6
// addresses has IPv6 switched off, so that it never speaks unasked.
func (h *Host) AddContainer(s ContainerSpec) (*Host, error) {
	c, err := h.lab.AddHost(s.Name)
	if err != nil {
		return nil, err
	}
	if err := h.furnish(c, s); err != nil {
		return nil, err
	}
	return c, nil
}

func (h *Host) furnish(c *Host, s ContainerSpec) error {
	v6 := false
	for _, a := range s.Addrs {
		v6 = v6 || a.Addr().Is6()
	}
	if !v6 {
		if err := c.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	if err := AddVeth(h, s.Name, c, ContainerDev, s.MTU); err != nil {
		return err
	}
	if s.MAC != 0 {
		if err := c.SetMAC(ContainerDev, s.MAC); err != nil {
			return err
		}
	}
	for _, a := range s.Addrs {
		if err := c.AddAddr(ContainerDev, a); err != nil {
			return err
		}
	}
	if s.Gateway.IsValid() {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if s.Gateway.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := c.AddRoute(all, s.Gateway, ContainerDev); err != nil {
			return err
		}
	}
	return h.SetMaster(s.Name, s.Bridge)
}

// MoveContainer takes the container off host from and puts it on a bridge of
// host to, as an orchestrator does: its MAC, addresses and open connections
// stay. It announces itself only if it has IPv6. On return frames pass.
func MoveContainer(c, from, to *Host, bridge string) error {
	err := from.onLink("move to host "+to.name, c.name, func(nl *netlink.Handle, l netlink.Link) error {
		return nl.LinkSetNsFd(l, int(to.ns.Fd()))
	})
	if err != nil {
		return err
	}
	if err := to.SetMaster(c.name, bridge); err != nil {
		return err
	}
	if err := to.SetUp(c.name); err != nil {
		return err
	}
	return awaitCarrier(to, c.name, c, ContainerDev)
}
