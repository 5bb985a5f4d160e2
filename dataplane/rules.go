package dataplane

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"overtap/encap"
)

// The rules of single values. Their errors say what is wrong and what is accepted, in
// words that follow the value.

// Range is what a number may be.
type Range struct{ Min, Max int64 }

// Check is an error for a number outside of the range.
func (r Range) Check(v int64) error {
	if v < r.Min || v > r.Max {
		return fmt.Errorf("is out of range; want %d to %d", r.Min, r.Max)
	}
	return nil
}

var flooded = Range{0, 100_000_000} // frames a second

var ranges = map[string]Range{
	"vni":                   {0, int64(encap.MaxVNI)},
	"port":                  {1, math.MaxUint16},
	"ttl":                   {1, math.MaxUint8},
	"max_entries":           {1, 1 << 24},
	"max_entries_per_peer":  {0, 1 << 24},
	"max_moves":             {0, 1000},
	"storm_broadcast":       flooded,
	"storm_unknown_unicast": flooded,
	"storm_multicast":       flooded,
	"peer_storm_broadcast":  flooded,
	"peer_storm_multicast":  flooded,
}

// RangeOf is the range of a number of a Network or Tunnel, by the configuration's key.
func RangeOf(key string) Range { return ranges[key] }

// MTURange is the range of the MTU of a network or tunnel: at most what the largest
// IP packet of the underlay leaves room for.
func MTURange(kind Kind, underlay netip.Addr) Range {
	overhead := encap.VXLANOverhead4
	switch {
	case kind == KindIPIP:
		overhead = encap.IPIPOverhead
	case underlay.Is6():
		overhead = encap.VXLANOverhead6
	}
	return Range{int64(encap.MinOverlayMTU4), int64(math.MaxUint16 - overhead)}
}

// CheckDevice is an error for a name that the kernel would refuse for a device
// (dev_valid_name in net/core/dev.c), or take for a pattern ("%d",
// __dev_alloc_name).
func CheckDevice(name string) error {
	const longest = 15 // IFNAMSIZ less the closing zero (Linux include/uapi/linux/if.h)
	what := ""
	switch {
	case name == "":
		what = "is empty"
	case len(name) > longest:
		what = "is too long for an interface name"
	case name == "." || name == "..":
		what = "cannot be an interface name"
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%", r) }):
		what = "holds a character that an interface name cannot have"
	default:
		return nil
	}
	return errors.New(what + "; want 1 to 15 printable ASCII characters, none of them a space, '/', ':' or '%'")
}

// CheckAddress is an error for what is not an IP address as it is used here.
func CheckAddress(a netip.Addr) error {
	const want = `want IPv4 or IPv6, such as "192.0.2.1" or "2001:db8::1"`
	switch {
	case !a.IsValid():
		return errors.New("is not an IP address; " + want)
	case a.Zone() != "":
		return errors.New("has a zone; " + want)
	case a.Is4In6():
		return fmt.Errorf("is IPv4 written as IPv6; want %q", a.Unmap())
	}
	return nil
}

// CheckUnicast is an error for an address that no host can have.
func CheckUnicast(a netip.Addr) error {
	if err := CheckAddress(a); err != nil {
		return err
	}
	const want = "want the unicast address of one host"
	switch {
	case a.IsUnspecified():
		return errors.New("is the unspecified address; " + want)
	case a.IsMulticast():
		return errors.New("is a multicast address; " + want)
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("is the broadcast address; " + want)
	}
	return nil
}

// CheckPeer is an error for an address that no peer on the underlay can have. Without
// an underlay address it checks what holds for any.
func CheckPeer(a, underlay netip.Addr) error {
	if err := CheckUnicast(a); err != nil {
		return err
	}
	switch {
	case a.Is6() && a.IsLinkLocalUnicast():
		return errors.New("is a link-local address, which means nothing without its link; want a global or unique local one")
	case a == underlay:
		return errors.New("is our own underlay address; want the address of another host")
	}
	return CheckFamily(a, underlay)
}

// CheckFamily is an error for an address of another family than the underlay's.
func CheckFamily(a, underlay netip.Addr) error {
	if !underlay.IsValid() || a.BitLen() == underlay.BitLen() {
		return nil
	}
	family := map[bool]string{true: "IPv6", false: "IPv4"}
	return fmt.Errorf("is %s, but the underlay address %s is %s; want the same family", family[a.Is6()], underlay, family[underlay.Is6()])
}

var errNoSource = errors.New("cannot be a device's address; want one that is neither zero nor multicast")

// CheckSource is an error for a MAC that no device can have, or that is the TAP's.
func (n *Network) CheckSource(m encap.MAC) error {
	switch {
	case !m.IsSource() || m > encap.BroadcastMAC:
		return errNoSource
	case m == n.MAC:
		return errors.New("is this network's own TAP; want an address behind a peer")
	}
	return nil
}

// CheckEntry is an error for a MAC that cannot have a static entry.
func (n *Network) CheckEntry(m encap.MAC) error {
	switch {
	case m.IsZero() || m > encap.BroadcastMAC:
		return errors.New("is the zero address; want a unicast or multicast one")
	case m == encap.ProbeMAC:
		return errors.New("is for MAC control alone and never crosses the overlay (IEEE 802.3 annex 31B); want another")
	case m.IsBridgeControl() && !n.BridgeControl:
		return errors.New(`is for bridges alone and does not cross the overlay (IEEE 802.1D); want another, or bridge_control = "pass"`)
	case m == n.MAC:
		return errors.New("is this network's own TAP; want an address behind the peer")
	}
	return nil
}
