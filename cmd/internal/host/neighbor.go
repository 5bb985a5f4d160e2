package host

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"overtap/fdb"
)

// Neighbor is an inner address whose MAC is known beforehand.
type Neighbor = fdb.Neighbor

// networkNeighbors makes n's neighbours permanent ones of the link, so that this
// host's own stack does not ask for them. What the kernel found out by itself
// gives way, another program's permanent one does not.
func (h *Host) networkNeighbors(n Network, link netlink.Link, p *pass) error {
	if len(n.Neighbors) == 0 {
		return nil
	}
	index, name := link.Attrs().Index, link.Attrs().Name
	there, err := h.neighborsOf(index)
	if err != nil {
		return fmt.Errorf("listing the neighbours of %s: %w", name, err)
	}
	h.undo.remember(Step{Do: removeNeighbors, Network: n.Name, Link: name, Index: index, Neighbors: n.Neighbors})
	var errs []error
	var set []string
	for _, one := range n.Neighbors {
		x, ok := there[one.Address]
		switch {
		case ok && x.permanent && x.mac == one.MAC:
			continue
		case ok && x.othersPermanent():
			errs = append(errs, takenNeighbor(one, x, name))
			continue
		}
		if err := h.setNeighbor(index, one); err != nil {
			errs = append(errs, fmt.Errorf("adding the neighbour %s lladdr %s to %s: %w", one.Address, one.MAC, name, err))
			continue
		}
		set = append(set, one.Address.String())
	}
	switch {
	case len(set) > 3: // a device that was down has lost them all
		p.did("%d neighbours of %s", len(set), name)
	default:
		for _, a := range set {
			p.did("the neighbour %s of %s", a, name)
		}
	}
	return errors.Join(errs...)
}

// removeNeighbors deletes those neighbours of a link that were made here and are
// as they were made.
func (h *Host) removeNeighbors(index int, neighbors []Neighbor) error {
	there, err := h.neighborsOf(index)
	if err != nil {
		return fmt.Errorf("listing neighbours: %w", err)
	}
	var errs []error
	for _, one := range neighbors {
		x, ok := there[one.Address]
		if !ok || !x.permanent || x.protocol != RouteProtocol || x.mac != one.MAC {
			continue
		}
		if err := h.deleteNeighbor(index, one); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("neighbour %s: %w", one.Address, err))
		}
	}
	return errors.Join(errs...)
}

// checkNeighbors looks whether n's neighbours can be made on the link of the
// index, that of its bridge; 0 when there is none yet.
func (h *Host) checkNeighbors(n Network, index int) error {
	if len(n.Neighbors) == 0 || index == 0 {
		return nil
	}
	there, err := h.neighborsOf(index)
	if err != nil {
		return fmt.Errorf("listing the neighbours of %s: %w", n.Bridge, err)
	}
	var errs []error
	for _, one := range n.Neighbors {
		if x, ok := there[one.Address]; ok && x.othersPermanent() && x.mac != one.MAC {
			errs = append(errs, takenNeighbor(one, x, n.Bridge))
		}
	}
	return errors.Join(errs...)
}

// othersPermanent reports whether another program set the entry, as permanent.
func (x neighborEntry) othersPermanent() bool { return x.permanent && x.protocol != RouteProtocol }

// takenNeighbor names another program's entry that stands where one should.
func takenNeighbor(n Neighbor, x neighborEntry, dev string) error {
	return fmt.Errorf("the neighbour %s lladdr %s would replace one that is there already, lladdr %s nud permanent: "+
		"remove that with `ip neigh del %s dev %s`, or correct the configuration", n.Address, n.MAC, x.mac, n.Address, dev)
}
