package encap

import "net/netip"

// ndFixedLen is the length of a neighbour solicitation or advertisement before
// its options.
const ndFixedLen = ICMPHeaderLen + 16

// Options of neighbour discovery (RFC 4861 section 4.6) and the unit their
// length counts in.
const (
	ndSourceLinkAddr = 1
	ndTargetLinkAddr = 2
	ndOptionUnit     = 8
)

// Flags of a neighbour advertisement.
const (
	ndRouter    = 0x80
	ndSolicited = 0x40
	ndOverride  = 0x20
)

// ND is a view over one neighbour solicitation or advertisement (RFC 4861
// sections 4.3 and 4.4).
type ND struct {
	msg  []byte
	link MAC
	has  bool // link was given
}

// ParseND checks the ICMPv6 message that is b. ErrShort means that the message
// or one of its options is cut off; ErrBadHeader another type or code, a
// multicast target, or an option of no length. Of RFC 4861's validity checks
// (sections 7.1.1 and 7.1.2) those that need the IPv6 header are left to the
// caller: a hop limit of 255 and the checksum.
func ParseND(b []byte) (ND, error) {
	if len(b) < ndFixedLen {
		return ND{}, ErrShort
	}
	d := ND{msg: b}
	want := uint8(ndSourceLinkAddr)
	switch ICMPv6(b).Type() {
	case ICMPv6NeighborSolicit:
	case ICMPv6NeighborAdvert:
		want = ndTargetLinkAddr
	default:
		return ND{}, ErrBadHeader
	}
	if ICMPv6(b).Code() != 0 || b[ICMPHeaderLen] == 0xff {
		return ND{}, ErrBadHeader
	}
	for o := b[ndFixedLen:]; len(o) > 0; {
		if len(o) < ndOptionUnit {
			return ND{}, ErrShort
		}
		n := int(o[1]) * ndOptionUnit
		switch {
		case n == 0:
			return ND{}, ErrBadHeader
		case n > len(o):
			return ND{}, ErrShort
		}
		if o[0] == want && n == ndOptionUnit && !d.has {
			d.link, d.has = MACFrom(o[2:]), true
		}
		o = o[n:]
	}
	return d, nil
}

// IsAdvert reports an advertisement, not a solicitation.
func (d ND) IsAdvert() bool { return ICMPv6(d.msg).Type() == ICMPv6NeighborAdvert }

// Target returns the address that is asked for, or spoken of.
func (d ND) Target() netip.Addr { return netip.AddrFrom16([16]byte(d.msg[ICMPHeaderLen:])) }

// LinkAddr returns the link-layer address that goes with the message: the
// sender's in a solicitation, the target's in an advertisement. A solicitation
// for duplicate address detection has none. Of several the first counts.
func (d ND) LinkAddr() (MAC, bool) { return d.link, d.has }

// Router reports an advertisement's R flag: the sender is a router.
func (d ND) Router() bool { return d.flag(ndRouter) }

// Solicited reports an advertisement's S flag: it answers a solicitation.
func (d ND) Solicited() bool { return d.flag(ndSolicited) }

// Override reports an advertisement's O flag: it replaces a cached address.
func (d ND) Override() bool { return d.flag(ndOverride) }

func (d ND) flag(bit uint8) bool { return d.IsAdvert() && d.msg[4]&bit != 0 }
