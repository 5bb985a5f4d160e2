package host

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// keepMAC gives a link the MAC again that it should have: another program may have set
// another (udev's MACAddressPolicy, say), by which this host then speaks where peers,
// probes and static entries know it by its own. 0 is any.
func (h *Host) keepMAC(l netlink.Link, mac encap.MAC, p *pass) error {
	want := hardwareAddr(mac)
	if mac == 0 || bytes.Equal(l.Attrs().HardwareAddr, want) {
		return nil
	}
	if err := h.nl.LinkSetHardwareAddr(l, want); err != nil {
		return fmt.Errorf("setting the MAC of %s back from %s to %s: %w", l.Attrs().Name, l.Attrs().HardwareAddr, want, err)
	}
	p.did("the MAC of %s", l.Attrs().Name)
	return nil
}

// pinMAC has a bridge that was found keep the MAC it has when the TAP joins it. Until
// it is set, a bridge's MAC is the lowest of its ports'
// (br_stp_recalculate_bridge_id): it would be the TAP's while that is a port, and the
// neighbours on the LAN would know this host by it when the TAP is gone. The kernel has
// no way back to a bridge that follows its ports (NET_ADDR_SET), so this is not undone;
// the MAC itself stays what it was before.
func (h *Host) pinMAC(tap, bridge netlink.Link) error {
	if h.ours(bridgeMark, bridge) {
		return nil // it was made with one
	}
	mac, name, index := bridge.Attrs().HardwareAddr, bridge.Attrs().Name, bridge.Attrs().Index
	ports, err := h.portsOf(index)
	if err != nil {
		return fmt.Errorf("listing the ports of %s: %w", name, err)
	}
	has := func(p netlink.Link) bool { return bytes.Equal(p.Attrs().HardwareAddr, mac) }
	follows := slices.ContainsFunc(ports, has)
	switch known := h.bridgeMACs[name]; {
	case len(ports) > 0 && !follows, follows && bytes.Compare(tap.Attrs().HardwareAddr, mac) > 0:
		// It was set, or it goes on following that port.
		h.bridgeMACs[name] = mac
		return nil
	case len(ports) == 0 && known != nil:
		mac = known // it was made again, and peers know this host by that one
	case len(mac) != encap.MACLen || encap.MACFrom(mac) == 0:
		// Its last port left, and it has none (br_mac_zero).
		mac = hardwareAddr(BridgeMAC(name, h.underlay))
	}
	h.bridgeMACs[name] = mac
	// A MAC that is set flushes the neighbours, by hand or not (neigh_changeaddr).
	neighbors, err := h.othersNeighbors(index)
	if err != nil {
		return err
	}
	if err := h.nl.LinkSetHardwareAddr(bridge, mac); err != nil {
		return fmt.Errorf("having %s keep its MAC %s: %w", name, mac, err)
	}
	h.log.Info("the bridge keeps its MAC from now on, whatever ports come and go", "bridge", name, "mac", mac)
	for i := range neighbors {
		if err := h.nl.NeighSet(&neighbors[i]); err != nil {
			return fmt.Errorf("putting the neighbour %s of %s back: %w", neighbors[i].IP, name, err)
		}
	}
	return nil
}

// portsOf lists the ports of a bridge.
func (h *Host) portsOf(bridge int) ([]netlink.Link, error) {
	msgs, err := untorn(func() ([][]byte, error) {
		req := h.request(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	var all []netlink.Link
	for _, m := range msgs {
		l, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, err
		}
		if l.Attrs().MasterIndex == bridge {
			all = append(all, l)
		}
	}
	return all, err
}

// othersNeighbors lists the permanent neighbours of a link that are not ours.
func (h *Host) othersNeighbors(index int) ([]netlink.Neigh, error) {
	entries, err := h.neighborsOf(index)
	if err != nil {
		return nil, fmt.Errorf("listing neighbours: %w", err)
	}
	var all []netlink.Neigh
	for addr, x := range entries {
		if x.othersPermanent() {
			all = append(all, netlink.Neigh{LinkIndex: index, Family: int(familyOf(addr)), State: unix.NUD_PERMANENT,
				IP: addr.AsSlice(), HardwareAddr: hardwareAddr(x.mac)})
		}
	}
	return all, nil
}

// takesPorts reports whether n's bridge takes the addresses of its ports, and with
// them the MAC of one.
func (h *Host) takesPorts(n Network) bool {
	if n.PortsTake {
		return true
	}
	for _, o := range h.networks {
		if o.Bridge == n.Bridge && o.PortsTake {
			return true
		}
	}
	return false
}
