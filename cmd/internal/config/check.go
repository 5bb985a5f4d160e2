package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// Each check takes what the file holds for one key, reports what is wrong with
// it and returns the typed value; the zero value, or the default, when the key
// is not set or wrong. Whether a required key is set the section checks.

// number checks that a key lies in its range, which must fit T: that of the engine
// where none is given.
func number[T ~int | ~uint8 | ~uint16 | ~uint32](c *checker, l leaf[int64], def T, own ...dataplane.Range) T {
	if !l.ok {
		return def
	}
	if err := append(own, dataplane.RangeOf(l.at.key))[0].Check(l.v); err != nil {
		c.fail(l.at, "%v", err)
		return def
	}
	return T(l.v)
}

// notDuration is in place of what is no duration.
const notDuration time.Duration = -1

// duration reads a time. The engine says what it may be, also for one that cannot be
// read.
func (c *checker) duration(l leaf[string], def time.Duration) time.Duration {
	if !l.ok {
		return def
	}
	d, err := time.ParseDuration(l.v)
	if err != nil {
		return notDuration
	}
	return d
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

// address reads an IP address; it is invalid when what is written is none.
func (c *checker) address(l leaf[string]) netip.Addr { return c.checked(l, dataplane.CheckAddress) }

// checked reads an IP address that passes a check.
func (c *checker) checked(l leaf[string], check func(netip.Addr) error) netip.Addr {
	if !l.ok {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(l.v)
	if err := check(a); err != nil {
		c.fail(l.at, "%v", err)
		return netip.Addr{}
	}
	return a
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

// addresses checks the addresses of a device of this host: of the overlay, each
// with the length of its link's prefix.
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
			c.fail(e.at, "contains every address, also the peers'; want a prefix length of at least 1")
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

// mtu checks a device's MTU; 0 = derived from the underlay.
func (c *checker) mtu(l leaf[int64], addresses []netip.Prefix, r dataplane.Range) encap.OverlayMTU {
	if !l.ok || l.v == 0 {
		return 0
	}
	if err := r.Check(l.v); err != nil {
		c.fail(l.at, "%v, or 0 to derive it from the underlay", err)
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

// mac reads a hardware address; 0 when what is written is none.
func (c *checker) mac(l leaf[string]) encap.MAC {
	if !l.ok {
		return 0
	}
	m, err := encap.ParseMAC(l.v)
	if err != nil {
		c.fail(l.at, "is not a MAC address; want six hexadecimal octets separated by colons, such as %q", "02:42:c0:00:02:01")
	}
	return m
}

// ifname checks the name of a network device.
func (c *checker) ifname(l leaf[string]) string {
	if !l.ok {
		return ""
	}
	if err := dataplane.CheckDevice(l.v); err != nil {
		c.fail(l.at, "%v", err)
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
