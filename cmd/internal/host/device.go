package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// The engine's TAPs and TUNs outlive the process (TUNSETPERSIST): after a crash
// their bridges, addresses, routes and containers find the same link again. They
// are marked first, so that none is left without an owner.

// markDevice makes the engine's device this run's. One that another run lives by,
// which opened it, stays that run's, and so does one that another program named.
func (h *Host) markDevice(l netlink.Link) error {
	if _, ok := l.(*netlink.Tuntap); !ok {
		return nil // another device was put in its place
	}
	if l.Attrs().Alias == "" {
		return h.mark(deviceMark, l)
	}
	return h.adopt(deviceMark, l)
}

// Adopt decides about a device that must be opened: whether one of its name
// stands that a run which is gone left, or the one that this run takes the place
// of, and that is as it should be. One of theirs that is of another kind is
// removed. multi and vnet are IFF_MULTI_QUEUE and IFF_VNET_HDR of tun(4).
func (h *Host) Adopt(name string, tun, multi, vnet bool) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, err := h.nl.LinkByName(name)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the device %s: %w", name, err)
	}
	if left, err := h.left(l); !left {
		return false, err
	}
	mode, want := netlink.TuntapMode(netlink.TUNTAP_MODE_TAP), netlink.TuntapFlag(0)
	if tun {
		mode = netlink.TUNTAP_MODE_TUN
	}
	if multi {
		want |= netlink.TUNTAP_MULTI_QUEUE
	}
	if vnet {
		want |= netlink.TUNTAP_VNET_HDR
	}
	const kind = netlink.TUNTAP_MULTI_QUEUE | netlink.TUNTAP_VNET_HDR
	if t, ok := l.(*netlink.Tuntap); ok && t.Mode == mode && t.Flags&kind == want {
		level := slog.LevelInfo
		if h.ours(deviceMark, l) && h.before == "" {
			level = slog.LevelDebug // the engine of this very run was opened again
		}
		h.log.Log(context.Background(), level, "going on with the device that a daemon before left", "device", name)
		return true, nil
	}
	h.log.Warn("the device that a daemon before left is of another kind: made again", "device", name)
	if err := h.nl.LinkDel(l); err != nil && !gone(err) {
		return false, fmt.Errorf("removing the device %s, which a daemon before left: %w", name, err)
	}
	return false, nil
}

// left reports whether the link is a device of a run that is gone, or of the one
// that this run takes the place of.
func (h *Host) left(l netlink.Link) (bool, error) {
	if h.ours(deviceMark, l) {
		return true, nil
	}
	return h.orphan(deviceMark, l)
}

// Settle ends the succession to a daemon before: what it had set up and this run
// has not is removed, and its links that go on are this run's from now on. It is
// called once all is set up. It goes on after an error and returns all of them.
func (h *Host) Settle() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := []error{h.undoWhere(func(s *Step) bool { return s.inherited })}
	used := make(map[string]bool)
	for _, n := range h.networks {
		used[n.Device] = true
		used[n.Bridge] = true
	}
	links, err := h.links()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("looking for what a daemon before left: %w", err))...)
	}
	for _, l := range links {
		for _, mark := range []string{deviceMark, bridgeMark} {
			errs = append(errs, h.settle(mark, l, used[l.Attrs().Name]))
		}
	}
	h.before = ""
	if err := errors.Join(errs...); err != nil {
		return err
	}
	h.undo.head.Before = nil
	h.undo.rewrite(h.undo.steps)
	return nil
}

// settle makes a link of a daemon before this run's, or removes it.
func (h *Host) settle(mark string, l netlink.Link, used bool) error {
	left, err := h.orphan(mark, l)
	if err != nil {
		return err
	}
	if !left && !h.ours(mark, l) {
		return nil
	}
	if !used {
		if id, _ := strings.CutPrefix(l.Attrs().Alias, mark); left && !slices.Contains(h.undo.head.Before, id) {
			return nil // another daemon's, whose next run goes on with it
		}
		h.log.Info("removing what a daemon before left and the configuration does not name", "device", l.Attrs().Name)
		if err := h.nl.LinkDel(l); err != nil && !gone(err) {
			return fmt.Errorf("removing %s, which a daemon before left: %w", l.Attrs().Name, err)
		}
		return nil
	}
	if l.Attrs().Alias == mark+h.owner.id {
		return nil
	}
	return h.mark(mark, l)
}
