package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// address puts a on the link unless it stands there already.
func (h *Host) address(l netlink.Link, a netip.Prefix, p *pass) error {
	name := l.Attrs().Name
	have, err := h.prefixes(l.Attrs().Index)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", name, err)
	}
	remove := Step{Do: removeAddress, Link: name, Index: l.Attrs().Index, Address: a}
	if slices.Contains(have, a) {
		h.undo.keep(remove)
		return nil
	}
	addr := &netlink.Addr{IPNet: ipNet(a)}
	if a.Addr().Is6() {
		// The configuration vouches for the address; without this it could not
		// be bound for a second.
		addr.Flags = unix.IFA_F_NODAD
	}
	h.undo.remember(remove)
	if err := h.nl.AddrAdd(l, addr); err != nil {
		h.undo.forget(remove)
		return fmt.Errorf("adding the address %s to %s: %w", a, name, err)
	}
	p.did("the address %s of %s", a, name)
	return nil
}

// addresses lists the addresses of a link, or of all links for nil.
func (h *Host) addresses(l netlink.Link) ([]netlink.Addr, error) {
	return untorn(func() ([]netlink.Addr, error) { return h.nl.AddrList(l, netlink.FAMILY_ALL) })
}

// prefixes lists the addresses of a link. It asks for those of that link alone
// (NETLINK_GET_STRICT_CHK, kernel 4.20; one before answers with all).
func (h *Host) prefixes(index int) ([]netip.Prefix, error) {
	msgs, err := untorn(func() ([][]byte, error) {
		req := h.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
		msg.Index = uint32(index)
		req.AddData(msg)
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, m := range msgs {
		head := nl.DeserializeIfAddrmsg(m)
		if int(head.Index) != index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, err
		}
		var a netip.Addr
		for _, x := range attrs {
			// On a link with peers IFA_ADDRESS is the other side's (if_addr.h).
			if x.Attr.Type == unix.IFA_LOCAL || x.Attr.Type == unix.IFA_ADDRESS && !a.IsValid() {
				a, _ = netip.AddrFromSlice(x.Value)
			}
		}
		if a.IsValid() {
			all = append(all, netip.PrefixFrom(a, int(head.Prefixlen)))
		}
	}
	return all, nil
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
