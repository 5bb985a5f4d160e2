package host

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// bridge returns n's bridge, made when missing, and up. One that was found and
// is gone is left to who made it.
func (h *Host) bridge(n Network, p *pass) (netlink.Link, error) {
	l, err := h.nl.LinkByName(n.Bridge)
	switch {
	case err == nil:
		if l.Type() != "bridge" {
			return nil, notABridge(n.Bridge, l.Type())
		}
	case gone(err) && !p.first() && !h.made[n.Bridge]:
		return nil, fmt.Errorf("the bridge %s is gone, which was not made here: make it again", n.Bridge)
	case gone(err):
		if l, err = h.makeBridge(n); err != nil {
			return nil, err
		}
		p.did("the bridge %s", n.Bridge)
	default:
		return nil, fmt.Errorf("looking for the bridge %s: %w", n.Bridge, err)
	}

	if p.first() {
		if err := h.adopt(bridgeMark, l); err != nil {
			return nil, err
		}
	}
	index := l.Attrs().Index
	if h.ours(bridgeMark, l) {
		h.made[n.Bridge] = true
		h.undo.remember(Step{Do: removeBridge, Link: n.Bridge, Index: index})
		if mtu := h.bridgeMTU(n); l.Attrs().MTU != mtu {
			if err := h.nl.LinkSetMTU(l, mtu); err != nil {
				return nil, fmt.Errorf("setting the MTU of %s to %d: %w", n.Bridge, mtu, err)
			}
			p.did("the MTU of %s", n.Bridge)
		}
		if p.was.bridge == index && !h.takesPorts(n) {
			if err := h.keepMAC(l, BridgeMAC(n.Bridge, h.underlay), p); err != nil {
				return nil, err
			}
		}
		put := p.put
		if err := h.shutBridge(l, n, p); err != nil {
			return nil, err
		}
		if p.was.bridge != index {
			p.put = put // a bridge just made had nothing to put back
		}
	}
	if p.was.bridge == index {
		return l, nil // it was taken down from outside meanwhile, on purpose
	}
	down := Step{Do: takeDown, Link: n.Bridge, Index: index}
	if h.undo.keep(down); !h.ours(bridgeMark, l) && l.Attrs().RawFlags&unix.IFF_UP == 0 {
		h.undo.remember(down)
	}
	if err := h.up(l); err != nil {
		return nil, err
	}
	p.now.bridge = index
	return l, nil
}

// bridgeMTU returns the least MTU of the networks that share n's bridge; of one
// that takes the addresses of its ports, the least of the ports', since the
// underlay may be among them.
func (h *Host) bridgeMTU(n Network) int {
	mtu, ports := int(n.MTU), h.takenMTU(n)
	for _, o := range h.networks {
		if o.Bridge == n.Bridge && o.Name != n.Name {
			mtu = min(mtu, int(o.MTU))
			ports = max(ports, h.takenMTU(o.Network))
		}
	}
	if ports > 0 {
		return ports
	}
	return mtu
}

// takenMTU returns the least MTU of n's ports when the bridge takes their
// addresses, else 0.
func (h *Host) takenMTU(n Network) int {
	least := 0
	if !n.PortsTake {
		return 0
	}
	for _, name := range n.Ports {
		if l, err := h.nl.LinkByName(name); err == nil && (least == 0 || l.Attrs().MTU < least) {
			least = l.Attrs().MTU
		}
	}
	return least
}

// makeBridge creates and marks n's bridge.
func (h *Host) makeBridge(n Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = n.Bridge
	// An MTU that is changed holds; one given at creation falls and rises with
	// the least of the ports' (br_change_mtu, br_mtu_auto_adjust).
	mtu := h.bridgeMTU(n)
	attrs.MTU = mtu + 1
	// Without one of its own a bridge takes the lowest MAC of its ports and
	// changes it as they come and go, to the confusion of every ARP cache.
	attrs.HardwareAddr = hardwareAddr(BridgeMAC(n.Bridge, h.underlay))
	if n.PortsTake {
		// The addresses keep the MAC that the LAN knows them by.
		if l, err := h.nl.LinkByName(n.Ports[0]); err == nil && len(l.Attrs().HardwareAddr) == encap.MACLen {
			attrs.HardwareAddr = l.Attrs().HardwareAddr
		}
	}
	intent := Step{Do: removeBridge, Link: n.Bridge}
	h.undo.remember(intent)
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		h.undo.forget(intent)
		return nil, fmt.Errorf("creating the bridge %s: %w", n.Bridge, err)
	}
	l, err := h.nl.LinkByName(n.Bridge)
	if err != nil {
		return nil, fmt.Errorf("looking for the bridge %s just created: %w", n.Bridge, err)
	}
	if err := h.nl.LinkSetMTU(l, mtu); err != nil {
		return nil, fmt.Errorf("setting the MTU of %s to %d: %w", n.Bridge, mtu, err)
	}
	l.Attrs().MTU = mtu
	if err := h.mark(bridgeMark, l); err != nil {
		return nil, err
	}
	if err := h.boundBridge(l, n.MaxMACs); err != nil {
		return nil, fmt.Errorf("bounding what %s learns to %d: %w", n.Bridge, n.MaxMACs, err)
	}
	h.log.Debug("bridge created", "bridge", n.Bridge)
	return l, nil
}

// boundBridge bounds what the bridge learns (IFLA_BR_FDB_MAX_LEARNED, kernel 6.7;
// one before leaves the attribute unread). It learns too from what comes by the
// TAP, and would without end: a host that sends from ever new MACs must not fill
// the kernel's memory either.
func (h *Host) boundBridge(l netlink.Link, macs uint32) error {
	return h.setBridge(l, unix.IFLA_BR_FDB_MAX_LEARNED, nl.Uint32Attr(macs))
}

// setBridge sets an attribute of a bridge (IFLA_BR_*).
func (h *Host) setBridge(l netlink.Link, attr int, value []byte) error {
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{
			Len:   unix.SizeofNlMsghdr,
			Type:  unix.RTM_NEWLINK,
			Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK,
		},
		Sockets: h.raw,
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(attr, value)
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// removeBridge deletes the bridge unless it is no longer the one that was made.
func (h *Host) removeBridge(name string, index int) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if index != 0 && l.Attrs().Index != index || !h.ours(bridgeMark, l) {
		return nil
	}
	return h.nl.LinkDel(l)
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
