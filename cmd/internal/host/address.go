package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// address puts a on the link unless it stands there already.
func (h *Host) address(l netlink.Link, a netip.Prefix, p *pass) error {
	name := l.Attrs().Name
	have, err := h.addresses(l)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", name, err)
	}
	remove := Step{Do: removeAddress, Link: name, Index: l.Attrs().Index, Address: a}
	for _, x := range have {
		if have, ok := prefixOf(x.IPNet); ok && have == a {
			h.keep(remove)
			return nil
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(a)}
	if a.Addr().Is6() {
		// The configuration vouches for the address; without this it could not
		// be bound for a second.
		addr.Flags = unix.IFA_F_NODAD
	}
	h.remember(remove)
	if err := h.nl.AddrAdd(l, addr); err != nil {
		h.forget(remove)
		return fmt.Errorf("adding the address %s to %s: %w", a, name, err)
	}
	p.did("the address %s of %s", a, name)
	return nil
}

// addresses lists the addresses of a link, or of all links for nil.
func (h *Host) addresses(l netlink.Link) ([]netlink.Addr, error) {
	return untorn(func() ([]netlink.Addr, error) { return h.nl.AddrList(l, netlink.FAMILY_ALL) })
}

// links lists all links.
func (h *Host) links() ([]netlink.Link, error) { return untorn(h.nl.LinkList) }

// untorn repeats a dump that changes tore (NLM_F_DUMP_INTR), a few times.
func untorn[T any](dump func() (T, error)) (T, error) {
	for range 4 {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	return dump()
}

// prefixOf returns an address with its prefix length.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), true
}
