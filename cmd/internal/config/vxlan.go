package config

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// What holds for a network where the file is silent.
const (
	defaultPort       = 4789 // IANA's, RFC 7348 section 8
	defaultAgeing     = 300 * time.Second
	defaultMaxEntries = 65536
	defaultMaxMoves   = 5                 // RFC 7432 section 15.1
	defaultMoveWindow = 180 * time.Second // the same
	defaultTTL        = 64
)

const (
	maxName    = 64
	maxEntries = 1 << 24
	maxAgeing  = 365 * 24 * time.Hour
	maxMoves   = 1000
	maxWindow  = 24 * time.Hour
	maxProbe   = time.Hour
	maxRate    = 100_000_000 // frames a second
)

// names are what networks must not share.
type names struct {
	networks map[string]*node
	devices  map[string]*node // TAPs, TUNs and the underlay's
	segments map[segment]*node
	ports    map[string]*node // devices that join bridges
	routes   map[netip.Prefix]*node
	tunnels  map[netip.Addr]*node // by peer
	underlay string               // the underlay's device, "" where none is named
}

// segment is what tells networks apart on the wire.
type segment struct {
	vni  encap.VNI
	port uint16
}

// newNames starts with the underlay's device, when one is named.
func newNames(underlay string, at *node) *names {
	n := &names{
		networks: make(map[string]*node),
		devices:  make(map[string]*node),
		segments: make(map[segment]*node),
		ports:    make(map[string]*node),
		routes:   make(map[netip.Prefix]*node),
		tunnels:  make(map[netip.Addr]*node),
		underlay: underlay,
	}
	if underlay != "" {
		n.devices[underlay] = at
	}
	return n
}

// vxlan checks one network. Own is the underlay address, invalid when that is
// wrong: what depends on it is then not checked.
func (c *checker) vxlan(raw *rawVXLAN, own netip.Addr, names *names) VXLAN {
	v := VXLAN{
		Name:         c.networkName(raw.section, raw.Name, names),
		VNI:          number(c, raw.VNI, encap.VNI(0), 0, int64(encap.MaxVNI)),
		Port:         number(c, raw.Port, uint16(defaultPort), 1, math.MaxUint16),
		Bridge:       c.ifnameOrNone(raw.Bridge),
		Addresses:    c.addresses(raw.Addresses, own),
		Learning:     raw.Learning.or(true),
		Ageing:       c.ageing(raw.Ageing),
		MaxEntries:   number(c, raw.MaxEntries, defaultMaxEntries, 1, maxEntries),
		MaxPerPeer:   number(c, raw.MaxPerPeer, 0, 0, maxEntries),
		MaxMoves:     c.moves(raw.MaxMoves),
		MoveWindow:   c.window(raw.MoveWindow),
		Storm:        c.storm(raw),
		PeerStorm:    c.peerStorm(raw),
		Admit:        c.admit(raw.Admit, own),
		Group:        c.group(raw.Group, own),
		TTL:          number(c, raw.TTL, uint8(defaultTTL), 1, math.MaxUint8),
		TOS:          c.tos(raw.TOS),
		DF:           raw.DF.or(true),
		VLANDrop:     c.oneOf(raw.VLAN, "pass", "pass", "drop") == "drop",
		Probe:        c.probe(raw.Probe),
		ReservedDrop: c.oneOf(raw.Reserved, "ignore", "ignore", "drop") == "drop",
	}
	c.segment(raw, names)
	v.TAP = c.tap(raw, v.Name, names)
	v.MTU = c.mtu(raw.MTU, v.Addresses, math.MaxUint16-vxlanOverhead(own))
	v.mtuAt = c.place(raw.unset("mtu"))
	if raw.MTU.at != nil {
		v.mtuAt = c.place(raw.MTU.at)
	}
	v.MAC = c.tapMAC(raw.MAC, v.Name, own)
	v.Peers = c.peers(raw.Peer, own)
	v.FDB = c.fdb(raw.FDB, v.MAC, own)
	v.Pins = c.pins(raw, &v)
	c.membersAdmitted(raw, &v)
	v.Ports = c.bridgePorts(raw, &v, names)
	v.PortsTake = raw.PortsTake.or(false)
	v.Suppress = raw.Suppress.or(false)
	v.ClampMSS = raw.ClampMSS.or(false)
	v.Neighbors = c.neighbors(raw.Neighbor, &v)
	v.Routes = c.networkRoutes(raw, &v, own, names)
	return v
}

