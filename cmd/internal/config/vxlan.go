package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// Defaults of a network.
const (
	defaultPort       = 4789 // IANA's, RFC 7348 section 8
	defaultAgeing     = 300 * time.Second
	defaultMaxEntries = 65536
	defaultMaxMoves   = 5                 // RFC 7432 section 15.1
	defaultMoveWindow = 180 * time.Second // the same
	defaultTTL        = 64
)

// defaultProbe finds a peer that is down within three of it.
const defaultProbe = 10 * time.Second

// names are what networks must not share, beyond what the engine compares.
type names struct {
	devices  map[string]*node // TAPs, TUNs and the underlay's
	ports    map[string]*node // devices that join bridges
	routes   map[netip.Prefix]*node
	underlay string // the underlay's device, "" where none is named
}

// newNames starts with the underlay's device, when one is named.
func newNames(underlay string, at *node) *names {
	n := &names{
		devices:  make(map[string]*node),
		ports:    make(map[string]*node),
		routes:   make(map[netip.Prefix]*node),
		underlay: underlay,
	}
	if underlay != "" {
		n.devices[underlay] = at
	}
	return n
}

// device notes the name of a TAP or TUN, which the underlay's device must not have.
func (c *checker) device(name string, at *node, names *names) {
	if name == names.underlay && name != "" {
		unique(c, names.devices, name, at)
	}
	if name != "" && names.devices[name] == nil {
		names.devices[name] = at
	}
}

// vxlan checks one network. Where the underlay address is wrong, it is invalid,
// and what depends on it is not checked.
func (c *checker) vxlan(raw *rawVXLAN, cfg *Config, names *names) VXLAN {
	own := cfg.Underlay.Address
	v := VXLAN{
		Network: dataplane.Network{
			Name:       c.networkName(raw.section, raw.Name),
			VNI:        number(c, raw.VNI, encap.VNI(0)),
			Port:       number(c, raw.Port, uint16(defaultPort)),
			Plain:      !cfg.Engine.Offload,
			Learning:   raw.Learning.or(true),
			Ageing:     c.duration(raw.Ageing, defaultAgeing),
			MaxEntries: number(c, raw.MaxEntries, defaultMaxEntries),
			MaxPerPeer: number(c, raw.MaxPerPeer, 0),
			MaxMoves:   number(c, raw.MaxMoves, defaultMaxMoves),
			MoveWindow: c.duration(raw.MoveWindow, defaultMoveWindow),
			Storm: dataplane.Storm{
				Broadcast:      number(c, raw.StormBroadcast, uint32(0)),
				UnknownUnicast: number(c, raw.StormUnknown, uint32(0)),
				Multicast:      number(c, raw.StormMulticast, uint32(0)),
			},
			PeerStorm: dataplane.Storm{
				Broadcast: number(c, raw.PeerStormBroadcast, uint32(0)),
				Multicast: number(c, raw.PeerStormMulticast, uint32(0)),
			},
			Admit:         c.admit(raw.Admit, own),
			Group:         c.group(raw.Group),
			TTL:           number(c, raw.TTL, uint8(defaultTTL)),
			TOS:           c.tos(raw.TOS),
			DF:            raw.DF.or(true),
			ClampMSS:      raw.ClampMSS.or(false),
			VLANDrop:      c.oneOf(raw.VLAN, "pass", "pass", "drop") == "drop",
			ReservedDrop:  c.oneOf(raw.Reserved, "ignore", "ignore", "drop") == "drop",
			BridgeControl: c.oneOf(raw.BridgeControl, "drop", "drop", "pass") == "pass",
			Probe:         c.duration(raw.Probe, defaultProbe),
			Suppress:      raw.Suppress.or(false),
		},
		Bridge:    c.ifnameOrNone(raw.Bridge),
		PortsTake: raw.PortsTake.or(false),
		Addresses: c.addresses(raw.Addresses, own),
	}
	c.required(raw.section, raw.VNI.at, "vni", fmt.Sprintf("0 to %d", encap.MaxVNI))
	v.Device = c.tap(raw, v.Name, names)
	v.MTU = c.mtu(raw.MTU, v.Addresses, dataplane.MTURange(dataplane.KindVXLAN, own))
	v.mtuAt = c.place(cmp.Or(raw.MTU.at, raw.unset("mtu")))
	if v.MAC = c.mac(raw.MAC); raw.MAC.at == nil {
		v.MAC = defaultMAC(v.Name, own)
	}
	c.peers(raw, &v)
	v.FDB = c.fdb(raw.FDB)
	c.membersAdmitted(raw, &v)
	v.Ports = c.bridgePorts(raw, &v, names)
	v.Neighbors = c.neighbors(raw.Neighbor, &v)
	v.Routes = c.networkRoutes(raw, &v, names)
	c.clustered(raw, &v, cfg)
	return v
}

// networkName checks what the command line, metrics and logs call a network; ""
// when that is wrong.
func (c *checker) networkName(s section, l leaf[string]) string {
	c.required(s, l.at, "name", nameRule)
	return c.nameOf(l, "cannot be a network's name")
}

const nameRule = "1 to 64 of the characters A-Z, a-z, 0-9, '.', '_' and '-'"

// nameOf is a name that passes nameRule, or "".
func (c *checker) nameOf(l leaf[string], not string) string {
	const longest = 64
	if l.ok && (l.v == "" || len(l.v) > longest || strings.ContainsFunc(l.v, func(r rune) bool { return !isBare(r) && r != '.' })) {
		c.fail(l.at, "%s; want %s", not, nameRule)
		return ""
	}
	return l.v
}

// tap checks the TAP's name, which is the network's where none is given.
func (c *checker) tap(raw *rawVXLAN, network string, names *names) string {
	l := raw.TAP
	name := c.ifname(l)
	if l.at == nil && network != "" {
		l, name = raw.Name, network
		if err := dataplane.CheckDevice(name); err != nil {
			what, want, _ := strings.Cut(err.Error(), "; want ")
			c.fail(l.at, "%s, and without tap it names the TAP; want tap set, or %s", what, want)
		}
	}
	c.device(name, l.at, names)
	return name
}

// defaultMAC returns a locally administered unicast address that stays the same
// as long as the network's name and the underlay address do, so that the
// neighbours' caches survive a restart.
func defaultMAC(network string, own netip.Addr) encap.MAC {
	sum := sha256.Sum256([]byte(network + "\x00" + own.String()))
	const group, local = 1 << 40, 2 << 40 // the two low bits of the first octet
	return encap.MACFrom(sum[:])&^group | local
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
