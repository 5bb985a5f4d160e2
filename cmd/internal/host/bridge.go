package host

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// bridgeAlias marks the bridges that were made here (IFLA_IFALIAS, shown by
// `ip link`), so that a run after a crash knows what its predecessor made and
// removes it in its place.
const bridgeAlias = "overtap"

// bridge returns n's bridge, made when missing, and up.
func (h *Host) bridge(n Network) (netlink.Link, error) {
	l, err := h.nl.LinkByName(n.Bridge)
	switch {
	case err == nil:
		if l.Type() != "bridge" {
			return nil, notABridge(n.Bridge, l.Type())
		}
	case gone(err):
		if l, err = h.makeBridge(n); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("looking for the bridge %s: %w", n.Bridge, err)
	}

	index := l.Attrs().Index
	if l.Attrs().Alias == bridgeAlias {
		h.remember("removing the bridge "+n.Bridge, func() error { return h.removeBridge(n.Bridge, index) })
		if mtu := h.bridgeMTU(n); l.Attrs().MTU != mtu {
			if err := h.nl.LinkSetMTU(l, mtu); err != nil {
				return nil, fmt.Errorf("setting the MTU of %s to %d: %w", n.Bridge, mtu, err)
			}
		}
	} else if l.Attrs().RawFlags&unix.IFF_UP == 0 {
		h.remember("taking "+n.Bridge+" down again", func() error { return h.nl.LinkSetDown(l) })
	}
	return l, h.up(l)
}

// bridgeMTU returns the least MTU of the networks that share n's bridge.
func (h *Host) bridgeMTU(n Network) int {
	mtu := n.MTU
	for _, o := range h.networks {
		if o.Bridge == n.Bridge && o.Name != n.Name {
			mtu = min(mtu, o.MTU)
		}
	}
	return int(mtu)
}

// makeBridge creates and marks n's bridge.
func (h *Host) makeBridge(n Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.Bridge
	attrs.MTU = int(n.MTU)
	// Without one of its own a bridge takes the lowest MAC of its ports and
	// changes it as they come and go, to the confusion of every ARP cache.
	attrs.HardwareAddr = hardwareAddr(BridgeMAC(n.Bridge, h.underlay))
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("creating the bridge %s: %w", n.Bridge, err)
	}
	l, err := h.nl.LinkByName(n.Bridge)
	if err != nil {
		return nil, fmt.Errorf("looking for the bridge %s just created: %w", n.Bridge, err)
	}
	if err := h.nl.LinkSetAlias(l, bridgeAlias); err != nil {
		return nil, fmt.Errorf("marking the bridge %s as ours: %w", n.Bridge, err)
	}
	l.Attrs().Alias = bridgeAlias
	h.log.Debug("bridge created", "bridge", n.Bridge)
	return l, nil
}

// removeBridge deletes the bridge unless it is no longer the one that was made.
func (h *Host) removeBridge(name string, index int) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if l.Attrs().Index != index || l.Attrs().Alias != bridgeAlias {
		return nil
	}
	return h.nl.LinkDel(l)
}

// port puts a further device on the bridge and brings it up.
func (h *Host) port(name string, bridge netlink.Link) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("looking for the port %s: %w", name, err)
	}
	switch l.Attrs().MasterIndex {
	case bridge.Attrs().Index:
	case 0:
		h.remember("releasing the port "+name, func() error { return h.nl.LinkSetNoMaster(l) })
		if err := h.nl.LinkSetMaster(l, bridge); err != nil {
			return fmt.Errorf("making %s a port of %s: %w", name, bridge.Attrs().Name, err)
		}
	default:
		return portTaken(name, h.linkName(l.Attrs().MasterIndex))
	}
	if l.Attrs().RawFlags&unix.IFF_UP == 0 {
		h.remember("taking "+name+" down again", func() error { return h.nl.LinkSetDown(l) })
	}
	return h.up(l)
}

// linkName names the link of an index, or gives the index.
func (h *Host) linkName(index int) string {
	l, err := h.nl.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("the link of index %d", index)
	}
	return l.Attrs().Name
}

// BridgeMAC returns the MAC of a bridge made here: locally administered, and
// the same on every run on this host.
func BridgeMAC(name string, underlay netip.Addr) encap.MAC {
	sum := sha256.Sum256([]byte("bridge\x00" + name + "\x00" + underlay.String()))
	sum[0] = sum[0]&^1 | 2 // unicast, locally administered (IEEE 802 clause 8.2)
	return encap.MACFrom(sum[:])
}

func hardwareAddr(m encap.MAC) net.HardwareAddr {
	b := make(net.HardwareAddr, encap.MACLen)
	m.Put(b)
	return b
}

func notABridge(name, kind string) error {
	return fmt.Errorf("bridge %s: a link of this name exists and is no bridge but a %s: choose another name", name, kind)
}

func portTaken(name, master string) error {
	return fmt.Errorf("the port %s already belongs to %s: release it with `ip link set %s nomaster`, or take it out of ports",
		name, master, name)
}
