package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"overtap/encap"
	"overtap/fdb"
)

// Place is one value of a Desired, by the keys that the configuration has for it.
type Place struct {
	Kind  Kind   // of what it belongs to
	Index int    // in Networks, or in Tunnels
	Name  string // of the network or tunnel
	Key   string // such as "ttl" or "fdb[3].mac"
}

// Problem is one value of a Desired that cannot be.
type Problem struct {
	Place
	Value string
	What  string // "is out of range", or the words before Other
	Other *Place // the value that it clashes with, nil where there is none
	Want  string // what is accepted
}

// Error writes the problem as one line.
func (p Problem) Error() string {
	kind := map[Kind]string{KindVXLAN: "network", KindIPIP: "tunnel"}
	other := ""
	if p.Other != nil {
		other = fmt.Sprintf(" the %s of %s %q", p.Other.Key, kind[p.Other.Kind], p.Other.Name)
	}
	return fmt.Sprintf("%s %q: %s = %s: %s%s; want %s", kind[p.Kind], p.Name, p.Key, p.Value, p.What, other, p.Want)
}

// Check returns everything about d that cannot be. Without an underlay address it
// leaves out what depends on that.
func (d *Desired) Check(underlay netip.Addr) []Problem {
	c := &checker{underlay: underlay, names: make(map[string]*Place), devices: make(map[string]*Place)}
	vnis := make(map[[2]uint32]*Place)
	for i := range d.Networks {
		n := &d.Networks[i]
		c.at = Place{Kind: KindVXLAN, Index: i, Name: n.Name}
		c.once(c.names, n.Name, "name")
		c.once(c.devices, n.Device, "tap")
		key := [2]uint32{uint32(n.Port), uint32(n.VNI)}
		if first, taken := vnis[key]; taken {
			c.clash("vni", n.VNI, fmt.Sprintf("is taken on port %d by", n.Port), first, "another vni or another port")
		} else {
			vnis[key] = c.place("vni")
		}
		c.network(n)
	}
	peers := make(map[netip.Addr]*Place)
	for i := range d.Tunnels {
		t := &d.Tunnels[i]
		c.at = Place{Kind: KindIPIP, Index: i, Name: t.Name}
		c.once(c.names, t.Name, "name")
		c.once(c.devices, t.Device, "name")
		c.tunnel(t, peers)
	}
	return c.problems
}

// check is Check as an error.
func (d *Desired) check(underlay netip.Addr) error {
	var errs []error
	for _, p := range d.Check(underlay) {
		errs = append(errs, p)
	}
	return errors.Join(append(errs, d.checkZeroChecksum()...)...)
}

// checker collects problems.
type checker struct {
	underlay       netip.Addr
	names, devices map[string]*Place
	at             Place // of what is checked, without a key
	problems       []Problem
}

func (c *checker) place(key string) *Place {
	p := c.at
	p.Key = key
	return &p
}

// value reports what err says of a value, unless it is nil.
func (c *checker) value(key string, v any, err error) {
	if err != nil {
		what, want, _ := strings.Cut(err.Error(), "; want ")
		c.clash(key, v, what, nil, want)
	}
}

func (c *checker) clash(key string, v any, what string, other *Place, want string) {
	value := fmt.Sprint(v)
	if s, ok := v.(string); ok {
		value = strconv.Quote(s)
	}
	c.problems = append(c.problems, Problem{Place: *c.place(key), Value: value, What: what, Other: other, Want: want})
}

// once reports a name that is taken.
func (c *checker) once(seen map[string]*Place, name, key string) {
	if first, taken := seen[name]; taken {
		c.clash(key, name, "is a duplicate of", first, "each only once")
		return
	}
	seen[name] = c.place(key)
}

// wholeSeconds is an error for a time that is not a whole number of seconds or out of
// range.
func wholeSeconds(t, least, most time.Duration, want string) error {
	switch {
	case t < 0:
		return errors.New("is negative; want " + want)
	case t < least || t > most:
		return errors.New("is out of range; want " + want)
	case t%time.Second != 0:
		return errors.New("is not a whole number of seconds; want " + want)
	}
	return nil
}

func (c *checker) network(n *Network) {
	if n.Name == "" {
		c.value("name", n.Name, errors.New("is empty; want a name"))
	}
	c.value("tap", n.Device, CheckDevice(n.Device))
	if !n.MAC.IsSource() {
		c.value("mac", n.MAC, errNoSource)
	}
	for _, x := range []struct {
		key string
		v   int64
	}{
		{"vni", int64(n.VNI)}, {"port", int64(n.Port)}, {"ttl", int64(n.TTL)},
		{"max_entries", int64(n.MaxEntries)}, {"max_entries_per_peer", int64(n.MaxPerPeer)}, {"max_moves", int64(n.MaxMoves)},
		{"storm_broadcast", int64(n.Storm.Broadcast)}, {"storm_unknown_unicast", int64(n.Storm.UnknownUnicast)},
		{"storm_multicast", int64(n.Storm.Multicast)},
		{"peer_storm_broadcast", int64(n.PeerStorm.Broadcast)}, {"peer_storm_multicast", int64(n.PeerStorm.Multicast)},
	} {
		c.value(x.key, x.v, RangeOf(x.key).Check(x.v))
	}
	c.value("mtu", n.MTU, MTURange(KindVXLAN, c.underlay).Check(int64(n.MTU)))
	if n.MaxMoves == 1 {
		c.value("max_moves", n.MaxMoves, fmt.Errorf("would freeze a MAC that moves once; want 2 to %d, or 0 for any number of moves", RangeOf("max_moves").Max))
	}
	c.value("ageing", n.Ageing, wholeSeconds(n.Ageing, 0, 365*24*time.Hour, `whole seconds, such as "300s" or "5m"; "0s" is never, the most is "8760h"`))
	if n.MaxMoves != 0 || n.MoveWindow != 0 {
		c.value("move_window", n.MoveWindow, wholeSeconds(n.MoveWindow, time.Second, 24*time.Hour, `whole seconds, such as "180s" or "3m", up to "24h"`))
	}
	if n.Probe != 0 && (n.Probe < MinProbe || n.Probe > time.Hour) {
		c.value("probe", n.Probe, errors.New(`is out of range; want "100ms" to "1h", such as "10s", or "0s" for none`))
	}
	if g := n.Group; g.IsValid() && !g.IsMulticast() {
		c.value("group", g, errors.New("is not a multicast address; want one of 224.0.0.0/4 or ff00::/8"))
	} else if g.IsValid() {
		c.value("group", g, CheckFamily(g, c.underlay))
	}
	c.members(n)
	c.neighbors(n)
}

