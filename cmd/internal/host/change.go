package host

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"overtap/encap"
)

// Fixed is an error when the host cannot turn from was to n while the network's
// TAP stays: its bridge or the bridge's ports would change.
func Fixed(was, n Network) error {
	for _, key := range []struct {
		name string
		same bool
	}{
		{"bridge", was.Bridge == n.Bridge},
		{"ports", slices.Equal(was.Ports, n.Ports)},
		{"ports_take_addresses", was.PortsTake == n.PortsTake},
	} {
		if !key.same {
			return fmt.Errorf("%s cannot change while the network runs: remove the network by one reload and add it by the next, or start a new daemon beside it", key.name)
		}
	}
	return nil
}

// Add is Setup for a network that is new; after an error nothing of it is left.
func (h *Host) Add(n Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := maps.Clone(h.done)
	p := newPass(n, placed{})
	if err := h.setup(p); err != nil {
		err = errors.Join(err, h.undoOnly(func(what string) bool { _, old := before[what]; return !old }))
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	h.networks[n.Name] = p.now
	return nil
}

// Change turns a network that was set up into n, of which Fixed has nothing to
// say: what n has no more is removed, what is new is made.
func (h *Host) Change(n Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, ok := h.networks[n.Name]
	if !ok {
		return fmt.Errorf("network %s was never set up", n.Name)
	}
	if err := h.withdraw(was, n); err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	p := newPass(n, was)
	err := h.setup(p)
	h.networks[n.Name] = p.now
	h.marks.fault(n.Name, err)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	return nil
}

// Remove undoes what was made for a network whose TAP is gone. A bridge that
// another network uses stays, with its ports.
func (h *Host) Remove(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, ok := h.networks[name]
	if !ok {
		return nil
	}
	delete(h.networks, name)
	h.marks.fault(name, nil)
	defer func() {
		mine := func(s *Step) bool { return s.Do == removeNeighbors && s.Network == name }
		h.drop(func(what string) bool { return mine(&h.undo[h.done[what]]) })
	}()
	err := h.withdraw(was, Network{Name: name, Device: was.Device, Bridge: was.Bridge, Ports: was.Ports})
	for _, other := range h.networks {
		if other.Bridge == was.Bridge {
			was.Bridge = ""
		}
	}
	if was.Bridge != "" {
		keys := []string{
			"removing the bridge " + was.Bridge, "taking " + was.Bridge + " down again",
			"setting the MTU of " + was.Bridge + " back",
		}
		for _, port := range was.Ports {
			keys = append(keys, "releasing the port "+port, "taking "+port+" down again",
				"giving the addresses and routes of "+port+" back")
			defer delete(h.loans, port)
		}
		err = errors.Join(err, h.undoOnly(func(what string) bool { return slices.Contains(keys, what) }))
		delete(h.made, was.Bridge)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", name, err)
	}
	return nil
}

// ChangeRoutes makes the plain routes be these.
func (h *Host) ChangeRoutes(routes []Route) error {
	h.mu.Lock()
	var gone []string
	for _, r := range h.routes {
		if !slices.Contains(routes, r) {
			gone = append(gone, "removing the route "+r.String())
		}
	}
	err := h.undoOnly(func(what string) bool { return slices.Contains(gone, what) })
	h.mu.Unlock()
	return errors.Join(err, h.SetupRoutes(routes))
}

// withdraw removes the addresses, neighbours and routes of was that n has not.
func (h *Host) withdraw(was placed, n Network) error {
	carrier, onTAP := was.Bridge, was.Bridge == ""
	if onTAP {
		carrier = was.Device
	}
	var keys []string
	var errs []error
	for _, a := range was.Addresses {
		switch {
		case slices.Contains(n.Addresses, a) || h.claimed(carrier, a, n.Name):
		default:
			keys = append(keys, fmt.Sprintf("removing the address %s from %s", a, carrier))
		}
	}
	for _, r := range was.Routes {
		if !slices.Contains(n.Routes, r) {
			keys = append(keys, "removing the route "+r.String())
		}
	}
	errs = append(errs, h.undoOnly(func(what string) bool { return slices.Contains(keys, what) }))

	now := make(map[netip.Addr]encap.MAC, len(n.Neighbors))
	for _, one := range n.Neighbors {
		now[one.Address] = one.MAC
	}
	var away []Neighbor
	for _, a := range slices.SortedFunc(maps.Keys(was.known), netip.Addr.Compare) {
		if now[a] != was.known[a] {
			away = append(away, Neighbor{Address: a, MAC: was.known[a]})
		}
	}
	index := was.bridge
	if onTAP {
		index = was.tap
	}
	if len(away) > 0 {
		if err := h.removeNeighbors(index, away); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("removing neighbours from %s: %w", carrier, err))
		}
	}
	return errors.Join(errs...)
}

// claimed reports whether another network has the address on the same link.
func (h *Host) claimed(carrier string, a netip.Prefix, except string) bool {
	for name, other := range h.networks {
		if name != except && other.Bridge == carrier && slices.Contains(other.Addresses, a) {
			return true
		}
	}
	return false
}

// undoOnly undoes the steps that match, the last first, and forgets them.
func (h *Host) undoOnly(match func(what string) bool) error {
	var errs []error
	for _, s := range slices.Backward(h.undo) {
		if !match(s.what()) {
			continue
		}
		if err := h.undoes(&s); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("%s: %w", s.what(), err))
		}
	}
	h.drop(match)
	return errors.Join(errs...)
}
