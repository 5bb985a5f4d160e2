package netlab

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// ErrNotCounted is what BridgeLearned returns before Linux 6.7.
var ErrNotCounted = errors.New("this kernel does not say")

// BridgeLearned returns how many MACs a bridge has learned, at all its ports
// (IFLA_BR_FDB_N_LEARNED). It asks for the number alone: to list a million entries
// takes the kernel minutes, for each part of the list begins with going over the
// parts before (br_fdb_dump, vxlan_fdb_dump).
func (h *Host) BridgeLearned(bridge string) (n int, err error) {
	err = h.onLink("count what it learned", bridge, func(_ *netlink.Handle, l netlink.Link) error {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Attrs().Index)
		req.AddData(msg)
		var answers [][]byte
		err := h.Do(func() (err error) {
			answers, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
			return err
		})
		if err != nil {
			return err
		}
		if len(answers) != 1 || len(answers[0]) < msg.Len() {
			return fmt.Errorf("%d answers, want one", len(answers))
		}
		v, err := attribute(answers[0][msg.Len():], unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, unix.IFLA_BR_FDB_N_LEARNED)
		if err != nil {
			return err
		}
		if len(v) != 4 {
			return ErrNotCounted
		}
		n = int(binary.NativeEndian.Uint32(v))
		return nil
	})
	return n, err
}

// attribute returns the value of the last of the attributes, each of which is
// within the one before, or nil.
func attribute(b []byte, path ...uint16) ([]byte, error) {
	for _, want := range path {
		all, err := nl.ParseRouteAttr(b)
		if err != nil {
			return nil, err
		}
		b = nil
		for _, a := range all {
			if a.Attr.Type&nl.NLA_TYPE_MASK == want {
				b = a.Value
			}
		}
	}
	return b, nil
}
