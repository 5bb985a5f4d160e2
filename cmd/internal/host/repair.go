package host

import "fmt"

// PlainRoutes stands for the plain routes where a network's name may stand.
const PlainRoutes = ""

// Repair compares a network that was set up, or the plain routes, with the host
// and puts back what is missing. It returns what it put back, also with an
// error: that of what is missing still. A link that was taken down from outside stays
// down, and a bridge that was found is left to who made it. Of a network whose
// TAP is gone nothing is done before the engine opened it again.
func (h *Host) Repair(network string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.repair(network)
	h.marks.fault(network, err)
	return p.put, err
}

func (h *Host) repair(network string) (*pass, error) {
	if network == PlainRoutes {
		p := new(pass)
		return p, h.plainRoutes(p)
	}
	was, ok := h.networks[network]
	if !ok {
		return new(pass), nil
	}
	p := newPass(was.Network, was)
	if _, err := h.nl.LinkByName(was.Device); gone(err) {
		return p, nil
	}
	err := h.setup(p)
	h.networks[network] = p.now
	h.addOverlay(p.now)
	if err != nil {
		err = fmt.Errorf("network %s: %w", network, err)
	}
	return p, err
}

// subjects lists the networks that were set up, and PlainRoutes when there are
// any: all that Repair can be asked for.
func (h *Host) subjects() []string {
	var all []string
	for name := range h.networks {
		all = append(all, name)
	}
	if len(h.routes) > 0 {
		all = append(all, PlainRoutes)
	}
	return all
}
