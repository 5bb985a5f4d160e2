package dataplane

import (
	"errors"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"overtap/encap"
	"overtap/fdb"
)

// overlay is what a network and a tunnel at work have in common. The threads
// read peers and their own device and tallies; everything else is the door's.
type overlay struct {
	name    string
	peers   *fdb.Peers
	devices []Device // by worker
	tallies []tally  // by thread
	lost    atomic.Bool
	uso     bool // the device takes UDP superframes
	keeps   bool // the device is persistent, by our own doing

	leaving []fdb.PeerID                     // of peers gone since the last beat
	retired []fdb.PeerID                     // of peers gone before it
	paths   map[netip.Addr]encap.UnderlayMTU // by peer, as the owner was told
}

func (o *overlay) base() *overlay { return o }

// close closes the device, which goes with it.
func (o *overlay) close() error {
	var err error
	if o.keeps && !o.lost.Load() {
		if err = o.devices[0].Persist(false); errors.Is(err, unix.EBADFD) {
			err = nil // somebody deleted it
		}
	}
	return errors.Join(err, o.leave())
}

// leave closes the queues; a device that persists stays.
func (o *overlay) leave() error {
	var errs []error
	for _, d := range o.devices {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// member is a network or a tunnel at work, as the door sees it.
type member interface {
	base() *overlay
	// is reports whether the member is as wanted already.
	is(wanted) bool
	// admits is an error when the member cannot become w while it runs.
	admits(w wanted) error
	change(w wanted) error
	endpoints() []endpoint
	// port is how the outbound thread of a worker sees it.
	port(worker int, w Wire) *port
	// age is upkeep, once a beat.
	age()
	// forget drops what was learned from peers that are gone.
	forget(gone []fdb.PeerID)
	// fills is the least path MTU to the peer that is no limit.
	fills(peer netip.Addr) encap.UnderlayMTU
	// idle is after how many seconds of silence a learned peer goes; 0 = never.
	idle() uint32
}

// wanted is a Network or a Tunnel as it shall be.
type wanted interface {
	label() string // its name
	kind() string
	open(e *Engine) (member, error) // ready to be published
}

// network is a Network at work. The threads read policy and table also.
type network struct {
	overlay
	policy atomic.Pointer[policy]
	table  *fdb.Table
	repin  int     // beats for which what pinned peers taught is taken back
	config Network // as applied

	probesRefused atomic.Uint64 // the prober's

	_      [64]byte // what every storm writes to shares no line with what all read
	storms storms
	_      [64]byte
}

func (c Network) label() string { return c.Name }
func (c Network) kind() string  { return "network" }

func (n *network) is(w wanted) bool { return reflect.DeepEqual(w, n.config) }

func (n *network) port(worker int, w Wire) *port {
	d := n.devices[worker]
	return &port{fd: d.FD(), of: &n.overlay, net: n, dev: d, wire: w}
}

func (n *network) age() {
	n.table.Sweep(n.table.SweepSlots())
	if n.repin > 0 {
		n.repin--
		n.forgetPinned()
	}
}

// forgetPinned takes back what pinned peers taught before they were, or while
// frames were in flight.
func (n *network) forgetPinned() {
	n.table.Flush(func(e fdb.Entry) bool { return e.Origin == fdb.Learned && n.peers.Pinned(e.Peer) })
}

func (n *network) idle() uint32 { return uint32(n.config.Ageing / time.Second) }

func (n *network) fills(peer netip.Addr) encap.UnderlayMTU {
	return n.config.MTU.VXLANUnderlay(peer.Is6())
}

// forget drops the entries behind peers that are gone.
func (n *network) forget(gone []fdb.PeerID) {
	behind := make(map[fdb.PeerID]bool, len(gone))
	for _, id := range gone {
		behind[id] = true
	}
	n.table.Flush(func(e fdb.Entry) bool { return behind[e.Peer] })
}

// endpoint is where networks and tunnels receive: a UDP port of the underlay
// address or of a multicast group, or IP-in-IP packets.
type endpoint struct {
	port  uint16     // 0 = IP-in-IP
	group netip.Addr // invalid = the underlay address
}

// protocol4 is where every tunnel receives.
var protocol4 = endpoint{}

// endpoints are the network's.
func (n *network) endpoints() []endpoint {
	own := []endpoint{{port: n.config.Port}}
	if n.config.Group.IsValid() {
		own = append(own, endpoint{n.config.Port, n.config.Group})
	}
	return own
}

// policy is what the road needs of a network's configuration, published whole.
type policy struct {
	vni          encap.VNI
	port         uint16
	mac          encap.MAC
	mtu          encap.OverlayMTU
	ttl          uint8
	tos          TOS
	df           bool
	learning     bool
	plain        bool
	uso          bool // the TAP takes UDP superframes
	vlanDrop     bool
	reservedDrop bool
	group        netip.Addr
	clampMSS     bool
	pinned       bool           // some peer may send only from its own MACs
	stormy       bool           // something bounds what is flooded
	probe        time.Duration  // between two probes to a peer; 0 = none
	storm        rates          // of the network
	peerStorm    rates          // of each peer
	neighbors    *fdb.Neighbors // ARP and ND are answered from; nil = not at all
}

func newPolicy(c *Network, uso bool, neighbors *fdb.Neighbors) *policy {
	return &policy{
		uso: uso,
		vni: c.VNI, port: c.Port, mac: c.MAC, mtu: c.MTU,
		ttl: c.TTL, tos: c.TOS, df: c.DF, learning: c.Learning, plain: c.Plain,
		vlanDrop: c.VLANDrop, reservedDrop: c.ReservedDrop, group: c.Group,
		neighbors: neighbors,
		probe:     c.Probe,
		clampMSS:  c.ClampMSS,
		pinned:    len(c.Pins) > 0,
		stormy:    c.Storm.any() || c.PeerStorm.any(),
		storm:     c.Storm.rates(), peerStorm: c.PeerStorm.rates(),
	}
}

// outer is the outer header's octet for a frame whose inner packet has tos.
func (t TOS) outer(tos uint8, isIP bool) uint8 {
	outer := t.Value
	if t.Inherit {
		outer = 0
		if isIP {
			outer = tos
		}
	}
	outer &^= encap.ECNMask
	if isIP {
		outer |= encap.EncapECN(tos)
	}
	return outer
}

// catalogue finds networks for the threads; it is immutable and published
// whole.
type catalogue struct {
	members  []member
	networks []*network
	byPort   map[uint16]map[encap.VNI]*network
	tunnels  []*tunnel
	byPeer   map[netip.Addr]*tunnel // by each listed peer's address
	open     []*tunnel              // that admit others than listed peers
}

func newCatalogue(members []member) *catalogue {
	c := &catalogue{
		members: members,
		byPort:  make(map[uint16]map[encap.VNI]*network),
		byPeer:  make(map[netip.Addr]*tunnel),
	}
	for _, m := range members {
		switch m := m.(type) {
		case *network:
			c.networks = append(c.networks, m)
			vnis := c.byPort[m.config.Port]
			if vnis == nil {
				vnis = make(map[encap.VNI]*network)
				c.byPort[m.config.Port] = vnis
			}
			vnis[m.config.VNI] = m
		case *tunnel:
			c.tunnels = append(c.tunnels, m)
			for _, r := range m.config.Routes {
				c.byPeer[r.Peer] = m
			}
			if a := m.config.Admit; a.Any || len(a.Prefixes) > 0 {
				c.open = append(c.open, m)
			}
		}
	}
	return c
}
