package fdb

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"
)

// Route binds an inner prefix to the peer that its packets are sent to.
type Route struct {
	Prefix netip.Prefix // without host bits
	To     Target
}

// Routes are the inner prefixes of one IP-in-IP tunnel. The longest prefix that
// holds an address wins. Lookup runs on every worker at once; it takes no lock
// and does not allocate. Set is control's.
type Routes struct {
	table atomic.Pointer[bart.Table[Target]] // immutable once published
}

// NewRoutes returns an empty set.
func NewRoutes() *Routes {
	r := new(Routes)
	r.table.Store(new(bart.Table[Target]))
	return r
}

// Lookup returns the peer behind which a lives.
func (r *Routes) Lookup(a netip.Addr) (Target, bool) { return r.table.Load().Lookup(a) }

// Set makes want the routes, all at once: a reader sees those before or these.
// On an error (ErrInvalid: an invalid prefix, one with host bits, or one that
// stands twice) nothing has changed.
func (r *Routes) Set(want []Route) error {
	next := new(bart.Table[Target])
	for _, w := range want {
		if !w.Prefix.IsValid() || w.Prefix != w.Prefix.Masked() || w.Prefix.Addr().Is4In6() {
			return fmt.Errorf("route to %s: want a prefix without host bits: %w", w.Prefix, ErrInvalid)
		}
		if _, twice := next.Get(w.Prefix); twice {
			return fmt.Errorf("route to %s stands twice: %w", w.Prefix, ErrInvalid)
		}
		next.Insert(w.Prefix, w.To)
	}
	r.table.Store(next)
	return nil
}

// Len returns the number of routes.
func (r *Routes) Len() int { return r.table.Load().Size() }