// members checks peers and static entries. Of these there may be very many: a key is
// made of what is wrong only.
func (c *checker) members(n *Network) {
	type entry struct{ peer, at int } // peer -1 = of FDB
	key := func(e entry) string {
		if e.peer < 0 {
			return fmt.Sprintf("fdb[%d].mac", e.at)
		}
		return fmt.Sprintf("peer[%d].macs[%d]", e.peer, e.at)
	}
	seen := make(map[encap.MAC]entry)
	once := func(e entry, m encap.MAC, err error) {
		first, taken := seen[m]
		switch {
		case err != nil:
			c.value(key(e), m, err)
		case taken:
			c.clash(key(e), m, "is a duplicate of", c.place(key(first)), "each only once")
		default:
			seen[m] = e
		}
	}
	for i, e := range n.FDB {
		once(entry{-1, i}, e.MAC, n.CheckEntry(e.MAC))
		if err := CheckPeer(e.Peer, c.underlay); err != nil {
			c.value(fmt.Sprintf("fdb[%d].peer", i), e.Peer, err)
		}
	}
	for i, p := range n.Peers {
		if err := CheckPeer(p.Address, c.underlay); err != nil {
			c.value(fmt.Sprintf("peer[%d].address", i), p.Address, err)
		}
		for j, m := range p.MACs {
			once(entry{i, j}, m, n.CheckSource(m))
		}
	}
}

func (c *checker) neighbors(n *Network) {
	if len(n.Neighbors) > fdb.MaxNeighbors {
		c.value("neighbor", len(n.Neighbors), fmt.Errorf("are too many; want at most %d", fdb.MaxNeighbors))
	}
	key := func(i int, of string) string { return fmt.Sprintf("neighbor[%d].%s", i, of) }
	seen := make(map[netip.Addr]int)
	for i, one := range n.Neighbors {
		first, taken := seen[one.Address]
		if err := CheckUnicast(one.Address); err != nil {
			c.value(key(i, "address"), one.Address, err)
		} else if taken {
			c.clash(key(i, "address"), one.Address, "is a duplicate of", c.place(key(first, "address")), "each only once")
		} else {
			seen[one.Address] = i
		}
		if err := n.CheckSource(one.MAC); err != nil {
			c.value(key(i, "mac"), one.MAC, err)
		}
	}
}

// tunnel checks one tunnel; peers are those of the tunnels before it, and become
// those of this one too.
func (c *checker) tunnel(t *Tunnel, peers map[netip.Addr]*Place) {
	if t.Name == "" {
		c.value("name", t.Name, errors.New("is empty; want a name"))
	}
	c.value("name", t.Device, CheckDevice(t.Device))
	if c.underlay.Is6() {
		c.value("", t.Name, fmt.Errorf("carries IPv4 in IPv4, but the underlay address %s is IPv6; want an IPv4 underlay", c.underlay))
	}
	c.value("mtu", t.MTU, MTURange(KindIPIP, c.underlay).Check(int64(t.MTU)))
	c.value("ttl", t.TTL, RangeOf("ttl").Check(int64(t.TTL)))
	key := func(i int, of string) string { return fmt.Sprintf("route[%d].%s", i, of) }
	seen := make(map[netip.Prefix]int)
	for i, r := range t.Routes {
		first, taken := seen[r.Prefix]
		switch p := r.Prefix; {
		case !p.IsValid() || p != p.Masked():
			c.value(key(i, "prefix"), p, errors.New("is not a prefix without host bits; want an IPv4 prefix"))
		case !p.Addr().Is4():
			c.value(key(i, "prefix"), p, errors.New("is IPv6, but the tunnel carries IPv4; want an IPv4 prefix"))
		case taken:
			c.clash(key(i, "prefix"), p, "is a duplicate of", c.place(key(first, "prefix")), "each only once")
		default:
			seen[p] = i
		}
		if err := CheckPeer(r.Peer, c.underlay); err != nil {
			c.value(key(i, "peer"), r.Peer, err)
		}
		if other, taken := peers[r.Peer]; taken && other.Index != c.at.Index {
			c.clash(key(i, "peer"), r.Peer, "is a peer of", other, "all routes to one peer in one tunnel")
		} else if !taken {
			peers[r.Peer] = c.place("")
		}
	}
}
