package dataplane

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"overtap/dataplane/netio"
)

// Ingress says which datagrams cannot be a peer's because of the way they came:
// the outer source address proves nothing about it. A container whose host
// forwards can send to UDP port 4789, or protocol 4, with a peer's address.
type Ingress struct {
	// Devices are the interface indexes of this host's overlay networks: their
	// TAPs, TUNs and bridges, and what stands on these. What is received by one
	// of them is dropped.
	Devices []int
	// Routes are the prefixes that this host routes into an overlay network, and
	// those within them that it routes elsewhere. What comes from an address
	// whose longest prefix leads into an overlay is dropped.
	Routes []IngressRoute
}

// IngressRoute is one route of this host.
type IngressRoute struct {
	Prefix  netip.Prefix // without host bits
	Overlay bool         // it leads into one of this host's overlay networks
}

// ingress is an Ingress as the rx path reads it; immutable.
type ingress struct {
	devices map[int32]struct{}
	routes  *bart.Table[bool] // whether it leads into an overlay; nil = none does
}

// compile returns what the rx path needs of i, nil when it refuses nothing.
func (i *Ingress) compile() (*ingress, error) {
	c := &ingress{devices: make(map[int32]struct{}, len(i.Devices))}
	for _, d := range i.Devices {
		if d <= 0 || int(int32(d)) != d {
			return nil, fmt.Errorf("interface index %d: want a positive one", d)
		}
		c.devices[int32(d)] = struct{}{}
	}
	if slices.ContainsFunc(i.Routes, func(r IngressRoute) bool { return r.Overlay }) {
		c.routes = new(bart.Table[bool])
		for _, r := range i.Routes {
			if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() {
				return nil, fmt.Errorf("route to %s: want a prefix without host bits", r.Prefix)
			}
			c.routes.Insert(r.Prefix, r.Overlay)
		}
	}
	if len(c.devices) == 0 && c.routes == nil {
		return nil, nil
	}
	return c, nil
}

// device reports whether the interface is one of an overlay. Index 0 is not known,
// and none of them.
func (i *ingress) device(index int32) bool {
	_, ok := i.devices[index]
	return ok
}

// leads reports whether this host routes the address into an overlay.
func (i *ingress) leads(a netip.Addr) bool {
	if i == nil || i.routes == nil {
		return false
	}
	overlay, _ := i.routes.Lookup(a)
	return overlay
}

// arrival remembers what was found of the last datagram, since most of a batch
// come by one device, and many from one peer. It belongs to one rx thread.
type arrival struct {
	rules *ingress // of the current batch; nil = nothing is refused

	index    int32
	byDevice bool
	from     netip.Addr
	byRoute  bool
}

// begin starts a batch.
func (a *arrival) begin(rules *ingress) { *a = arrival{rules: rules} }

// fromOverlay reports whether the datagram came out of an overlay network of this
// host, so that it is no peer's.
func (a *arrival) fromOverlay(d *netio.Datagram) bool {
	if a.rules == nil {
		return false
	}
	if d.Device != a.index {
		a.index, a.byDevice = d.Device, a.rules.device(d.Device)
	}
	if a.byDevice || a.rules.routes == nil {
		return a.byDevice
	}
	if d.From != a.from {
		a.from, a.byRoute = d.From, a.rules.leads(d.From)
	}
	return a.byRoute
}

// SetIngress has what matches i dropped as DropFromOverlay from now on. It replaces
// what was set before; a new engine refuses nothing. After an error nothing has
// changed.
func (e *Engine) SetIngress(i Ingress) error {
	c, err := i.compile()
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.ingress = c
	next := *e.snapshot.Load()
	next.ingress = c
	e.snapshot.Store(&next)
	return nil
}
