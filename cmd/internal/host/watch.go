package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// wantsRoutes reports whether there is any route to follow. Without one the
// events of a router's table, which may be many, are not asked for.
//
// The caller holds mu.
func (h *Host) wantsRoutes() bool {
	if h.ofWays.Load() {
		return true
	}
	if len(h.routes) > 0 {
		return true
	}
	for _, n := range h.networks {
		if len(n.Routes) > 0 {
			return true
		}
	}
	return false
}

// wantsNeighbors reports whether there is any neighbour to follow: theirs are
// the most events of all.
// The caller holds mu.
func (h *Host) wantsNeighbors() bool {
	for _, n := range h.networks {
		if len(n.Neighbors) > 0 {
			return true
		}
	}
	return false
}

// watched is what Watch subscribed to, beside links and addresses.
type watched struct {
	on                bool
	routes, neighbors bool
	more              chan struct{} // delivers when something else is wanted
}

// watchMore has Watch subscribe again when what was set up meanwhile needs other
// events. The caller holds mu.
func (h *Host) watchMore() {
	w := &h.watched
	if !w.on || (w.routes || !h.wantsRoutes()) && (w.neighbors || !h.wantsNeighbors()) {
		return
	}
	w.on = false // once is enough
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// subscription is one to the kernel's events. A channel that closes is the end
// of it.
type subscription struct {
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate // nil = not asked for
	neighs chan netlink.NeighUpdate // nil = not asked for
	failed chan error               // why, at the end
	done   chan struct{}
}

// eventBuffer is what a socket may hold of events, in bytes, before it loses
// some (ENOBUFS).
const eventBuffer = 1 << 20

func subscribe(routes, neighbors bool) (_ *subscription, err error) {
	s := &subscription{failed: make(chan error, 1), done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	fail := func(err error) {
		select {
		case s.failed <- err:
		default:
		}
	}
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(links, s.done, netlink.LinkSubscribeOptions{
		ErrorCallback: fail, ReceiveBufferSize: eventBuffer,
	}); err != nil {
		return nil, fmt.Errorf("subscribing to link events: %w", err)
	}
	s.links = links
	if err := netlink.AddrSubscribeWithOptions(addrs, s.done, netlink.AddrSubscribeOptions{
		ErrorCallback: fail, ReceiveBufferSize: eventBuffer,
	}); err != nil {
		return nil, fmt.Errorf("subscribing to address events: %w", err)
	}
	s.addrs = addrs
	if routes {
		updates := make(chan netlink.RouteUpdate, 64)
		if err := netlink.RouteSubscribeWithOptions(updates, s.done, netlink.RouteSubscribeOptions{
			ErrorCallback: fail, ReceiveBufferSize: eventBuffer,
		}); err != nil {
			return nil, fmt.Errorf("subscribing to route events: %w", err)
		}
		s.routes = updates
	}
	if neighbors {
		updates := make(chan netlink.NeighUpdate, 64)
		if err := netlink.NeighSubscribeWithOptions(updates, s.done, netlink.NeighSubscribeOptions{
			ErrorCallback: fail, ReceiveBufferSize: eventBuffer,
		}); err != nil {
			return nil, fmt.Errorf("subscribing to neighbour events: %w", err)
		}
		s.neighs = updates
	}
	return s, nil
}

// end closes the sockets and waits for those who read them.
func (s *subscription) end() {
	close(s.done)
	drain(s.links)
	drain(s.addrs)
	drain(s.routes)
	drain(s.neighs)
}

func drain[T any](c chan T) {
	if c == nil {
		return
	}
	for range c {
	}
}

// why is what ended the subscription.
func (s *subscription) why() error {
	select {
	case err := <-s.failed:
		return err
	default:
		return errors.New("a subscription ended")
	}
}

// follow hands on events until the subscription breaks or ctx ends.
func (h *Host) follow(ctx context.Context, s *subscription, ports map[int]port) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-s.links:
			if !ok {
				return s.why()
			}
			h.event(ports, u)
		case u, ok := <-s.addrs:
			if !ok {
				return s.why()
			}
			h.addressChanged(u)
		case u, ok := <-s.routes:
			if !ok {
				return s.why()
			}
			h.routeChanged(u)
		case u, ok := <-s.neighs:
			if !ok {
				return s.why()
			}
			h.neighborChanged(u)
		case <-h.watched.more:
			return errors.New("other events are wanted by now")
		}
	}
}

// Watch follows the kernel's events until ctx ends, and then returns nil. What
// they touch is returned by Changed and Affected; what they say of the ports of a
// bridge is acted upon here (flush.go).
//
// It must run in the network namespace of the thread that called New.
func (h *Host) Watch(ctx context.Context) error {
	for {
		err := h.watchOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		// ENOBUFS, mostly: events were lost. What happened meanwhile is found by
		// starting over.
		h.log.Debug("events interrupted, subscribing again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// watchOnce subscribes once and follows the events until that breaks.
func (h *Host) watchOnce(ctx context.Context) error {
	h.mu.Lock()
	w := &h.watched
	w.on, w.routes, w.neighbors = true, h.wantsRoutes(), h.wantsNeighbors()
	routes, neighbors := w.routes, w.neighbors
	h.mu.Unlock()
	s, err := subscribe(routes, neighbors)
	if err != nil {
		return err
	}
	defer s.end()

	// After the subscription, so that nothing falls between.
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
	h.mu.Lock()
	all := h.subjects()
	h.mu.Unlock()
	h.markOverlays()
	h.marks.mark(all...)
	return h.follow(ctx, s, ports)
}
