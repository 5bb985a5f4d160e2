package dataplane

import (
	"errors"
	"net/netip"
	"reflect"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// netBase is what a network and a tunnel at work have in common. The threads
// read peers and their own device and tallies; everything else is control's.
type netBase struct {
	name     string
	kind     Kind
	vni      encap.VNI // of a network, as udpPort is
	udpPort  uint16
	peers    *fdb.Peers
	devices  []netio.Device // by worker
	counters []counters     // by thread
	lost     atomic.Bool
	gso      gsoTaken // by the device
	keeps    bool     // the device is persistent, by our own doing
	// singly: the device refused offloads, and gets none for a while.
	singly  atomic.Bool
	refusal gsoRefusal

	leaving []fdb.PeerID                     // of peers gone since the last tick
	retired []fdb.PeerID                     // of peers gone before it
	paths   map[netip.Addr]encap.UnderlayMTU // by peer, as the owner was notified

	routesSeen int // peers that routeLook has looked at
}

func (o *netBase) base() *netBase { return o }

// transport finds the transport header in a frame of the device.
func (o *netBase) transport(frame []byte) (encap.Transport, bool) {
	if o.kind == KindIPIP {
		return encap.FindPacketTransport(frame)
	}
	return encap.FindTransport(frame)
}

// close closes the device, which goes with it.
func (o *netBase) close() error {
	var err error
	if o.keeps && !o.lost.Load() {
		if err = o.devices[0].Persist(false); errors.Is(err, unix.EBADFD) {
			err = nil // it was deleted from outside
		}
	}
	return errors.Join(err, o.leave())
}

// leave closes the queues; a device that persists stays.
func (o *netBase) leave() error {
	var errs []error
	for _, d := range o.devices {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// member is a network or a tunnel at work, as control sees it.
type member interface {
	base() *netBase
	// is reports whether the member is as wanted already.
	is(wanted) bool
	// admits is an error when the member cannot become w while it runs.
	admits(w wanted) error
	change(w wanted) error
	endpoints() []endpoint
	// device is the name of the device, and whether it has no vnet header.
	device() (plain bool, name string)
	// port is how the tx thread of a worker sees it.
	pollTarget(worker int, w netio.Conn) *pollTarget
	// age is upkeep, once a tick.
	age()
	// forget drops what was learned from peers that are gone.
	forget(gone []fdb.PeerID)
	// fills is the least path MTU to the peer that is no limit.
	fills(peer netip.Addr) encap.UnderlayMTU
	// idle is after how many seconds of silence a learned peer goes; 0 = never.
	idle() uint32
}

// wanted is a Network or a Tunnel as it should be.
type wanted interface {
	label() string // its name
	kind() string
	open(e *Engine) (member, error) // ready to be published
}

// network is a Network at work. The threads read policy and table also.
type network struct {
	netBase
	policy atomic.Pointer[policy]
	table  *fdb.Table
	repin  int // ticks for which what pinned peers taught is taken back

	probesRefused atomic.Uint64 // the prober's

	_      [64]byte // what every storm writes to shares no line with what all read
	storms storms
	_      [64]byte
}

func (c Network) label() string { return c.Name }
func (c Network) kind() string  { return "network" }

func (n *network) is(w wanted) bool { return reflect.DeepEqual(w, *n.config()) }

// config is the network as it was applied.
func (n *network) config() *Network { return &n.policy.Load().Network }

func (n *network) pollTarget(worker int, w netio.Conn) *pollTarget {
	d := n.devices[worker]
	return &pollTarget{fd: d.FD(), of: &n.netBase, net: n, dev: d, conn: w}
}

func (n *network) device() (plain bool, name string) { return n.config().Plain, n.config().Device }

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

func (n *network) idle() uint32 { return uint32(n.config().Ageing / time.Second) }

func (n *network) fills(peer netip.Addr) encap.UnderlayMTU {
	return n.config().MTU.VXLANUnderlay(peer.Is6())
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
	own := []endpoint{{port: n.config().Port}}
	if n.config().Group.IsValid() {
		own = append(own, endpoint{n.config().Port, n.config().Group})
	}
	return own
}

// policy is a network as it was applied, with what the paths need of it beside; it is
// immutable and published whole.
type policy struct {
	Network
	listed    bool           // nothing is learned, and there are static entries
	pinned    bool           // some peer may send only from its own MACs
	stormy    bool           // something bounds what is flooded
	storm     rates          // of the network
	peerStorm rates          // of each peer
	neighbors *fdb.Neighbors // ARP and ND are answered from; nil = not at all
}

func newPolicy(c *Network, neighbors *fdb.Neighbors) *policy {
	return &policy{
		Network:   *c,
		neighbors: neighbors,
		listed:    !c.Learning && len(c.FDB) > 0,
		pinned:    c.pins(),
		stormy:    c.Storm.any() || c.PeerStorm.any(),
		storm:     c.Storm.rates(), peerStorm: c.PeerStorm.rates(),
	}
}

// keeps reports whether a frame to that address does not cross the overlay.
func (p *policy) keeps(dst encap.MAC) bool {
	return dst.IsBridgeControl() && (!p.BridgeControl || dst == encap.ProbeMAC)
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

// snapshot finds networks for the threads; it is immutable and published
// whole.
type snapshot struct {
	members  []member
	networks []*network
	byPort   map[uint16]map[encap.VNI]*network
	tunnels  []*tunnel
	byPeer   map[netip.Addr]*tunnel // by each listed peer's address
	open     []*tunnel              // that admit others than listed peers
	ingress  *ingress               // what is no peer's; nil = nothing is refused
}

func newSnapshot(members []member, rules *ingress) *snapshot {
	c := &snapshot{
		members: members,
		ingress: rules,
		byPort:  make(map[uint16]map[encap.VNI]*network),
		byPeer:  make(map[netip.Addr]*tunnel),
	}
	for _, m := range members {
		switch m := m.(type) {
		case *network:
			c.networks = append(c.networks, m)
			vnis := c.byPort[m.config().Port]
			if vnis == nil {
				vnis = make(map[encap.VNI]*network)
				c.byPort[m.config().Port] = vnis
			}
			vnis[m.config().VNI] = m
		case *tunnel:
			c.tunnels = append(c.tunnels, m)
			for _, r := range m.config.Load().Routes {
				c.byPeer[r.Peer] = m
			}
			if a := m.config.Load().Admit; a.Any || len(a.Prefixes) > 0 {
				c.open = append(c.open, m)
			}
		}
	}
	return c
}
