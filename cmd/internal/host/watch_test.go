package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// learn puts a learned entry on a port, as a frame through it would.
func learn(t *testing.T, port netlink.Link, mac string, state int) {
	t.Helper()
	err := netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE,
		State: state, Flags: unix.NTF_MASTER, HardwareAddr: parseMAC(t, mac),
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
}

// on reports whether the bridge has the MAC on the port.
func on(t *testing.T, port netlink.Link, mac string) bool {
	t.Helper()
	list, err := netlink.NeighList(port.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.HardwareAddr.String() == mac {
			return true
		}
	}
	return false
}

func startWatch(t *testing.T, h *Host) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Watch does not end with its context")
		}
	})
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

// A container that moves here without speaking is not sent to its old host:
// when its port joins, or comes up, what the bridge learned on the TAP's port
// is forgotten, and only that.
func TestPortJoinFlushes(t *testing.T) {
	const moved, pinned, local = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
	h := newHost(t)
	newTAP(t, "vx-blue")
	old := newLink(t, &netlink.Veth{LinkAttrs: named("old0"), PeerName: "old1"})
	n := blue()
	n.Ports = []string{"old0"}
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link(t, "old1")); err != nil {
		t.Fatal(err)
	}
	tap, br := link(t, "vx-blue"), link(t, "br-blue")
	learn(t, tap, moved, unix.NUD_REACHABLE)
	startWatch(t, h)
	eventually(t, "the flush at the start", func() bool { return !on(t, tap, moved) })
	time.Sleep(100 * time.Millisecond) // old0's carrier event

	veth := newLink(t, &netlink.Veth{LinkAttrs: named("new0"), PeerName: "new1"})
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a port joins", func() error { return netlink.LinkSetMaster(veth, br) }},
		{"the port's link comes up", func() error {
			return errors.Join(netlink.LinkSetUp(veth), netlink.LinkSetUp(link(t, "new1")))
		}},
	} {
		learn(t, tap, moved, unix.NUD_REACHABLE)
		learn(t, tap, pinned, unix.NUD_NOARP)
		learn(t, old, local, unix.NUD_REACHABLE)
		time.Sleep(50 * time.Millisecond)
		if !on(t, tap, moved) {
			t.Fatalf("before %s: flushed without a reason", step.what)
		}
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the flush after "+step.what, func() bool { return !on(t, tap, moved) })
		if !on(t, tap, pinned) {
			t.Errorf("after %s: an entry set by hand is gone", step.what)
		}
		if !on(t, old, local) {
			t.Errorf("after %s: an entry of another port is gone", step.what)
		}
	}
}

// Neither the TAP's own joining nor a port of a bridge that is not ours
// flushes.
func TestOthersDoNotFlush(t *testing.T) {
	const mac = "02:00:00:00:00:01"
	h := newHost(t)
	newTAP(t, "vx-blue")
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	tap := link(t, "vx-blue")
	learn(t, tap, mac, unix.NUD_REACHABLE)
	startWatch(t, h)
	eventually(t, "the flush at the start", func() bool { return !on(t, tap, mac) })

	learn(t, tap, mac, unix.NUD_REACHABLE)
	if err := errors.Join(netlink.LinkSetDown(tap), netlink.LinkSetUp(tap)); err != nil {
		t.Fatal(err)
	}
	learn(t, tap, mac, unix.NUD_REACHABLE) // the kernel flushes a port that goes down
	other := newLink(t, &netlink.Bridge{LinkAttrs: named("other")})
	veth := newLink(t, &netlink.Veth{LinkAttrs: named("new0"), PeerName: "new1"})
	for _, err := range []error{
		netlink.LinkSetMaster(veth, other), netlink.LinkSetUp(other),
		netlink.LinkSetUp(veth), netlink.LinkSetUp(link(t, "new1")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	if !on(t, tap, mac) {
		t.Error("flushed")
	}
}
