package config

import (
	"net/netip"
	"slices"
	"strings"

	"overtap/encap"
)

// Each check takes what the file holds for one key, reports what is wrong with
// it and returns the typed value; the zero value, or the default, when the key
// is not set or wrong. Whether a required key is set is the section's matter.

// number checks that a key lies in lo to hi. These must fit T.
func number[T ~int | ~uint8 | ~uint16 | ~uint32](c *checker, l leaf[int64], def T, lo, hi int64) T {
	if !l.ok {
		return def
	}
	if l.v < lo || l.v > hi {
		c.fail(l.at, "is out of range; want %d to %d", lo, hi)
		return def
	}
	return T(l.v)
}

// oneOf checks that a key is one of the given words.
func (c *checker) oneOf(l leaf[string], def string, words ...string) string {
	if !l.ok {
		return def
	}
	if !slices.Contains(words, l.v) {
		c.fail(l.at, `is not known; want "%s"`, strings.Join(words, `" or "`))
	}
	return l.v
}

// address checks an IP address that may stand for a host.
func (c *checker) address(l leaf[string]) netip.Addr {
	if !l.ok {
		return netip.Addr{}
	}
	const want = `want IPv4 or IPv6, such as "192.0.2.1" or "2001:db8::1"`
	a, err := netip.ParseAddr(l.v)
	switch {
	case err != nil:
		c.fail(l.at, "is not an IP address; %s", want)
	case a.Zone() != "":
		c.fail(l.at, "has a zone; %s", want)
	case a.Is4In6():
		c.fail(l.at, "is IPv4 written as IPv6; want %q", a.Unmap())
	default:
		return a
	}
	return netip.Addr{}
}

// unicast checks an IP address that one host can have.
func (c *checker) unicast(l leaf[string]) netip.Addr {
	a := c.address(l)
	if !a.IsValid() {
		return a
	}
	const want = "want the unicast address of one host"
	switch {
	case a.IsUnspecified():
		c.fail(l.at, "is the unspecified address; %s", want)
	case a.IsMulticast():
		c.fail(l.at, "is a multicast address; %s", want)
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		c.fail(l.at, "is the broadcast address; %s", want)
	default:
		return a
	}
	return netip.Addr{}
}

// vtep checks an address on the underlay: ours, or with own given, a peer's.
func (c *checker) vtep(l leaf[string], own netip.Addr) netip.Addr {
	a := c.unicast(l)
	switch {
	case !a.IsValid():
		return a
	case a.Is6() && a.IsLinkLocalUnicast():
		c.fail(l.at, "is a link-local address, which means nothing without its link; want a global or unique local one")
	case own.IsValid() && a.BitLen() != own.BitLen():
		c.fail(l.at, "is %s, but the underlay address %s is %s; want the same family", family(a), own, family(own))
	case a == own:
		c.fail(l.at, "is our own underlay address; want the address of another host")
	default:
		return a
	}
	return netip.Addr{}
}

// prefix checks a block of addresses.
func (c *checker) prefix(l leaf[string]) netip.Prefix {
	p := c.cidr(l, "192.0.2.0/24")
	if p.IsValid() && p != p.Masked() {
		c.fail(l.at, "has host bits set; want %q", p.Masked())
		return netip.Prefix{}
	}
	return p
}

