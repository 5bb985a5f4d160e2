package config

import (
	"net/netip"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// moves checks how often a MAC may move within the window.
func (c *checker) moves(l leaf[int64]) int {
	if l.ok && l.v == 1 {
		c.fail(l.at, "would freeze a MAC that moves once; want 2 to %d, or 0 for any number of moves", maxMoves)
		return defaultMaxMoves
	}
	return number(c, l, defaultMaxMoves, 0, maxMoves)
}

// window checks the time that moves are counted over.
func (c *checker) window(l leaf[string]) time.Duration {
	if !l.ok {
		return defaultMoveWindow
	}
	const want = `want whole seconds, such as "180s" or "3m", up to "24h"`
	d, err := time.ParseDuration(l.v)
	switch {
	case err != nil:
		c.fail(l.at, "is not a duration; %s", want)
	case d < time.Second || d > maxWindow:
		c.fail(l.at, "is out of range; %s", want)
	case d%time.Second != 0:
		c.fail(l.at, "is not a whole number of seconds; %s", want)
	}
	return d
}

// storm checks how much a network floods.
func (c *checker) storm(raw *rawVXLAN) dataplane.Storm {
	return dataplane.Storm{
		Broadcast:      c.rate(raw.StormBroadcast),
		UnknownUnicast: c.rate(raw.StormUnknown),
		Multicast:      c.rate(raw.StormMulticast),
	}
}

// peerStorm checks how much of it each peer sends.
func (c *checker) peerStorm(raw *rawVXLAN) dataplane.Storm {
	return dataplane.Storm{Broadcast: c.rate(raw.PeerStormBroadcast), Multicast: c.rate(raw.PeerStormMulticast)}
}

func (c *checker) rate(l leaf[int64]) uint32 { return number(c, l, uint32(0), 0, maxRate) }

// pins checks the MACs that peers are held to.
func (c *checker) pins(raw *rawVXLAN, v *VXLAN) []dataplane.StaticEntry {
	var out []dataplane.StaticEntry
	seen := make(map[encap.MAC]*node)
	for _, r := range raw.FDB {
		if m, err := encap.ParseMAC(r.MAC.v); err == nil {
			seen[m] = r.MAC.at
		}
	}
	for i := range raw.Peer {
		p := &raw.Peer[i]
		if p.MACs.at != nil && len(p.MACs.v) == 0 {
			c.fail(p.MACs.at, "lets the peer send from no address; want at least one, or the key left out")
		}
		a, err := netip.ParseAddr(p.Address.v)
		for _, l := range p.MACs.v {
			m, ok := c.sourceMAC(l)
			switch {
			case !ok:
				continue
			case m == v.MAC:
				c.fail(l.at, "is this network's own TAP; want an address behind the peer")
				continue
			case !unique(c, seen, m, l.at) || err != nil:
				continue
			}
			out = append(out, dataplane.StaticEntry{MAC: m, Peer: a.Unmap()})
		}
	}
	return out
}
