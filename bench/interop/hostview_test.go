package interop

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
)

// ourProtocol marks the routes that overtap makes.
const ourProtocol = 79

// on runs f with a device of the host.
func on(t testing.TB, h *netlab.Host, dev string, f func(*netlink.Handle, netlink.Link) error) {
	t.Helper()
	nl := must[*netlink.Handle](t)(h.Netlink())
	l := must[netlink.Link](t)(nl.LinkByName(dev))
	check(t, f(nl, l))
}

func noMaster(t testing.TB, h *netlab.Host, dev string) {
	t.Helper()
	on(t, h, dev, func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetNoMaster(l) })
}

func delAddr(t testing.TB, h *netlab.Host, dev string, p netip.Prefix) {
	t.Helper()
	on(t, h, dev, func(nl *netlink.Handle, l netlink.Link) error {
		return nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
	})
}

func delRoute(t testing.TB, h *netlab.Host, p netip.Prefix) {
	t.Helper()
	nl := must[*netlink.Handle](t)(h.Netlink())
	check(t, nl.RouteDel(&netlink.Route{Dst: ipNet(p), Scope: netlink.SCOPE_NOWHERE}))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hostRoutes lists the routes of the host's main table that f wants, a line
// each, sorted.
func hostRoutes(t testing.TB, h *netlab.Host, f func(netlink.Route) bool) string {
	t.Helper()
	nl := must[*netlink.Handle](t)(h.Netlink())
	var lines []string
	for _, r := range must[[]netlink.Route](t)(nl.RouteList(nil, netlink.FAMILY_ALL)) {
		if !f(r) {
			continue
		}
		dev := fmt.Sprint(r.LinkIndex)
		if l, err := nl.LinkByIndex(r.LinkIndex); err == nil {
			dev = l.Attrs().Name
		}
		line := fmt.Sprintf("%v via %v dev %s metric %d proto %d src %v", r.Dst, r.Gw, dev, r.Priority, r.Protocol, r.Src)
		if r.Flags&unix.RTNH_F_ONLINK != 0 {
			line += " onlink"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ourRoutes lists those that overtap made.
func ourRoutes(t testing.TB, h *netlab.Host) string {
	t.Helper()
	return hostRoutes(t, h, func(r netlink.Route) bool { return r.Protocol == ourProtocol })
}

// state lists what a daemon or an attachment changes on a host: links, their
// addresses and routes. What the kernel makes of IPv6 for a link by itself is
// left out, for it comes a moment later.
func state(t testing.TB, h *netlab.Host) string {
	t.Helper()
	nl := must[*netlink.Handle](t)(h.Netlink())
	var lines []string
	for _, l := range must[[]netlink.Link](t)(nl.LinkList()) {
		a := l.Attrs()
		lines = append(lines, fmt.Sprintf("link %s %s flags %#x master %d MTU %d MAC %v alias %q promiscuous %d",
			a.Name, l.Type(), a.RawFlags, a.MasterIndex, a.MTU, a.HardwareAddr, a.Alias, a.Promisc))
		for _, addr := range must[[]netip.Prefix](t)(h.Addrs(a.Name)) {
			lines = append(lines, fmt.Sprintf("address %v on %s", addr, a.Name))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n" + hostRoutes(t, h, func(r netlink.Route) bool {
		return r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast()
	})
}

// unchanged looks whether the hosts, and the names of the machine's namespaces,
// are afterwards what they are now. What it returns is called with what was done
// in between.
func unchanged(t testing.TB, hosts ...*netlab.Host) func(what string) {
	t.Helper()
	look := func() string {
		all := "namespaces"
		for _, n := range must[[]string](t)(hosts[0].Lab().Hosts()) {
			all += " " + n
		}
		for _, h := range hosts {
			all += "\nhost " + h.Name() + "\n" + state(t, h)
		}
		return all
	}
	before := look()
	return func(what string) {
		t.Helper()
		if after := look(); after != before {
			t.Errorf("%s: before:\n%s\nafter:\n%s", what, before, after)
		}
	}
}

// ports lists the ports of a bridge; none when there is no such bridge.
func ports(t testing.TB, h *netlab.Host, bridge string) (names []string) {
	t.Helper()
	nl := must[*netlink.Handle](t)(h.Netlink())
	br, err := nl.LinkByName(bridge)
	if err != nil {
		return nil
	}
	for _, l := range must[[]netlink.Link](t)(nl.LinkList()) {
		if l.Attrs().MasterIndex == br.Attrs().Index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}
