package host

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// Bridged says where a bridge sends frames for a MAC.
type Bridged struct {
	Port string // the port's device; of this host's own MACs the bridge or the port that has it
	Own  bool   // the MAC is this host's own: frames for it go up to its stack
}

// Bridged looks a MAC up in the forwarding table of a bridge. ok is false when it
// has no entry, so that the bridge floods frames for it.
func (h *Host) Bridged(bridge string, mac encap.MAC) (b Bridged, ok bool, err error) {
	l, err := h.nl.LinkByName(bridge)
	if err != nil {
		return b, false, fmt.Errorf("looking for bridge %s: %w", bridge, err)
	}
	index := l.Attrs().Index
	want := bytesOf(mac)
	entries, err := h.nl.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return b, false, fmt.Errorf("reading the forwarding table of bridge %s: %w", bridge, err)
	}
	for _, e := range entries {
		// A device's own list of addresses (NTF_SELF) is none of the bridge's.
		if !bytes.Equal(e.HardwareAddr, want) || e.Flags&unix.NTF_SELF != 0 && e.LinkIndex != index ||
			e.LinkIndex != index && e.MasterIndex != index {
			continue
		}
		port, err := h.nl.LinkByIndex(e.LinkIndex)
		if err != nil {
			return b, false, fmt.Errorf("looking for a port of bridge %s: %w", bridge, err)
		}
		own := e.LinkIndex == index || bytes.Equal(port.Attrs().HardwareAddr, want)
		return Bridged{Port: port.Attrs().Name, Own: own}, true, nil
	}
	return b, false, nil
}

// NeighborOf is the MAC by which this host's stack reaches an address on the
// device; ok is false when it does not know it.
func (h *Host) NeighborOf(device string, a netip.Addr) (mac encap.MAC, ok bool, err error) {
	l, err := h.nl.LinkByName(device)
	if err != nil {
		return 0, false, fmt.Errorf("looking for device %s: %w", device, err)
	}
	family := unix.AF_INET
	if a.Is6() {
		family = unix.AF_INET6
	}
	entries, err := h.nl.NeighList(l.Attrs().Index, family)
	if err != nil {
		return 0, false, fmt.Errorf("reading the neighbours of %s: %w", device, err)
	}
	for _, e := range entries {
		at, _ := netip.AddrFromSlice(e.IP)
		if at.Unmap() == a && len(e.HardwareAddr) == encap.MACLen && e.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			return encap.MACFrom(e.HardwareAddr), true, nil
		}
	}
	return 0, false, nil
}

// MACOf is a device's own MAC.
func (h *Host) MACOf(device string) (encap.MAC, error) {
	l, err := h.nl.LinkByName(device)
	if err != nil {
		return 0, fmt.Errorf("looking for device %s: %w", device, err)
	}
	if len(l.Attrs().HardwareAddr) != encap.MACLen {
		return 0, fmt.Errorf("device %s has no MAC", device)
	}
	return encap.MACFrom(l.Attrs().HardwareAddr), nil
}

func bytesOf(mac encap.MAC) net.HardwareAddr {
	b := make(net.HardwareAddr, encap.MACLen)
	mac.Put(b)
	return b
}
