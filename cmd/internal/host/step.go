package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Step is one thing to undo, as plain data: so a daemon can leave what it made
// to the next, by its journal when it is killed or by a hand-over when another
// takes its place.
type Step struct {
	Do        Action       `json:"do"`
	Link      string       `json:"link,omitempty"`      // the link that it is about
	Index     int          `json:"index,omitempty"`     // of the link; 0 = not made yet
	Bridge    string       `json:"bridge,omitempty"`    // of releasePort
	MTU       int          `json:"mtu,omitempty"`       // of resetMTU
	Address   netip.Prefix `json:"address,omitzero"`    // of removeAddress
	Route     Route        `json:"route,omitzero"`      // of removeRoute
	Network   string       `json:"network,omitempty"`   // of removeNeighbors
	Neighbors []Neighbor   `json:"neighbors,omitempty"` // of the same
	Loan      *loan        `json:"loan,omitempty"`      // of giveBack
	inherited bool         // of a daemon before, and not wanted again so far
}

// Action says what a Step does.
type Action string

// The actions.
const (
	removeBridge    Action = "remove bridge"
	takeDown        Action = "take down"
	resetMTU        Action = "reset MTU"
	removeAddress   Action = "remove address"
	releasePort     Action = "release port"
	giveBack        Action = "give back"
	removeRoute     Action = "remove route"
	removeNeighbors Action = "remove neighbours"
)

// what names the step; two steps of one name are the same, and the later holds.
func (s *Step) what() string {
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
	case giveBack:
		return "giving the addresses and routes of " + s.Link + " back"
	case removeRoute:
		return "removing the route " + s.Route.String()
	case removeNeighbors:
		return "removing the neighbours of " + s.Network + " from " + s.Link
	}
	return string(s.Do)
}

// undoes does what s says. A link that is another by now, or gone, has nothing of
// ours.
func (h *Host) undoes(s *Step) error {
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
	case giveBack:
		return h.giveBack(s.Link)
	case removeRoute:
		// By whatever link: it may be another by then.
		return h.nl.RouteDel(&netlink.Route{Dst: ipNet(s.Route.Prefix), Gw: s.Route.Via.AsSlice(),
			Protocol: RouteProtocol, Scope: s.Route.scope()})
	case removeNeighbors:
		return h.removeNeighbors(s.Index, s.Neighbors)
	}
	return fmt.Errorf("unknown action %q: %w", s.Do, unix.EINVAL)
}

// remember puts a step on the list of what Undo does, before it is needed: a
// daemon that is killed in between leaves a step that finds nothing to undo. What
// is made a second time, because somebody removed it, is undone once, as it
// stands by then.
func (h *Host) remember(s Step) {
	what := s.what()
	if i, ok := h.done[what]; ok {
		old := h.undo[i]
		if same(old, s) && s.Loan == nil {
			h.undo[i].inherited = false
			return
		}
		if s.Do == removeNeighbors && old.inherited {
			h.shed(old, s)
		}
		h.undo[h.done[what]] = s
	} else {
		h.done[what] = len(h.undo)
		h.undo = append(h.undo, s)
	}
	h.journal.add(h, s)
}

// shed leaves to Settle those inherited neighbours that are wanted no more.
func (h *Host) shed(old, now Step) {
	gone := slices.DeleteFunc(slices.Clone(old.Neighbors), func(n Neighbor) bool { return slices.Contains(now.Neighbors, n) })
	if len(gone) == 0 {
		return
	}
	old.Neighbors, old.Network = gone, old.Network+" of before"
	h.done[old.what()] = len(h.undo)
	h.undo = append(h.undo, old)
	h.journal.add(h, old)
}

// keep says that what the step is about is wanted: of a step that was inherited,
// Settle leaves it alone, and Undo does it.
func (h *Host) keep(s Step) {
	if i, ok := h.done[s.what()]; ok {
		h.undo[i].inherited = false
	}
}

// forget takes a step off the list, since what it is about was not made.
func (h *Host) forget(s Step) {
	what := s.what()
	h.drop(func(x string) bool { return x == what })
}

// drop takes the steps that match off the list.
func (h *Host) drop(match func(what string) bool) {
	before := len(h.undo)
	h.undo = slices.DeleteFunc(h.undo, func(s Step) bool { return match(s.what()) })
	if len(h.undo) == before {
		return
	}
	clear(h.done)
	for i := range h.undo {
		h.done[h.undo[i].what()] = i
	}
	h.journal.rewrite(h)
}