// cidr checks an address with a prefix length; such is an example of one.
func (c *checker) cidr(l leaf[string], such string) netip.Prefix {
	if !l.ok {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(l.v)
	switch {
	case err != nil:
		c.fail(l.at, "is not an address with a prefix length; want one such as %q", such)
	case p.Addr().Is4In6():
		c.fail(l.at, "is IPv4 written as IPv6; want one such as %q", such)
	default:
		return p
	}
	return netip.Prefix{}
}

// addresses checks what a device of this host is to be given: addresses of the
// overlay, each with the length of its link's prefix.
func (c *checker) addresses(l list, own netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	seen := make(map[netip.Addr]*node)
	for _, e := range l.v {
		p := c.cidr(e, "198.51.100.1/24")
		a := p.Addr()
		switch {
		case !p.IsValid():
		case a.IsUnspecified() || a.IsMulticast():
			c.fail(e.at, "cannot be a host's address; want one such as %q", "198.51.100.1/24")
		case p.Bits() == 0:
			c.fail(e.at, "takes in every address, the peers' too; want a prefix length of at least 1")
		case a == own:
			c.fail(e.at, "is the underlay address; want one of the overlay")
		default:
			if unique(c, seen, a, e.at) {
				out = append(out, p)
			}
		}
	}
	return out
}

// mtu checks a device's MTU; 0 is to be derived from the underlay. Most is what
// the largest outer packet leaves room for.
func (c *checker) mtu(l leaf[int64], addresses []netip.Prefix, most int64) encap.OverlayMTU {
	if !l.ok || l.v == 0 {
		return 0
	}
	if l.v < int64(encap.MinOverlayMTU4) || l.v > most {
		c.fail(l.at, "is out of range; want %d to %d, or 0 to derive it from the underlay", encap.MinOverlayMTU4, most)
		return 0
	}
	m := encap.OverlayMTU(l.v)
	if m < encap.MinOverlayMTU6 && has6(addresses) {
		c.fail(l.at, "is too small for the IPv6 address in addresses; want at least %d (RFC 8200 section 5)", encap.MinOverlayMTU6)
		return 0
	}
	return m
}

func has6(ps []netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// mac checks a hardware address.
func (c *checker) mac(l leaf[string]) (encap.MAC, bool) {
	if !l.ok {
		return 0, false
	}
	m, err := encap.ParseMAC(l.v)
	if err != nil {
		c.fail(l.at, "is not a MAC address; want six hexadecimal octets separated by colons, such as %q", "02:42:c0:00:02:01")
	}
	return m, err == nil
}

// sourceMAC checks the hardware address of one device.
func (c *checker) sourceMAC(l leaf[string]) (encap.MAC, bool) {
	m, ok := c.mac(l)
	if ok && !m.IsSource() {
		c.fail(l.at, "cannot be a device's address; want one that is neither zero nor multicast")
		return 0, false
	}
	return m, ok
}

// maxIfnameLen is IFNAMSIZ less the closing zero (Linux include/uapi/linux/if.h).
const maxIfnameLen = 15

// ifnameProblem says why the kernel would refuse s as a device's name
// (dev_valid_name in net/core/dev.c), or take it for a pattern ("%d",
// __dev_alloc_name); "" when it would not.
func ifnameProblem(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxIfnameLen:
		return "is too long for an interface name"
	case s == "." || s == "..":
		return "cannot be an interface name"
	case strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%'
	}):
		return "holds a character that an interface name cannot have"
	}
	return ""
}

const ifnameRule = "1 to 15 printable ASCII characters, none of them a space, '/', ':' or '%'"

// ifname checks the name of a network device.
func (c *checker) ifname(l leaf[string]) string {
	if !l.ok {
		return ""
	}
	if p := ifnameProblem(l.v); p != "" {
		c.fail(l.at, "%s; want %s", p, ifnameRule)
		return ""
	}
	return l.v
}

// ifnameOrNone is ifname for a key where "" means no device.
func (c *checker) ifnameOrNone(l leaf[string]) string {
	if l.v == "" {
		return ""
	}
	return c.ifname(l)
}

// unique reports at n when key was seen before, else it notes it.
func unique[K comparable](c *checker, seen map[K]*node, key K, n *node) bool {
	if first, ok := seen[key]; ok {
		c.fail(n, "is a duplicate of %s on line %d; want each only once", first.path(), first.line)
		return false
	}
	seen[key] = n
	return true
}

func family(a netip.Addr) string {
	if a.Is6() {
		return "IPv6"
	}
	return "IPv4"
}
