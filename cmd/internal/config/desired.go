package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"overtap/dataplane"
	"overtap/encap"
)

// Desired returns the state the engine shall forward by, for an underlay that
// carries outer packets of up to the given MTU. It fills in the MTUs that are
// to be derived and adds the peers that only [[vxlan.fdb]] names, without
// flooding to them. The result shares nothing with c.
//
// A network or tunnel whose MTU the underlay cannot carry, or that is left with too small
// a one, is a mistake; all of them are returned as Errors.
func (c *Config) Desired(underlay encap.UnderlayMTU) (dataplane.Desired, error) {
	var d dataplane.Desired
	var errs Errors
	for i := range c.VXLAN {
		v := &c.VXLAN[i]
		mtu, err := v.OverlayMTU(underlay, c.Underlay.Address)
		if err != nil {
			e := v.mtuAt
			e.Problem = err.Error()
			errs = append(errs, e)
			continue
		}
		d.Networks = append(d.Networks, dataplane.Network{
			Name: v.Name, VNI: v.VNI, Port: v.Port,
			Device: v.TAP, MAC: v.MAC, MTU: mtu, Plain: !c.Engine.Offload,
			Learning: v.Learning, Ageing: v.Ageing, MaxEntries: v.MaxEntries,
			MaxPerPeer: v.MaxPerPeer, MaxMoves: v.MaxMoves, MoveWindow: v.MoveWindow,
			Storm: v.Storm, PeerStorm: v.PeerStorm,
			Admit:    dataplane.Admit{Any: v.Admit.Any, Prefixes: slices.Clone(v.Admit.Prefixes)},
			VLANDrop: v.VLANDrop, ReservedDrop: v.ReservedDrop,
			Group: v.Group, TTL: v.TTL, TOS: v.TOS, DF: v.DF, ClampMSS: v.ClampMSS,
			Peers: v.allPeers(), FDB: slices.Clone(v.FDB), Pins: slices.Clone(v.Pins),
			Probe:    v.Probe,
			Suppress: v.Suppress, Neighbors: slices.Clone(v.Neighbors),
		})
	}
	for i := range c.IPIP {
		t := &c.IPIP[i]
		mtu, err := t.OverlayMTU(underlay)
		if err != nil {
			e := t.mtuAt
			e.Problem = err.Error()
			errs = append(errs, e)
			continue
		}
		d.Tunnels = append(d.Tunnels, dataplane.Tunnel{
			Name: t.Name, Device: t.Name, MTU: mtu, Plain: !c.Engine.Offload,
			Admit:       dataplane.Admit{Any: t.Admit.Any, Prefixes: slices.Clone(t.Admit.Prefixes)},
			CheckSource: t.CheckSource, ClampMSS: t.ClampMSS,
			TTL: t.TTL, TOS: t.TOS, DF: t.DF,
			Routes: slices.Clone(t.Routes),
		})
	}
	if err := errs.orNil(); err != nil {
		return dataplane.Desired{}, err
	}
	return d, nil
}

// OverlayMTU returns the network's MTU on an underlay of the given MTU and of
// our own address's family: what is configured, or derived. It is an error when
// the underlay cannot carry it.
func (v *VXLAN) OverlayMTU(underlay encap.UnderlayMTU, own netip.Addr) (encap.OverlayMTU, error) {
	// No IP packet is larger, even where the device (the loopback one, say)
	// would take it.
	underlay = min(underlay, math.MaxUint16)
	most, err := underlay.VXLANOverlay(own.Is6())
	switch {
	case err != nil:
		return 0, fmt.Errorf("no MTU fits the %w", err)
	case v.MTU > most:
		return 0, fmt.Errorf("the underlay's MTU of %d leaves room for %d; want at most that, or 0 to derive it", underlay, most)
	case v.MTU != 0:
		return v.MTU, nil
	case most < encap.MinOverlayMTU6 && has6(v.Addresses):
		return 0, fmt.Errorf("the underlay's MTU of %d leaves room for %d, too small for the IPv6 address in addresses; "+
			"want an underlay of at least %d (RFC 8200 section 5)", underlay, most, encap.MinOverlayMTU6.VXLANUnderlay(own.Is6()))
	}
	return most, nil
}

// allPeers returns the listed peers, then those that only static entries name.
func (v *VXLAN) allPeers() []dataplane.Peer {
	peers := slices.Clone(v.Peers)
	known := make(map[netip.Addr]bool, len(peers))
	for _, p := range peers {
		known[p.Address] = true
	}
	for _, e := range v.FDB {
		if !known[e.Peer] {
			known[e.Peer] = true
			peers = append(peers, dataplane.Peer{Address: e.Peer})
		}
	}
	return peers
}

// vxlanOverhead returns what VXLAN adds to an inner packet on the underlay of
// our own address.
func vxlanOverhead(own netip.Addr) int64 {
	if own.Is6() {
		return encap.VXLANOverhead6
	}
	return encap.VXLANOverhead4
}
