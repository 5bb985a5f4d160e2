package netlab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// FDBEntry is a forwarding entry of a kernel device, as `bridge fdb show` has it.
type FDBEntry struct {
	MAC    encap.MAC  // 0 = the default destination of a vxlan device
	Peer   netip.Addr // VTEP; invalid on devices other than vxlan
	VLAN   int        // 0 = none
	Static bool       // permanent; else it was learned
	Bridge bool       // an entry of the bridge that the device is a port of, not the device's own
}

// KernelFDB returns the entries of a vxlan device, those that its bridge has
// for that port included, ordered by MAC. It works on any bridge port.
func (h *Host) KernelFDB(dev string) (entries []FDBEntry, err error) {
	err = h.onLink("list FDB", dev, func(nl *netlink.Handle, l netlink.Link) error {
		list, err := untorn(func() ([]netlink.Neigh, error) {
			return nl.NeighList(l.Attrs().Index, unix.AF_BRIDGE)
		})
		for _, n := range list {
			if len(n.HardwareAddr) != encap.MACLen {
				continue
			}
			e := FDBEntry{
				MAC:    encap.MACFrom(n.HardwareAddr),
				VLAN:   n.Vlan,
				Static: n.State&netlink.NUD_PERMANENT != 0,
				Bridge: n.Flags&netlink.NTF_SELF == 0,
			}
			e.Peer, _ = netip.AddrFromSlice(n.IP)
			entries = append(entries, e)
		}
		return err
	})
	slices.SortStableFunc(entries, func(a, b FDBEntry) int { return cmp.Compare(a.MAC, b.MAC) })
	return entries, err
}

// AddFDB binds mac to a peer on a vxlan device of the kernel, in place of what
// was known of it. The MAC 0 adds a peer to those that get broadcast, unknown
// unicast and multicast frames.
func (h *Host) AddFDB(dev string, mac encap.MAC, peer netip.Addr) error {
	return h.onLink(fmt.Sprintf("add FDB entry %v to %v", mac, peer), dev,
		func(nl *netlink.Handle, l netlink.Link) error {
			n := fdbEntry(l, mac, peer)
			if mac == 0 {
				return nl.NeighAppend(n)
			}
			return nl.NeighSet(n)
		})
}

// DeleteFDB takes the entry away again.
func (h *Host) DeleteFDB(dev string, mac encap.MAC, peer netip.Addr) error {
	return h.onLink(fmt.Sprintf("delete FDB entry %v to %v", mac, peer), dev,
		func(nl *netlink.Handle, l netlink.Link) error { return nl.NeighDel(fdbEntry(l, mac, peer)) })
}

func fdbEntry(l netlink.Link, mac encap.MAC, peer netip.Addr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex:    l.Attrs().Index,
		Family:       unix.AF_BRIDGE,
		State:        netlink.NUD_PERMANENT | netlink.NUD_NOARP,
		Flags:        netlink.NTF_SELF,
		HardwareAddr: hardwareAddr(mac),
		IP:           peer.AsSlice(),
	}
}
