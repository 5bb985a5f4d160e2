package host

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Step is one thing to undo, as plain data: a daemon leaves what it made to the next,
// by its journal when it is killed, or by a hand-over when another takes its place.
type Step struct {
	Do        Action          `json:"do"`
	Link      string          `json:"link,omitempty"`      // the link that it is about
	Index     int             `json:"index,omitempty"`     // of the link; 0 = not made yet
	Bridge    string          `json:"bridge,omitempty"`    // of releasePort
	MTU       int             `json:"mtu,omitempty"`       // of resetMTU
	Address   netip.Prefix    `json:"address,omitzero"`    // of removeAddress
	Route     Route           `json:"route,omitzero"`      // of removeRoute
	Network   string          `json:"network,omitempty"`   // of removeNeighbors
	Neighbors []Neighbor      `json:"neighbors,omitempty"` // of the same
	Moved     *movedAddresses `json:"loan,omitempty"`      // of restoreAddresses
	// Earlier: what a daemon before had set up of the same, and this one has not.
	Earlier   bool `json:"earlier,omitempty"`
	inherited bool // of a daemon before, and not set up again so far
}

// stepKey is what a step is about. Of two steps with one key the later holds.
type stepKey struct {
	do      Action
	link    string
	address netip.Prefix
	route   Route
	network string
	earlier bool
}

func (s *Step) key() stepKey {
	k := stepKey{do: s.Do, earlier: s.Earlier}
	switch s.Do {
	case removeRoute:
		k.route = s.Route // by whatever link
		return k
	case removeAddress:
		k.address = s.Address
	case removeNeighbors:
		k.network = s.Network
	}
	k.link = s.Link
	return k
}

// Action says what a Step does.
type Action string

// The actions.
const (
	removeBridge     Action = "remove bridge"
	takeDown         Action = "take down"
	resetMTU         Action = "reset MTU"
	removeAddress    Action = "remove address"
	releasePort      Action = "release port"
	restoreAddresses Action = "give back"
	removeRoute      Action = "remove route"
	removeNeighbors  Action = "remove neighbours"
)

// String says what the step does, for errors.
func (s *Step) String() string {
	switch s.Do {
	case removeBridge:
		return "removing the bridge " + s.Link
	case takeDown:
		return "taking " + s.Link + " down again"
	case resetMTU:
		return "setting the MTU of " + s.Link + " back"
	case removeAddress:
		return fmt.Sprintf("removing the address %s from %s", s.Address, s.Link)
	case releasePort:
		return "releasing the port " + s.Link
	case restoreAddresses:
		return "giving the addresses and routes of " + s.Link + " back"
	case removeRoute:
		return "removing the route " + s.Route.String()
	case removeNeighbors:
		return "removing the neighbours of " + s.Network + " from " + s.Link
	}
	return string(s.Do)
}

// undoStep does what s says. A link that is gone, or is another one now, has nothing
// of ours.
func (h *Host) undoStep(s *Step) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: s.Link, Index: s.Index}}
	switch s.Do {
	case removeBridge:
		return h.removeBridge(s.Link, s.Index)
	case takeDown:
		return h.nl.LinkSetDown(link)
	case resetMTU:
		return h.nl.LinkSetMTU(link, s.MTU)
	case removeAddress:
		return h.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(s.Address)})
	case releasePort:
		return h.release(s.Link, s.Bridge)
	case restoreAddresses:
		return h.restoreMoved(s.Link)
	case removeRoute:
		// By whatever link: it may be another by then.
		return h.nl.RouteDel(&netlink.Route{Dst: ipNet(s.Route.Prefix), Gw: s.Route.Via.AsSlice(),
			Protocol: RouteProtocol, Scope: s.Route.scope()})
	case removeNeighbors:
		return h.removeNeighbors(s.Index, s.Neighbors)
	}
	return fmt.Errorf("unknown action %q: %w", s.Do, unix.EINVAL)
}
