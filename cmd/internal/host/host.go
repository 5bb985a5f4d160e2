// Package host prepares this host for the engine's TAPs by rtnetlink: bridges,
// their ports, addresses, queue lengths. What it makes it removes again; what
// it finds it leaves.
//
// All calls act in the network namespace of the thread that called New.
package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// txQueueLen is the TAP's transmit queue in frames. The tun driver drops
// silently at a full ring, and its default of 500 is a fraction of one batch
// of superframes.
const txQueueLen = 10000

// Network is what this host shall look like around one TAP.
type Network struct {
	Name      string           // for errors and log lines
	Device    string           // the TAP, opened by the engine and still down
	MTU       encap.OverlayMTU // of the TAP and of a bridge made for it
	Bridge    string           // created when missing; "" = none
	Ports     []string         // further devices for that bridge
	Addresses []netip.Prefix   // on the bridge, or on the TAP where there is none
}

// Host remembers what it made, so that Undo removes exactly that. Its methods
// may be called from any goroutine.
type Host struct {
	nl       *netlink.Handle
	raw      map[int]*nl.SocketHandle // for what the handle has no call for
	log      *slog.Logger
	underlay netip.Addr

	mu       sync.Mutex
	undo     []step            // in the order things were made
	networks map[string]placed // set up, by name
	done     map[string]bool   // keys of undo
}

// placed is a network that was set up.
type placed struct {
	Network
	bridge int // index of its bridge; 0 = none
}

// step is one thing to undo.
type step struct {
	what string
	do   func() error
}

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
	return &Host{
		nl:       h,
		raw:      map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: raw}},
		log:      log,
		underlay: underlay,
		networks: make(map[string]placed),
		done:     make(map[string]bool),
	}, nil
}

// Close closes the netlink sockets. It undoes nothing.
func (h *Host) Close() {
	h.nl.Close()
	h.raw[unix.NETLINK_ROUTE].Close()
}

// Setup makes the host look as n says and brings the TAP up last. It compares
// before it sets: on a host that looks so already it changes nothing. After an
// error, Undo removes what the failed call made.
func (h *Host) Setup(n Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	bridge, err := h.setup(n)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	h.networks[n.Name] = placed{n, bridge}
	return nil
}

// setup returns the index of the bridge, 0 for none.
func (h *Host) setup(n Network) (int, error) {
	tap, err := h.nl.LinkByName(n.Device)
	if err != nil {
		return 0, fmt.Errorf("looking for the TAP %s: %w", n.Device, err)
	}
	if tap.Attrs().MTU != int(n.MTU) {
		if err := h.nl.LinkSetMTU(tap, int(n.MTU)); err != nil {
			return 0, fmt.Errorf("setting the MTU of %s to %d: %w", n.Device, n.MTU, err)
		}
	}
	if tap.Attrs().TxQLen != txQueueLen {
		if err := h.nl.LinkSetTxQLen(tap, txQueueLen); err != nil {
			return 0, fmt.Errorf("setting the queue length of %s to %d: %w", n.Device, txQueueLen, err)
		}
	}

	carrier, bridge := tap, 0 // carrier of the addresses
	if n.Bridge != "" {
		if carrier, err = h.bridge(n); err != nil {
			return 0, err
		}
		if err := h.enslaveTAP(tap, carrier); err != nil {
			return 0, err
		}
		bridge = carrier.Attrs().Index
	}
	for _, a := range n.Addresses {
		if err := h.address(carrier, a, n.Bridge != ""); err != nil {
			return 0, err
		}
	}
	if err := h.up(tap); err != nil {
		return 0, err
	}
	for _, p := range n.Ports {
		if err := h.port(p, carrier); err != nil {
			return 0, err
		}
	}
	return bridge, nil
}

// enslaveTAP makes the TAP a port of the bridge.
func (h *Host) enslaveTAP(tap, bridge netlink.Link) error {
	a := tap.Attrs()
	if a.MasterIndex == bridge.Attrs().Index {
		return nil
	}
	// Before it comes up: a port that is only a wire to the overlay must
	// not solicit routers and report multicast groups as a host of its own.
	err := h.nl.LinkSetIP6AddrGenMode(tap, nl.IN6_ADDR_GEN_MODE_NONE)
	// inet6_validate_link_af: this kernel, or a device of this MTU, has no IPv6.
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turning IPv6 addresses off on %s: %w", a.Name, err)
	}
	if err := h.nl.LinkSetMaster(tap, bridge); err != nil {
		return fmt.Errorf("making %s a port of %s: %w", a.Name, bridge.Attrs().Name, err)
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

// remember puts a step on the list of what Undo does, once per key: what is
// set up a second time was made only once.
func (h *Host) remember(what string, do func() error) {
	if h.done[what] {
		return
	}
	h.done[what] = true
	h.undo = append(h.undo, step{what, do})
}

// Undo removes what Setup made, the last first, and forgets it. It goes on
// after an error and returns all of them. What was done to a TAP goes with the
// TAP, when the engine closes it.
func (h *Host) Undo() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, s := range slices.Backward(h.undo) {
		// What somebody else removed meanwhile is as it shall be.
		if err := s.do(); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	h.undo = nil
	clear(h.done)
	clear(h.networks)
	return errors.Join(errs...)
}

// gone reports whether err says that the object does not exist.
func gone(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}
