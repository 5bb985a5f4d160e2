package netlab

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// AddNeighbor binds an address to a MAC on the device for good, as `ip neigh
// replace ADDRESS lladdr MAC nud permanent dev DEV` does. A vxlan device that
// suppresses answers from its entries.
func (h *Host) AddNeighbor(dev string, a netip.Addr, mac encap.MAC) error {
	return h.onLink(fmt.Sprintf("add neighbour %v at %v", a, mac), dev, func(nl *netlink.Handle, l netlink.Link) error {
		return nl.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: hardwareAddr(mac),
		})
	})
}

// DeleteNeighbor removes the device's entry of the address.
func (h *Host) DeleteNeighbor(dev string, a netip.Addr) error {
	return h.onLink(fmt.Sprintf("delete neighbour %v", a), dev, func(nl *netlink.Handle, l netlink.Link) error {
		return nl.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice()})
	})
}

// Neighbors returns the addresses whose entries on the device are permanent, in
// order.
func (h *Host) Neighbors(dev string) (all []netip.Addr, err error) {
	err = h.onLink("list neighbours", dev, func(nl *netlink.Handle, l netlink.Link) error {
		list, err := untorn(func() ([]netlink.Neigh, error) { return nl.NeighList(l.Attrs().Index, unix.AF_UNSPEC) })
		for _, n := range list {
			a, ok := netip.AddrFromSlice(n.IP)
			if ok && n.State&netlink.NUD_PERMANENT != 0 {
				all = append(all, a)
			}
		}
		return err
	})
	slices.SortFunc(all, netip.Addr.Compare)
	return all, err
}