// networkName checks what the command line, metrics and logs call a network; ""
// when that is wrong or taken.
func (c *checker) networkName(s section, l leaf[string], names *names) string {
	const rule = "1 to 64 of the characters A-Z, a-z, 0-9, '.', '_' and '-'"
	if l.at == nil {
		c.missing(s, "name", rule)
	}
	if !l.ok {
		return ""
	}
	if l.v == "" || len(l.v) > maxName || strings.ContainsFunc(l.v, func(r rune) bool { return !isBare(r) && r != '.' }) {
		c.fail(l.at, "cannot be a network's name; want %s", rule)
		return ""
	}
	if !unique(c, names.networks, l.v, l.at) {
		return ""
	}
	return l.v
}

// segment checks that no two networks share VNI and port.
func (c *checker) segment(raw *rawVXLAN, names *names) {
	if raw.VNI.at == nil {
		c.missing(raw.section, "vni", fmt.Sprintf("0 to %d", encap.MaxVNI))
	}
	vni, err := encap.NewVNI(raw.VNI.v)
	port := raw.Port.or(defaultPort)
	if err != nil || !raw.VNI.ok || port < 1 || port > math.MaxUint16 || raw.Port.at != nil && !raw.Port.ok {
		return // reported already
	}
	key := segment{vni, uint16(port)}
	if first, ok := names.segments[key]; ok {
		c.fail(raw.VNI.at, "is taken on port %d by %s on line %d; want another vni or another port", port, first.path(), first.line)
		return
	}
	names.segments[key] = raw.VNI.at
}

// tap checks the TAP's name, which is the network's where none is given.
func (c *checker) tap(raw *rawVXLAN, network string, names *names) string {
	l := raw.TAP
	name := c.ifname(l)
	if l.at == nil && network != "" {
		l, name = raw.Name, network
		if p := ifnameProblem(name); p != "" {
			c.fail(l.at, "%s, and without tap it names the TAP; want tap set, or %s", p, ifnameRule)
			return ""
		}
	}
	if name != "" {
		unique(c, names.devices, name, l.at)
	}
	return name
}

// tapMAC checks the TAP's address and derives it where none is given.
func (c *checker) tapMAC(l leaf[string], network string, own netip.Addr) encap.MAC {
	if l.at == nil {
		return defaultMAC(network, own)
	}
	m, _ := c.sourceMAC(l)
	return m
}

// defaultMAC returns a locally administered unicast address that stays the same
// as long as the network's name and the underlay address do, so that the
// neighbours' caches survive a restart.
func defaultMAC(network string, own netip.Addr) encap.MAC {
	sum := sha256.Sum256([]byte(network + "\x00" + own.String()))
	const group, local = 1 << 40, 2 << 40 // the two low bits of the first octet
	return encap.MACFrom(sum[:])&^group | local
}

// ageing checks for how long a learned entry outlives its last frame.
func (c *checker) ageing(l leaf[string]) time.Duration {
	if !l.ok {
		return defaultAgeing
	}
	d, err := time.ParseDuration(l.v)
	const want = `want whole seconds, such as "300s" or "5m"; "0s" is never, the most is "8760h"`
	switch {
	case err != nil:
		c.fail(l.at, "is not a duration; %s", want)
	case d < 0:
		c.fail(l.at, "is negative; %s", want)
	case d > maxAgeing:
		c.fail(l.at, "is out of range; %s", want)
	case d%time.Second != 0:
		c.fail(l.at, "is not a whole number of seconds; %s", want)
	}
	return d
}

// probe checks how often peers are asked whether they are alive.
func (c *checker) probe(l leaf[string]) time.Duration {
	if !l.ok {
		return 0
	}
	d, err := time.ParseDuration(l.v)
	const want = `want "100ms" to "1h", such as "10s", or "0s" for none`
	switch {
	case err != nil:
		c.fail(l.at, "is not a duration; %s", want)
	case d != 0 && (d < dataplane.MinProbe || d > maxProbe):
		c.fail(l.at, "is out of range; %s", want)
	}
	return d
}

// tos checks the outer DSCP.
func (c *checker) tos(u union) dataplane.TOS {
	n := u.at
	if n == nil || n.value == "inherit" {
		return dataplane.TOS{Inherit: true}
	}
	i, ok := n.value.(int64)
	if !ok || i < 0 || i > math.MaxUint8 {
		c.fail(n, `is not known; want "inherit" or 0 to 255`)
		return dataplane.TOS{}
	}
	return dataplane.TOS{Value: uint8(i)}
}

// bridges checks, once all devices are known, that no bridge has the name of
// one. Several networks may share a bridge.
func (c *checker) bridges(raw *rawConfig, names *names) {
	for i := range raw.VXLAN {
		b := raw.VXLAN[i].Bridge
		if d, ok := names.devices[b.v]; ok && b.v != "" && d != raw.Underlay.Device.at {
			c.fail(b.at, "is a TAP's or TUN's name already, by %s on line %d; want another", d.path(), d.line)
		}
	}
}
