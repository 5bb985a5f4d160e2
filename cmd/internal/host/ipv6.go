package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A link that is made here stands between this host and containers and peers, who
// must not configure the host by it: a router advertisement would be a default
// route and an address (RFC 4861 section 6.3.4, RFC 4862 section 5.5.3), a redirect
// another route. What the host has there is what the configuration says, so there
// is no link-local address either where it asks for no IPv6: a container would
// reach by it every service that listens on [::].

// unconfigured are the keys of net.ipv6.conf by which others configure a link, all 0.
var unconfigured = []string{"accept_ra", "autoconf", "accept_redirects"}

// NoAutoconf keeps others from configuring the link of that name, which should be
// down. It names the keys that were another, and does nothing on a kernel without
// IPv6 or on a link without (an MTU below 1280).
func NoAutoconf(dev string) (changed []string, err error) {
	for _, key := range unconfigured {
		switch did, err := setIPv6(dev, key, "0"); {
		case err != nil:
			return changed, err
		case did:
			changed = append(changed, key)
		}
	}
	return changed, nil
}

// ipv6Key is the file of a key of the link, in the network namespace of the thread.
func ipv6Key(dev, key string) string { return filepath.Join("/proc/sys/net/ipv6/conf", dev, key) }

// readIPv6 reads a key of the link; "" where it has no IPv6.
func readIPv6(dev, key string) (string, error) {
	b, err := os.ReadFile(ipv6Key(dev, key))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

// setIPv6 sets a key of the link that is another, and reports whether it was.
func setIPv6(dev, key, value string) (bool, error) {
	now, err := readIPv6(dev, key)
	if err != nil || now == "" || now == value {
		return false, err
	}
	err = os.WriteFile(ipv6Key(dev, key), []byte(value), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// shutIPv6 makes a link of ours one that only the configuration configures. With
// local it has a link-local address, as IPv6 needs it.
func (h *Host) shutIPv6(l netlink.Link, local bool, p *pass) error {
	dev := l.Attrs().Name
	changed, err := NoAutoconf(dev)
	for _, key := range changed {
		p.did("%s of %s", key, dev)
	}
	if err != nil {
		// In a container, say, whose /proc/sys is read-only.
		h.limit.Warn("ipv6 "+dev, h.log, "the link takes router advertisements, by which containers and peers can give this host routes and addresses, and it cannot be set otherwise from here: run `sysctl -w net/ipv6/conf/"+dev+"/accept_ra=0`",
			"device", dev, "err", err)
	}
	mode, err := readIPv6(dev, "addr_gen_mode")
	if err != nil {
		return fmt.Errorf("reading how %s gets IPv6 addresses: %w", dev, err)
	}
	const none, eui64 = "1", "0" // IN6_ADDR_GEN_MODE_NONE, IN6_ADDR_GEN_MODE_EUI64
	switch {
	case mode == "" || local == (mode != none):
		return nil
	case local:
		// Written here the kernel makes the address at once, by netlink when the
		// link comes up the next time (addrconf_sysctl_addr_gen_mode).
		if _, err := setIPv6(dev, "addr_gen_mode", eui64); err != nil {
			return fmt.Errorf("giving %s a link-local address: %w", dev, err)
		}
	default:
		if err := h.noIPv6Addresses(l); err != nil {
			return err
		}
		if err := h.dropLinkLocal(l); err != nil {
			return err
		}
	}
	p.did("addr_gen_mode of %s", dev)
	return nil
}

// noIPv6Addresses keeps the kernel from giving the link addresses by itself.
func (h *Host) noIPv6Addresses(l netlink.Link) error {
	err := h.nl.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE)
	// inet6_validate_link_af: this kernel, or a device of this MTU, has no IPv6.
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turning IPv6 addresses off on %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// dropLinkLocal removes the link-local addresses that a link got before.
func (h *Host) dropLinkLocal(l netlink.Link) error {
	have, err := h.prefixes(l.Attrs().Index)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range have {
		if !a.Addr().Is6() || !a.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := h.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(a)}); err != nil && !gone(err) {
			return fmt.Errorf("removing the address %s from %s: %w", a, l.Attrs().Name, err)
		}
	}
	return nil
}

// shutBridge is shutIPv6 for a bridge that was made here. One that takes the
// addresses of its ports is this host's link to a LAN: there the port's settings
// hold, which the host had before.
func (h *Host) shutBridge(bridge netlink.Link, n Network, p *pass) error {
	local := anyIPv6(n.Addresses)
	port := ""
	take := func(n Network) {
		if n.PortsTake && port == "" {
			port = n.Ports[0]
		}
	}
	take(n)
	for _, o := range h.networks {
		if o.Bridge == n.Bridge && o.Name != n.Name {
			local = local || anyIPv6(o.Addresses)
			take(o.Network)
		}
	}
	if port == "" {
		return h.shutIPv6(bridge, local, p)
	}
	if !p.first() {
		return nil
	}
	for _, key := range unconfigured {
		value, err := readIPv6(port, key)
		if err == nil && value != "" {
			_, err = setIPv6(n.Bridge, key, value)
		}
		if err != nil {
			h.log.Warn("the bridge does not have the port's setting for IPv6", "bridge", n.Bridge, "port", port, "key", key, "err", err)
		}
	}
	return nil
}

func anyIPv6(addresses []netip.Prefix) bool {
	for _, a := range addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

// takesAdvertisements reports whether a router advertisement that comes by the link
// configures this host (ipv6_accept_ra).
func takesAdvertisements(dev string) bool {
	accept, err := readIPv6(dev, "accept_ra")
	if err != nil || accept == "" || accept == "0" {
		return false
	}
	if off, _ := readIPv6(dev, "disable_ipv6"); off == "1" {
		return false
	}
	forwarding, _ := readIPv6(dev, "forwarding")
	return forwarding == "0" || accept == "2"
}

// Advertisements says, in a sentence, that n's bridge, or its device where there is
// none, lets others configure this host; "" when it does not.
func Advertisements(n Network) string {
	dev := n.Bridge
	if dev == "" {
		dev = n.Device
	}
	if !takesAdvertisements(dev) {
		return ""
	}
	return fmt.Sprintf("network %s: %s takes router advertisements: a container or a peer can give this host a default route and addresses by it; "+
		"where no router on it is to configure this host, run `sysctl -w net/ipv6/conf/%s/accept_ra=0`", n.Name, dev, dev)
}
