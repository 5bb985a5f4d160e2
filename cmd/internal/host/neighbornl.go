package host

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// neighborEntry is what the kernel has of a neighbour.
type neighborEntry struct {
	mac       encap.MAC // 0 = not resolved
	permanent bool
	protocol  uint8 // who made it, 0 = not known; RouteProtocol is ours
}

// neighborsOf lists the IPv4 and IPv6 neighbours of a link. The netlink module
// does not know of their protocol (NDA_PROTOCOL, Linux 5.0).
func (h *Host) neighborsOf(index int) (map[netip.Addr]neighborEntry, error) {
	all := make(map[netip.Addr]neighborEntry)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		msgs, err := untorn(func() ([][]byte, error) {
			req := h.request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
			req.AddData(&netlink.Ndmsg{Family: uint8(family)})
			req.AddData(nl.NewRtAttr(netlink.NDA_IFINDEX, nl.Uint32Attr(uint32(index))))
			return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
		})
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			n, err := netlink.NeighDeserialize(m)
			if err != nil {
				return nil, err
			}
			a, ok := netip.AddrFromSlice(n.IP)
			if !ok || n.LinkIndex != index {
				continue
			}
			e := neighborEntry{permanent: n.State&unix.NUD_PERMANENT != 0}
			if len(n.HardwareAddr) == encap.MACLen {
				e.mac = encap.MACFrom(n.HardwareAddr)
			}
			attrs, err := nl.ParseRouteAttr(m[unix.SizeofNdMsg:])
			if err != nil {
				return nil, err
			}
			for _, attr := range attrs {
				if attr.Attr.Type == netlink.NDA_PROTOCOL && len(attr.Value) == 1 {
					e.protocol = attr.Value[0]
				}
			}
			all[a] = e
		}
	}
	return all, nil
}

// setNeighbor makes a permanent entry, in place of any of the address.
func (h *Host) setNeighbor(index int, n Neighbor) error {
	req := h.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: familyOf(n.Address), Index: uint32(index), State: unix.NUD_PERMANENT})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, n.Address.AsSlice()))
	req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, hardwareAddr(n.MAC)))
	req.AddData(nl.NewRtAttr(netlink.NDA_PROTOCOL, nl.Uint8Attr(RouteProtocol)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// deleteNeighbor removes an entry. That there is none is no error (neigh_delete).
func (h *Host) deleteNeighbor(index int, n Neighbor) error {
	req := h.request(unix.RTM_DELNEIGH, unix.NLM_F_ACK)
	req.AddData(&netlink.Ndmsg{Family: familyOf(n.Address), Index: uint32(index)})
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, n.Address.AsSlice()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// request begins a netlink request for which the handle has no call.
func (h *Host) request(kind uint16, flags int) *nl.NetlinkRequest {
	return &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: kind, Flags: unix.NLM_F_REQUEST | uint16(flags)},
		Sockets:  h.raw,
	}
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
