// Package host prepares this host for the engine's TAPs by rtnetlink: bridges,
// their ports, addresses, routes, neighbours, queue lengths. It follows what becomes of
// them and puts back what somebody removed. What it makes it removes again;
// what it finds it leaves.
//
// All calls act in the network namespace of the thread that called New.
package host

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/repeat"
	"overtap/encap"
)

// txQueueLen is the TAP's transmit queue in frames. The tun driver drops
// silently at a full ring, and its default of 500 is a fraction of one batch
// of superframes.
const txQueueLen = 10000

// Network is what this host shall look like around one TAP or TUN.
type Network struct {
	Name      string           // for errors and log lines
	TUN       bool             // the device is a TUN, which carries IPv4 alone and joins no bridge
	Device    string           // the TAP or TUN, opened by the engine and still down
	MTU       encap.OverlayMTU // of the TAP and of a bridge made for it
	Bridge    string           // created when missing; "" = none
	MaxMACs   uint32           // that a bridge made for it learns at most; 0 = no bound
	Ports     []string         // further devices for that bridge
	PortsTake bool             // move the ports' addresses and routes to the bridge
	Addresses []netip.Prefix   // on the bridge, or on the TAP where there is none
	Routes    []Route          // by way of the same; their next hops are taken to be on the link
	Neighbors []Neighbor       // of the same, permanent
}

// Host remembers what it made, so that Undo removes exactly that. Its methods
// may be called from any goroutine.
type Host struct {
	nl       *netlink.Handle
	raw      map[int]*nl.SocketHandle // for what the handle has no call for
	log      *slog.Logger
	limit    repeat.Limiter // of lines that may come again and again
	underlay netip.Addr
	owner    owner
	before   string // id of the daemon that this one takes the place of; "" = none
	// ancestors are the runs by the same journal that died and left something.
	ancestors []string
	journal   journal
	marks     marks

	mu         sync.Mutex
	undo       []Step            // in the order things were made
	done       map[string]int    // index in undo, by what it is
	networks   map[string]placed // set up, by name
	made       map[string]bool   // bridges of this run, or adopted from one that crashed
	loans      map[string]*loan  // by port
	routes     []Route           // plain ones
	routeLinks map[int]bool      // indexes of the links they lead over
}

// placed is a network that was set up, with the indexes of its links: a link
// that was made anew has another.
type placed struct {
	Network
	tap    int
	bridge int                      // 0 = none
	ports  map[string]int           // by name
	known  map[netip.Addr]encap.MAC // its neighbours
}

// pass is one comparison of the host with what it shall look like.
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

		networks:   make(map[string]placed),
		done:       make(map[string]int),
		made:       make(map[string]bool),
		loans:      make(map[string]*loan),
		routeLinks: make(map[int]bool),
	}, nil
}

// Close closes the sockets. It undoes nothing: what was made and not undone is
// the next run's to adopt.
func (h *Host) Close() {
	h.journal.close()
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
	if n.TUN && p.first() {
		// Before it comes up: it would solicit routers that no tunnel carries.
		if err := h.noIPv6Addresses(tap); err != nil {
			return err
		}
	}
	if tap.Attrs().MTU != int(n.MTU) {
		if err := h.nl.LinkSetMTU(tap, int(n.MTU)); err != nil {
			return fmt.Errorf("setting the MTU of %s to %d: %w", n.Device, n.MTU, err)
		}
		p.did("the MTU of %s", n.Device)
	}
	if tap.Attrs().TxQLen != txQueueLen {
		if err := h.nl.LinkSetTxQLen(tap, txQueueLen); err != nil {
			return fmt.Errorf("setting the queue length of %s to %d: %w", n.Device, txQueueLen, err)
		}
		p.did("the queue length of %s", n.Device)
	}

	carrier := tap // of the addresses
	if n.Bridge != "" {
		if carrier, err = h.bridge(n, p); err != nil {
			return err
		}
		if err := h.enslaveTAP(n, tap, carrier, p); err != nil {
			return err
		}
	}
	if index := carrier.Attrs().Index; carrier.Attrs().RawFlags&unix.IFF_UP == 0 && (index == p.was.bridge || index == p.was.tap) {
		// Somebody took it down, and with it go routes and IPv6 addresses.
		return fmt.Errorf("%s is down: set it up", carrier.Attrs().Name)
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
	return errors.Join(h.ports(n, carrier, p), h.networkNeighbors(n, carrier, p), h.networkRoutes(n, carrier, p))
}

// enslaveTAP makes the TAP a port of the bridge.
func (h *Host) enslaveTAP(n Network, tap, bridge netlink.Link, p *pass) error {
	a := tap.Attrs()
	if a.MasterIndex == bridge.Attrs().Index {
		return nil
	}
	// Before it comes up: a port that is only a wire to the overlay must
	// not solicit routers and report multicast groups as a host of its own.
	if err := h.noIPv6Addresses(tap); err != nil {
		return err
	}
	if err := h.nl.LinkSetMaster(tap, bridge); err != nil {
		return fmt.Errorf("making %s a port of %s: %w", a.Name, bridge.Attrs().Name, err)
	}
	p.did("the port %s of %s", a.Name, bridge.Attrs().Name)
	return h.keepMTU(n, bridge)
}

// noIPv6Addresses keeps the kernel from giving the link addresses by itself.
func (h *Host) noIPv6Addresses(l netlink.Link) error {
	err := h.nl.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE)
	// inet6_validate_link_af: this kernel, or a device of this MTU, has no IPv6.
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turning IPv6 addresses off on %s: %w", l.Attrs().Name, err)
	}
	return nil
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
		h.keep(back)
		return nil
	}
	if want != a.MTU {
		h.remember(back)
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

// Undo removes what Setup and SetupRoutes made, the last first, and forgets it.
// It goes on after an error and returns all of them. What was done to a TAP goes
// with the TAP, when the engine closes it.
func (h *Host) Undo() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, s := range slices.Backward(h.undo) {
		// What somebody else removed meanwhile is as it shall be.
		if err := h.undoes(&s); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("%s: %w", s.what(), err))
		}
	}
	errs = append(errs, h.journal.remove())
	h.undo, h.routes = nil, nil
	clear(h.done)
	clear(h.networks)
	clear(h.made)
	clear(h.loans)
	return errors.Join(errs...)
}

// gone reports whether err says that the object does not exist.
func gone(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ESRCH)
}
