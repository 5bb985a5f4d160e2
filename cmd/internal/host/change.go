package host

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"overtap/encap"
)

// FixedError names a key that cannot change while its network runs.
type FixedError string

// Error implements error.
func (e FixedError) Error() string {
	return string(e) + " cannot change while the network runs: remove the network by one reload and add it by the next, or start a new daemon beside it"
}

// FixedKey is the key.
func (e FixedError) FixedKey() string { return string(e) }

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
			return FixedError(key.name)
		}
	}
	return nil
}

// Add is Setup for a network that is new; after an error nothing of it is left.
func (h *Host) Add(n Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := maps.Clone(h.undo.index)
	p := newPass(n, placed{})
	if err := h.setup(p); err != nil {
		err = errors.Join(err, h.undoWhere(func(s *Step) bool { _, old := before[s.key()]; return !old }))
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	h.networks[n.Name] = p.now
	h.addOverlay(p.now)
	h.watchMore()
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
	h.watchMore()
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
	defer h.undo.drop(func(s *Step) bool { return s.Do == removeNeighbors && s.Network == name })
	err := h.withdraw(was, Network{Name: name, Device: was.Device, Bridge: was.Bridge, Ports: was.Ports})
	for _, other := range h.networks {
		if other.Bridge == was.Bridge {
			was.Bridge = ""
		}
	}
	if was.Bridge != "" {
		err = errors.Join(err, h.undoWhere(func(s *Step) bool {
			switch s.Do {
			case removeBridge, resetMTU:
				return s.Link == was.Bridge
			case takeDown:
				return s.Link == was.Bridge || slices.Contains(was.Ports, s.Link)
			case releasePort, restoreAddresses:
				return slices.Contains(was.Ports, s.Link)
			}
			return false
		}))
		for _, port := range was.Ports {
			delete(h.moved, port)
		}
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
	err := h.undoWhere(func(s *Step) bool {
		return s.Do == removeRoute && slices.Contains(h.routes, s.Route) && !slices.Contains(routes, s.Route)
	})
	h.mu.Unlock()
	return errors.Join(err, h.SetupRoutes(routes))
}

// withdraw removes the addresses, neighbours and routes of was that n has not.
func (h *Host) withdraw(was placed, n Network) error {
	carrier, onTAP := was.Bridge, was.Bridge == ""
	if onTAP {
		carrier = was.Device
	}
	errs := []error{h.undoWhere(func(s *Step) bool {
		switch s.Do {
		case removeAddress:
			return s.Link == carrier && slices.Contains(was.Addresses, s.Address) &&
				!slices.Contains(n.Addresses, s.Address) && !h.claimed(carrier, s.Address, n.Name)
		case removeRoute:
			return slices.Contains(was.Routes, s.Route) && !slices.Contains(n.Routes, s.Route)
		}
		return false
	})}

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

// undoWhere undoes the steps that match, the last first, and takes them off the list.
func (h *Host) undoWhere(match func(*Step) bool) error {
	err := h.undoSteps(match)
	h.undo.drop(match)
	return err
}

// undoSteps undoes the steps that match, the last first. What was removed from
// outside needs no undoing.
func (h *Host) undoSteps(match func(*Step) bool) error {
	var errs []error
	for _, s := range slices.Backward(h.undo.steps) {
		if !match(&s) {
			continue
		}
		if err := h.undoStep(&s); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("%s: %w", &s, err))
		}
	}
	return errors.Join(errs...)
}
