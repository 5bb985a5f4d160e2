package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watch keeps the bridges' forwarding tables honest until ctx ends, and then
// returns nil.
//
// The TAP's port learns like any other, so that a bridge does not flood what is
// bound for remote containers to all local ones. The price is that a container
// that moves here without speaking would be sent to its old host until the
// bridge's entry ages (300 s). So when a port joins the bridge, or its link
// comes up, the entries learned on the TAP's port are flushed: the next frame to
// the container is flooded and finds it. For the move away nothing is needed:
// the kernel flushes a leaving port's entries itself (br_del_if).
//
// It must run in the network namespace of the thread that called New.
func (h *Host) Watch(ctx context.Context) error {
	for {
		err := h.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// ENOBUFS, mostly: events were lost. What joined meanwhile is found by
		// starting over.
		h.log.Debug("link events interrupted, subscribing again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// port is what Watch knows of a link.
type port struct {
	master  int
	running bool
}

// watch subscribes once and follows the events until the subscription breaks.
func (h *Host) watch(ctx context.Context) error {
	events := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	var failed error
	err := netlink.LinkSubscribeWithOptions(events, done, netlink.LinkSubscribeOptions{
		ErrorCallback:          func(err error) { failed = err },
		ReceiveBufferSize:      1 << 20,
		ReceiveBufferForceSize: false,
	})
	if err != nil {
		close(done)
		return fmt.Errorf("subscribing to link events: %w", err)
	}
	defer func() {
		close(done)
		for range events { // until the subscriber has gone
		}
	}()

	// After the subscription, so that no join falls between.
	ports := make(map[int]port)
	links, err := h.links()
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	for _, l := range links {
		ports[l.Attrs().Index] = portOf(l)
		h.checkMTU(l)
	}
	h.flushAll()

	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-events:
			if !ok {
				return failed
			}
			h.event(ports, u)
		}
	}
}

// event follows one link event and flushes when it is a port that joined.
func (h *Host) event(ports map[int]port, u netlink.LinkUpdate) {
	// The bridge tells of its ports in messages of its own (AF_BRIDGE), beside
	// the link's. One source suffices.
	if u.IfInfomsg.Family != unix.AF_UNSPEC {
		return
	}
	index := int(u.Index)
	if u.Header.Type == unix.RTM_DELLINK {
		delete(ports, index)
		return
	}
	was, is := ports[index], portOf(u.Link)
	ports[index] = is
	joined := is.master != 0 && (is.master != was.master || is.running && !was.running)
	if !joined {
		return
	}
	if is.master != was.master {
		h.checkMTU(u.Link)
	}
	for _, n := range h.on(is.master) {
		if n.Device != u.Attrs().Name {
			h.flush(n, h.log.With("joined", u.Attrs().Name))
		}
	}
}

func portOf(l netlink.Link) port {
	a := l.Attrs()
	return port{master: a.MasterIndex, running: a.RawFlags&unix.IFF_RUNNING != 0}
}

// on returns the networks set up on a bridge.
func (h *Host) on(bridge int) []Network {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Network
	for _, n := range h.networks {
		if n.bridge != 0 && n.bridge == bridge {
			all = append(all, n.Network)
		}
	}
	return all
}

// flushAll flushes the TAPs' ports of every bridge.
func (h *Host) flushAll() {
	h.mu.Lock()
	var all []Network
	for _, n := range h.networks {
		if n.bridge != 0 {
			all = append(all, n.Network)
		}
	}
	h.mu.Unlock()
	for _, n := range all {
		h.flush(n, h.log)
	}
}

// flush flushes the port of n's TAP.
func (h *Host) flush(n Network, log *slog.Logger) {
	log = log.With("network", n.Name, "device", n.Device)
	l, err := h.nl.LinkByName(n.Device)
	if err == nil {
		err = h.flushPort(l.Attrs().Index)
	}
	switch {
	case err == nil:
		log.Debug("bridge entries of the TAP's port flushed")
	case gone(err), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		// The TAP is gone or no port any more (br_setlink): nothing to flush.
		log.Debug("no bridge port to flush", "err", err)
	default:
		log.Warn("cannot flush the bridge entries of the TAP's port: a container that moved here may be unreachable until they age", "err", err)
	}
}

// checkMTU names a port that sends frames larger than its network carries: the
// TAP's MTU does not set the containers'.
func (h *Host) checkMTU(l netlink.Link) {
	for _, n := range h.on(l.Attrs().MasterIndex) {
		if l.Attrs().Name != n.Device && l.Attrs().MTU > int(n.MTU) {
			h.log.Warn("a bridge port's MTU is above the network's: its larger frames will be dropped; set the MTU of both its ends",
				"network", n.Name, "port", l.Attrs().Name, "mtu", l.Attrs().MTU, "want", n.MTU)
		}
	}
}
