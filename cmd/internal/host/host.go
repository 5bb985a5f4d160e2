// Package host prepares this host for the engine's TAPs by rtnetlink: bridges,
// their ports, addresses, routes, neighbours, queue lengths. It follows what becomes of
// them and puts back what was removed from outside. What it makes it removes again;
// what it finds it leaves.
//
// All calls act in the network namespace of the thread that called New.
package host

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/repeat"
	"overtap/encap"
)

// Network is what this host must look like around one TAP or TUN.
type Network struct {
	Name      string           // for errors and log lines
	TUN       bool             // the device is a TUN, which carries IPv4 alone and joins no bridge
	Device    string           // the TAP or TUN, opened by the engine and still down
	MAC       encap.MAC        // of a TAP; 0 = any
	MTU       encap.OverlayMTU // of the TAP and of a bridge made for it
	Bridge    string           // created when missing; "" = none
	MaxMACs   uint32           // that a bridge made for it learns at most; 0 = no bound
	Ports     []string         // further devices for that bridge
	PortsTake bool             // move the ports' addresses and routes to the bridge
	Addresses []netip.Prefix   // on the bridge, or on the TAP where there is none
	Routes    []Route          // by way of the same; their next hops are taken to be on the link
	Neighbors []Neighbor       // of the same, permanent
	// BridgeControl has the bridge forward frames to 01:80:c2:00:00:0X.
	BridgeControl bool
}

// Host remembers what it made, so that Undo removes exactly that. Its methods
// may be called from any goroutine.
type Host struct {
	ofWays   atomic.Bool // the underlay is found by the ways to the peers
	nl       *netlink.Handle
	raw      map[int]*nl.SocketHandle // for what the handle has no call for
	log      *slog.Logger
	limit    repeat.Limiter // of lines that may come again and again
	underlay netip.Addr
	owner    owner
	before   string // id of the daemon that this one takes the place of; "" = none
	marks    marks

	watched watched // its more needs no mu

	mu         sync.Mutex
	undo       undoLog
	networks   map[string]placed           // set up, by name
	made       map[string]bool             // bridges of this run, or adopted from one that crashed
	moved      map[string]*movedAddresses  // by port
	bridgeMACs map[string]net.HardwareAddr // of bridges that were found, by name
	routes     []Route                     // plain ones
	overlays   map[int]bool                // indexes of the devices that Overlays found last
	routeLinks map[int]bool                // indexes of the links they lead over
	members    map[int]member              // links that were seen as ports of a network's bridge, by index
}

// placed is a network that was set up, with the indexes of its links: a link
// that was made again has another.
type placed struct {
	Network
	tap    int
	bridge int                      // 0 = none
	ports  map[string]int           // by name
	known  map[netip.Addr]encap.MAC // its neighbours
	// ownQueue: the kernel has no noqueue, so the TAP keeps its queue length.
	ownQueue bool
}

// pass is one comparison of the host with what it must look like.
type pass struct {
	was placed   // after the pass before; without links for the first
	now placed   // a link is entered once it was brought up
	put []string // what was made or set
}

func newPass(n Network, was placed) *pass {
	p := &pass{was: was, now: was}
	p.now.Network, p.now.ports = n, maps.Clone(was.ports)
	if p.now.ports == nil {
		p.now.ports = make(map[string]int)
	}
	p.now.known = make(map[netip.Addr]encap.MAC, len(n.Neighbors))
	for _, one := range n.Neighbors {
		p.now.known[one.Address] = one.MAC
	}
	return p
}

func (p *pass) first() bool { return p.was.tap == 0 }

func (p *pass) did(format string, args ...any) { p.put = append(p.put, fmt.Sprintf(format, args...)) }

// New opens a netlink socket in the calling thread's network namespace. The
// underlay address takes part in the MACs of bridges made here.
func New(underlay netip.Addr, log *slog.Logger) (*Host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	raw, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// A kernel before 4.20 does not have it, and answers with more than was asked for.
	_ = unix.SetsockoptInt(raw.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	o, err := newOwner()
	if err != nil {
		h.Close()
		raw.Close()
		return nil, err
	}
	return &Host{
		nl:       h,
		raw:      map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: raw}},
		log:      log,
		underlay: underlay,
		owner:    o,
		marks:    newMarks(),
		undo:     undoLog{journal: journal{log: log, head: journalHead{Owner: o.id, Boot: bootID()}}},

		networks:   make(map[string]placed),
		made:       make(map[string]bool),
		moved:      make(map[string]*movedAddresses),
		bridgeMACs: make(map[string]net.HardwareAddr),
		routeLinks: make(map[int]bool),
		overlays:   make(map[int]bool),
		members:    make(map[int]member),
		watched:    watched{more: make(chan struct{}, 1)},
	}, nil
}

// Close closes the sockets. It undoes nothing: what was made and not undone is
// the next run's to adopt.
func (h *Host) Close() {
	h.undo.close()
	h.limit.Stop()
	h.owner.close()
	h.nl.Close()
	h.raw[unix.NETLINK_ROUTE].Close()
}

// Setup makes the host look as n says and brings the TAP up last. It compares
// before it sets: on a host that looks so already it changes nothing. After an
// error, Undo removes what the failed call made; a network that was set up
// before stays one, for Repair.
func (h *Host) Setup(n Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := newPass(n, h.networks[n.Name])
	err := h.setup(p)
	if err != nil {
		err = fmt.Errorf("network %s: %w", n.Name, err)
		if p.first() {
			return err
		}
		h.marks.mark(n.Name) // Repair goes on from here
	}
	h.networks[n.Name] = p.now
	h.addOverlay(p.now)
	h.watchMore()
	return err
}

