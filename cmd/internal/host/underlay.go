package host

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"overtap/encap"
)

// UnderlayMTU returns the MTU of the link that the underlay runs over: the
// device when it is named, else the link that carries the address.
func (h *Host) UnderlayMTU(addr netip.Addr, device string) (encap.UnderlayMTU, error) {
	l, err := h.underlayLink(addr, device)
	if err != nil {
		return 0, err
	}
	return encap.UnderlayMTU(l.Attrs().MTU), nil
}

// checkUnderlay looks for the address and the device.
func (h *Host) checkUnderlay(addr netip.Addr, device string) error {
	if _, err := h.underlayLink(addr, device); err != nil || device == "" {
		return err
	}
	// With a device, the address may stand on another link (a loopback
	// address that routing makes known), but it must be here.
	_, err := h.underlayLink(addr, "")
	return err
}

func (h *Host) underlayLink(addr netip.Addr, device string) (netlink.Link, error) {
	if device != "" {
		l, err := h.nl.LinkByName(device)
		if gone(err) {
			return nil, fmt.Errorf("the underlay device %s does not exist: name one of %s as underlay.device",
				device, h.linkNames())
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the underlay device %s: %w", device, err)
		}
		return l, nil
	}
	all, err := h.addresses(nil)
	if err != nil {
		return nil, fmt.Errorf("listing this host's addresses: %w", err)
	}
	var others []string
	for _, a := range all {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		if p.Addr() == addr.WithZone("") {
			l, err := h.nl.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("looking for the link of %s: %w", addr, err)
			}
			return l, nil
		}
		if p.Addr().Is4() == addr.Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			others = append(others, fmt.Sprintf("%s (%s)", p.Addr(), h.linkName(a.LinkIndex)))
		}
	}
	there := "it has none of that family"
	if len(others) > 0 {
		there = "it has " + strings.Join(others, ", ")
	}
	return nil, fmt.Errorf("the underlay address %s is not on this host (%s): set underlay.address to one of its own", addr, there)
}

// linkNames lists the links for an error.
func (h *Host) linkNames() string {
	links, err := h.links()
	if err != nil || len(links) == 0 {
		return "this host's devices"
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	return strings.Join(names, ", ")
}
