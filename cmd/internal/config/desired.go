package config

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"overtap/dataplane"
	"overtap/encap"
)

// Desired returns the state that the engine must have, for an underlay that
// carries outer packets of up to the given MTU. It fills in the MTUs that are
// derived. The result shares nothing with c.
//
// A network or tunnel whose MTU the underlay cannot carry, or that is left with too small
// a one, is a mistake; all of them are returned as Errors.
func (c *Config) Desired(underlay encap.UnderlayMTU) (dataplane.Desired, error) {
	var d dataplane.Desired
	var errs Errors
	fail := func(at Error, err error) {
		if err != nil {
			at.Problem = err.Error()
			errs = append(errs, at)
		}
	}
	for i := range c.VXLAN {
		v := &c.VXLAN[i]
		n := v.Network
		var err error
		n.MTU, err = v.overlayMTU(underlay, c.Underlay.Address)
		fail(v.mtuAt, err)
		n.Admit.Prefixes = slices.Clone(n.Admit.Prefixes)
		n.ZeroChecksum.Except = slices.Clone(n.ZeroChecksum.Except)
		n.Peers, n.FDB = slices.Clone(n.Peers), slices.Clone(n.FDB)
		for i := range n.Peers {
			n.Peers[i].MACs = slices.Clone(n.Peers[i].MACs)
		}
		n.Neighbors = slices.Clone(n.Neighbors)
		d.Networks = append(d.Networks, n)
	}
	for i := range c.IPIP {
		v := &c.IPIP[i]
		t := v.Tunnel
		var err error
		t.MTU, err = v.overlayMTU(underlay)
		fail(v.mtuAt, err)
		t.Admit.Prefixes = slices.Clone(t.Admit.Prefixes)
		t.Routes = slices.Clone(t.Routes)
		d.Tunnels = append(d.Tunnels, t)
	}
	if err := errs.orNil(); err != nil {
		return dataplane.Desired{}, err
	}
	return d, nil
}

// OverlayMTU returns the MTU of a network or tunnel on an underlay of the given
// MTU: what is configured, or derived. It is an error when the underlay cannot
// carry it.
func (c *Config) OverlayMTU(name string, underlay encap.UnderlayMTU) (encap.OverlayMTU, error) {
	if t := c.Tunnel(name); t.Name != "" {
		return t.overlayMTU(underlay)
	}
	return c.Network(name).overlayMTU(underlay, c.Underlay.Address)
}

func (v *VXLAN) overlayMTU(underlay encap.UnderlayMTU, own netip.Addr) (encap.OverlayMTU, error) {
	underlay = min(underlay, maxPacket)
	most, err := underlay.VXLANOverlay(own.Is6())
	mtu, err := derive(v.MTU, most, underlay, err)
	if err == nil && mtu < encap.MinOverlayMTU6 && has6(v.Addresses) {
		return 0, fmt.Errorf("the underlay's MTU of %d leaves room for %d, too small for the IPv6 address in addresses; "+
			"want an underlay of at least %d (RFC 8200 section 5)", underlay, most, encap.MinOverlayMTU6.VXLANUnderlay(own.Is6()))
	}
	return mtu, err
}

func (t *IPIP) overlayMTU(underlay encap.UnderlayMTU) (encap.OverlayMTU, error) {
	underlay = min(underlay, maxPacket)
	most, err := underlay.IPIPOverlay()
	return derive(t.MTU, most, underlay, err)
}

// maxPacket is the longest IP packet, even where the device (the loopback one, say)
// would take a longer one.
const maxPacket = math.MaxUint16

// derive returns the MTU that is configured, or for 0 the most that the underlay
// leaves room for; err says that this is too little.
func derive(configured, most encap.OverlayMTU, underlay encap.UnderlayMTU, err error) (encap.OverlayMTU, error) {
	switch {
	case err != nil:
		return 0, fmt.Errorf("no MTU fits the %w", err)
	case configured > most:
		return 0, fmt.Errorf("the underlay's MTU of %d leaves room for %d; want at most that, or 0 to derive it", underlay, most)
	case configured != 0:
		return configured, nil
	}
	return most, nil
}

// refused reports what the engine would refuse, at the keys it comes from. What
// follows from a mistake that is reported already is left out.
func (c *checker) refused(raw *rawConfig, cfg *Config) {
	var d dataplane.Desired
	for _, v := range cfg.VXLAN {
		v.MTU = cmp.Or(v.MTU, encap.MinOverlayMTU6) // the underlay decides
		d.Networks = append(d.Networks, v.Network)
	}
	for _, t := range cfg.IPIP {
		t.MTU = cmp.Or(t.MTU, encap.MinOverlayMTU6)
		d.Tunnels = append(d.Tunnels, t.Tunnel)
	}
	at := func(p *dataplane.Place) (n *node, known bool) {
		var s *section
		if p.Kind == dataplane.KindIPIP {
			s = &raw.IPIP[p.Index].section
		} else {
			s = &raw.VXLAN[p.Index].section
		}
		n = s.find(p.Key)
		return n, c.failed[n.path()] || p.Key == "vni" && c.failed[s.find("port").path()]
	}
	for _, p := range d.Check(cfg.Underlay.Address) {
		n, known := at(&p.Place)
		if known {
			continue
		}
		other := ""
		if p.Other != nil {
			first, known := at(p.Other)
			if known {
				continue
			}
			other = fmt.Sprintf(" %s on line %d", first.path(), first.line)
		}
		if p.Value == notDuration.String() {
			p.What = "is not a duration"
		}
		c.fail(n, "%s%s; want %s", p.What, other, p.Want)
	}
}

// find is the node of a key of the table, by the path that the engine has for it,
// such as fdb[1].mac.
func (s *section) find(path string) *node {
	n := s.at
	for _, part := range strings.Split(path, ".") {
		key, index, listed := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		switch next := n.table[key]; {
		case key == "":
		case next == nil && key == "tap":
			n = s.find("name") // names the TAP too
		case next == nil:
			return section{at: n}.unset(key)
		case !listed:
			n = next
		default:
			i, _ := strconv.Atoi(index)
			n = next.items[i]
		}
	}
	return n
}
