package host

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// masks wants group_fwd_mask of the bridge and of its ports to be these.
func masks(t *testing.T, h *Host, bridge uint16, ports map[string]uint16) {
	t.Helper()
	if got := *link(t, "br-blue").(*netlink.Bridge).GroupFwdMask; got != bridge {
		t.Errorf("group_fwd_mask of the bridge is %#x, want %#x", got, bridge)
	}
	for name, want := range ports {
		if got, err := h.portForwards(link(t, name).Attrs().Index); err != nil || got != want {
			t.Errorf("group_fwd_mask of %s is %#x (%v), want %#x", name, got, err, want)
		}
	}
}

// joinBlue adds a port to br-blue.
func joinBlue(t *testing.T, name string) {
	t.Helper()
	l := newLink(t, &netlink.Veth{LinkAttrs: named(name), PeerName: name + "p"})
	if err := netlink.LinkSetMaster(l, link(t, "br-blue")); err != nil {
		t.Fatal(err)
	}
}

// wantRepaired wants Repair of blue to put these back.
func wantRepaired(t *testing.T, h *Host, want ...string) {
	t.Helper()
	if put, err := h.Repair("blue"); err != nil || !slices.Equal(put, want) {
		t.Errorf("put back %q, %v, want %q", put, err, want)
	}
}

// A bridge that is made here forwards bridge control where a network passes it:
// from every port, also one that joins later; a change takes it back, and what was
// left by a crash.
func TestBridgeControl(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	n := blue()
	check(t, h.Setup(n), nil)
	joinBlue(t, "c1")
	masks(t, h, 0, map[string]uint16{"vx-blue": 0, "c1": 0})

	n.BridgeControl = true
	check(t, h.Change(n), nil)
	masks(t, h, bridgeForwards, map[string]uint16{"vx-blue": portForwards, "c1": portForwards})

	joinBlue(t, "c2")
	wantRepaired(t, h)
	masks(t, h, bridgeForwards, map[string]uint16{"c2": portForwards})
	check(t, h.setBridge(link(t, "br-blue"), unix.IFLA_BR_GROUP_FWD_MASK, []byte{0, 0}), nil)
	wantRepaired(t, h, "group_fwd_mask of br-blue")
	masks(t, h, bridgeForwards, nil)
	wantRepaired(t, h)

	n.BridgeControl = false
	check(t, h.Change(n), nil)
	masks(t, h, 0, map[string]uint16{"vx-blue": 0, "c1": 0, "c2": 0})
}

// Of two networks on one bridge one that passes suffices.
func TestBridgeControlShared(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	newTAP(t, "vx-red")
	n, red := blue(), blue()
	red.Name, red.Device, red.Addresses, red.Routes = "red", "vx-red", nil, nil
	red.BridgeControl = true
	check(t, h.Setup(n), nil)
	check(t, h.Setup(red), nil)
	all := map[string]uint16{"vx-blue": portForwards, "vx-red": portForwards}
	masks(t, h, bridgeForwards, all)
	wantRepaired(t, h)
	masks(t, h, bridgeForwards, all)
	red.BridgeControl = false
	check(t, h.Change(red), nil)
	masks(t, h, 0, map[string]uint16{"vx-blue": 0, "vx-red": 0})
}

// On a bridge that was found only the TAP is ours.
func TestBridgeControlOfAFoundBridge(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	mask := uint16(0x4000)
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue"), GroupFwdMask: &mask})
	joinBlue(t, "c1")
	n := blue()
	n.BridgeControl = true
	check(t, h.Setup(n), nil)
	masks(t, h, mask, map[string]uint16{"vx-blue": portForwards, "c1": 0})
	n.BridgeControl = false
	check(t, h.Change(n), nil)
	masks(t, h, mask, map[string]uint16{"vx-blue": 0, "c1": 0})
}

// What a run that was killed left is taken back by the next, where that does not
// pass bridge control.
func TestBridgeControlAfterACrash(t *testing.T) {
	newTAP(t, "vx-blue")
	n := blue()
	n.BridgeControl = true
	crashedHost(t, n)
	h := newHost(t)
	masks(t, h, bridgeForwards, map[string]uint16{"vx-blue": portForwards})
	n.BridgeControl = false
	check(t, h.Setup(n), nil)
	masks(t, h, 0, map[string]uint16{"vx-blue": 0})
}