// setup makes one pass.
func (h *Host) setup(p *pass) error {
	n := p.now.Network
	tap, err := h.nl.LinkByName(n.Device)
	if err != nil {
		return fmt.Errorf("looking for the device %s: %w", n.Device, err)
	}
	if err := h.markDevice(tap); err != nil {
		return err
	}
	if h.ours(deviceMark, tap) {
		// Before it comes up: a port that is only a wire to the overlay must not
		// solicit routers and report multicast groups as a host of its own, and a
		// tunnel carries none of that.
		if err := h.shutIPv6(tap, n.Bridge == "" && !n.TUN && anyIPv6(n.Addresses), p); err != nil {
			return err
		}
	}
	if err := h.queue(tap, p); err != nil {
		return err
	}

	if err := h.keepMAC(tap, n.MAC, p); err != nil {
		return err
	}

	carrier := tap // of the addresses
	if n.Bridge != "" {
		if carrier, err = h.bridge(n, p); err != nil {
			return err
		}
	}
	// After the bridge was read, whose MTU may follow its ports'.
	resized := tap.Attrs().MTU != int(n.MTU)
	if resized {
		if err := h.nl.LinkSetMTU(tap, int(n.MTU)); err != nil {
			return fmt.Errorf("setting the MTU of %s to %d: %w", n.Device, n.MTU, err)
		}
		p.did("the MTU of %s", n.Device)
	}
	if n.Bridge != "" {
		if err := h.enslaveTAP(n, tap, carrier, resized, p); err != nil {
			return err
		}
	}
	if index := carrier.Attrs().Index; carrier.Attrs().RawFlags&unix.IFF_UP == 0 && (index == p.was.bridge || index == p.was.tap) {
		// It was taken down from outside, and with it go routes and IPv6 addresses.
		name := carrier.Attrs().Name
		return fmt.Errorf("%s is down: set it up with `ip link set %s up`", name, name)
	}
	for _, a := range n.Addresses {
		if err := h.address(carrier, a, p); err != nil {
			return err
		}
	}
	if p.was.tap != tap.Attrs().Index {
		if err := h.up(tap); err != nil {
			return err
		}
		p.now.tap = tap.Attrs().Index
	}
	return errors.Join(h.ports(n, carrier, p), h.bridgeControl(n, tap, carrier, p), h.networkNeighbors(n, carrier, p), h.networkRoutes(n, carrier, p))
}

// enslaveTAP makes the TAP, whose MTU may just have changed, a port of the bridge.
func (h *Host) enslaveTAP(n Network, tap, bridge netlink.Link, resized bool, p *pass) error {
	a := tap.Attrs()
	if a.MasterIndex == bridge.Attrs().Index {
		if p.first() && bytes.Equal(a.HardwareAddr, bridge.Attrs().HardwareAddr) {
			// An earlier daemon let the bridge take it.
			if err := h.pinMAC(tap, bridge); err != nil {
				return err
			}
		}
		if resized {
			return h.keepMTU(n, bridge)
		}
		return nil
	}
	if err := h.pinMAC(tap, bridge); err != nil {
		return err
	}
	if err := h.nl.LinkSetMaster(tap, bridge); err != nil {
		return fmt.Errorf("making %s a port of %s: %w", a.Name, bridge.Attrs().Name, err)
	}
	p.did("the port %s of %s", a.Name, bridge.Attrs().Name)
	return h.keepMTU(n, bridge)
}

// keepMTU undoes what the TAP does to the MTU of a bridge that was found: it
// falls to the least of its ports' (br_mtu_auto_adjust). A bridge that the
// underlay runs over must not, or the TAP's would be derived from its own.
func (h *Host) keepMTU(n Network, bridge netlink.Link) error {
	a := bridge.Attrs()
	if h.ours(bridgeMark, bridge) {
		return nil
	}
	want := h.takenMTU(n)
	list, err := h.addresses(bridge)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", a.Name, err)
	}
	for _, x := range list {
		if p, ok := prefixOf(x.IPNet); ok && p.Addr() == h.underlay.WithZone("") {
			want = max(want, a.MTU)
		}
	}
	now, err := h.nl.LinkByIndex(a.Index)
	if err != nil {
		return fmt.Errorf("looking for the bridge %s: %w", a.Name, err)
	}
	back := Step{Do: resetMTU, Link: a.Name, Index: a.Index, MTU: a.MTU}
	if want <= now.Attrs().MTU {
		h.undo.keep(back)
		return nil
	}
	if want != a.MTU {
		h.undo.remember(back)
	}
	if err := h.nl.LinkSetMTU(bridge, want); err != nil {
		return fmt.Errorf("setting the MTU of %s to %d: %w", a.Name, want, err)
	}
	return nil
}

// up brings a link up that is not.
func (h *Host) up(l netlink.Link) error {
	if l.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	if err := h.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("bringing %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// Undo removes what Setup and SetupRoutes made, the engine's devices first and the
// bridges last, and forgets it. It goes on after an error and returns all of them.
func (h *Host) Undo() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, err := h.removal()
	errs := []error{err, h.remove(r.devices)}
	errs = append(errs, h.undoSteps(func(s *Step) bool { return !r.covers(s) }))
	errs = append(errs, h.remove(r.bridges), h.undo.remove())
	h.undo.clear()
	h.routes = nil
	clear(h.networks)
	clear(h.made)
	clear(h.moved)
	return errors.Join(errs...)
}

// gone reports whether err says that the object does not exist.
func gone(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ESRCH)
}
