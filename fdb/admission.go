package fdb

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"
)

// Policy says from whom, beyond the listed peers, a network takes frames. The
// zero value admits none.
type Policy struct {
	Any      bool           // from every host
	Prefixes []netip.Prefix // and from these
}

// Admission is what Admit made of a sender.
type Admission uint8

// The admissions. With the last three there is no PeerID and the frame is
// dropped, each for its own reason.
const (
	AdmitKnown  Admission = iota // a peer already
	AdmitAdded                   // admitted by the policy: a learned peer from now on
	AdmitDenied                  // neither listed nor admitted, or no unicast address
	AdmitFull                    // admitted by the policy, but the bound of learned peers is reached
	AdmitBusy                    // admitted by the policy, but another writer is at it; the sender's next frame gets in
	admissions
)

var admissionNames = [admissions]string{"known", "added", "denied", "full", "busy"}

// String returns the admission in one word.
func (a Admission) String() string {
	if a >= admissions {
		return "invalid"
	}
	return admissionNames[a]
}

// policy is a compiled Policy; immutable.
type policy struct {
	any      bool
	prefixes bart.Lite
}

func compile(from Policy) (*policy, error) {
	p := &policy{any: from.Any}
	for _, pfx := range from.Prefixes {
		if !pfx.IsValid() {
			return nil, fmt.Errorf("admitted prefix %s: %w", pfx, ErrInvalid)
		}
		if a := pfx.Addr(); a.Is4In6() {
			if pfx.Bits() < 96 {
				return nil, fmt.Errorf("admitted prefix %s: wider than the IPv4-mapped addresses: %w", pfx, ErrInvalid)
			}
			pfx = netip.PrefixFrom(a.Unmap(), pfx.Bits()-96)
		}
		p.prefixes.Insert(pfx.Masked())
	}
	return p, nil
}

// admits reports whether a, which is unmapped, may become a learned peer.
func (p *policy) admits(a netip.Addr) bool {
	return isUnicast(a) && (p.any || p.prefixes.Contains(a))
}

// isUnicast reports whether a may be a VTEP's address.
func isUnicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast()
}
