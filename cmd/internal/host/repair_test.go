package host

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// furnished is a network with everything, set up and watched.
func furnished(t *testing.T, h *Host) Network {
	t.Helper()
	newTAP(t, "vx-blue")
	wire(t)
	n := blue()
	n.MAC = 0x0242_0000_00aa
	n.Ports = []string{"lan0"}
	n.Routes = []Route{route("172.246.0.0/24", "198.51.100.9"), route("2001:db8:9::/64", "2001:db8:1::9")}
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	return n
}

// stands checks that all of n is in place.
func stands(t *testing.T, n Network) {
	t.Helper()
	br := link(t, n.Bridge).Attrs()
	for _, port := range append([]string{n.Device}, n.Ports...) {
		if a := link(t, port).Attrs(); a.MasterIndex != br.Index || a.RawFlags&unix.IFF_UP == 0 {
			t.Errorf("port %s: %+v", port, a)
		}
	}
	if br.RawFlags&unix.IFF_UP == 0 {
		t.Error("the bridge is down")
	}
	if got := strings.Join(global(t, n.Bridge), " "); got != "198.51.100.1/24 2001:db8:1::1/64" {
		t.Errorf("addresses: %s", got)
	}
	wantRoutes(t, "172.246.0.0/24 via 198.51.100.9 dev br-blue proto 79", "2001:db8:9::/64 via 2001:db8:1::9 dev br-blue proto 79")
}

// awaitAffected waits until an event touched the subject.
func awaitAffected(t *testing.T, h *Host, subject string) {
	t.Helper()
	eventually(t, "an event of "+subject, func() bool { return slices.Contains(h.Affected(), subject) })
}

// settle waits until no event comes any more.
func settle(h *Host) {
	for quiet := 0; quiet < 10; quiet++ {
		if len(h.Affected()) > 0 {
			quiet = 0
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Whatever another program removes is seen by an event, put back, and named.
func TestRepair(t *testing.T) {
	for name, tc := range map[string]struct {
		harm func(t *testing.T)
		want []string
	}{
		"an address":       {func(t *testing.T) { delAddr(t, "br-blue", "2001:db8:1::1/64") }, []string{"the address 2001:db8:1::1/64 of br-blue"}},
		"a route":          {func(t *testing.T) { delRoute(t, "2001:db8:9::/64") }, []string{"the route 2001:db8:9::/64 via 2001:db8:1::9"}},
		"the bridge's MAC": {func(t *testing.T) { setMAC(t, "br-blue", "02:00:00:00:00:01") }, []string{"the MAC of br-blue"}},
		"the TAP's MAC":    {func(t *testing.T) { setMAC(t, "vx-blue", "02:00:00:00:00:01") }, []string{"the MAC of vx-blue"}},
		"the TAP's place":  {func(t *testing.T) { noMaster(t, "vx-blue") }, []string{"the port vx-blue of br-blue"}},
		"a port":           {func(t *testing.T) { noMaster(t, "lan0") }, []string{"the port lan0 of br-blue"}},
		"the bridge": {func(t *testing.T) { delLink(t, "br-blue") }, []string{
			"the bridge br-blue", "the port vx-blue of br-blue", "the address 198.51.100.1/24 of br-blue", "the address 2001:db8:1::1/64 of br-blue",
			"the port lan0 of br-blue", "the route 172.246.0.0/24 via 198.51.100.9", "the route 2001:db8:9::/64 via 2001:db8:1::9"}},
		"its MTU": {func(t *testing.T) {
			if err := netlink.LinkSetMTU(link(t, "br-blue"), 1400); err != nil {
				t.Fatal(err)
			}
		}, []string{"the MTU of br-blue"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			n := furnished(t, h)
			startWatch(t, h)
			settle(h)
			tc.harm(t)
			awaitAffected(t, h, "blue")
			put, err := h.Repair("blue")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(put, tc.want) {
				t.Errorf("put back %q\nwant %q", put, tc.want)
			}
			stands(t, n)
			if put, err := h.Repair("blue"); len(put) > 0 || err != nil {
				t.Errorf("again: %q, %v", put, err)
			}
			if err := h.Undo(); err != nil {
				t.Error(err)
			}
			absent(t, "br-blue")
			wantRoutes(t)
		})
	}
}

// A bridge that was found is left to who made it, and used again when it is
// back.
func TestRepairFoundBridge(t *testing.T) {
	h := newHost(t)
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	n := furnished(t, h)
	startWatch(t, h)
	settle(h)
	delLink(t, "br-blue")
	awaitAffected(t, h, "blue")
	put, err := h.Repair("blue")
	check(t, err, []string{"network blue: the bridge br-blue is gone, which was not made here"})
	absent(t, "br-blue")
	if len(put) > 0 {
		t.Errorf("put %q", put)
	}
	settle(h)
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	awaitAffected(t, h, "blue")
	if _, err := h.Repair("blue"); err != nil {
		t.Fatal(err)
	}
	stands(t, n)
	if err := h.Undo(); err != nil {
		t.Error(err)
	}
	if a := link(t, "br-blue").Attrs(); a.RawFlags&unix.IFF_UP != 0 {
		t.Error("the bridge that came back down is left up")
	}
	if got := global(t, "br-blue"); len(got) > 0 {
		t.Errorf("addresses left: %q", got)
	}
}

// What another program takes down stays down. What the kernel drops meanwhile comes
// back with it.
func TestDownStaysDown(t *testing.T) {
	h := newHost(t)
	n := furnished(t, h)
	startWatch(t, h)
	settle(h)
	for _, dev := range []string{"vx-blue", "lan0", "br-blue"} {
		setDown(t, dev)
		awaitAffected(t, h, "blue")
		_, err := h.Repair("blue")
		if dev == "br-blue" {
			check(t, err, []string{"br-blue is down: set it up with `ip link set br-blue up`"})
		} else if err != nil {
			t.Error(err)
		}
		if link(t, dev).Attrs().RawFlags&unix.IFF_UP != 0 {
			t.Errorf("%s was set up again", dev)
		}
		settle(h)
		setUp(t, dev)
		awaitAffected(t, h, "blue")
	}
	put, err := h.Repair("blue")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(put, "the route 172.246.0.0/24 via 198.51.100.9") {
		t.Errorf("put %q", put)
	}
	stands(t, n)
}

// A port that is unplugged and plugged in again is a port again.
func TestPortComesBack(t *testing.T) {
	h := newHost(t)
	n := furnished(t, h)
	startWatch(t, h)
	settle(h)
	delLink(t, "lan0")
	awaitAffected(t, h, "blue")
	_, err := h.Repair("blue")
	check(t, err, []string{"looking for the port lan0"})
	settle(h)
	newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
	awaitAffected(t, h, "blue")
	if _, err := h.Repair("blue"); err != nil {
		t.Fatal(err)
	}
	stands(t, n)
}

// A network whose TAP is gone waits for the engine.
func TestRepairWithoutTAP(t *testing.T) {
	h := newHost(t)
	furnished(t, h)
	delLink(t, "vx-blue")
	delAddr(t, "br-blue", "198.51.100.1/24")
	if put, err := h.Repair("blue"); len(put) > 0 || err != nil {
		t.Errorf("put %q, %v", put, err)
	}
}

func TestRepairPlainRoutes(t *testing.T) {
	h := newHost(t)
	wire(t, "192.0.2.1/24", "2001:db8::1/64")
	if err := h.SetupRoutes(plain); err != nil {
		t.Fatal(err)
	}
	startWatch(t, h)
	settle(h)

	delRoute(t, "172.246.0.0/24")
	awaitAffected(t, h, PlainRoutes)
	if put, err := h.Repair(PlainRoutes); err != nil || !slices.Equal(put, []string{"the route 172.246.0.0/24 via 192.0.2.2"}) {
		t.Errorf("put %q, %v", put, err)
	}
	wantRoutes(t, ours, ours6)
	settle(h)

	// Who else takes the prefix keeps it.
	delRoute(t, "172.246.0.0/24")
	addRoute(t, netlink.Route{}, "172.246.0.0/24", "192.0.2.9", "lan0")
	if _, err := h.Repair(PlainRoutes); err == nil {
		t.Error("no error for a route that another program took")
	}
	if err := h.Undo(); err != nil {
		t.Error(err)
	}
	wantRoutes(t, "172.246.0.0/24 via 192.0.2.9 dev lan0 proto 4")
}

// The kernel sends no event for an IPv4 route that goes with its link
// (fib_sync_down_dev): the link's own event does.
func TestPlainRouteGoesWithItsLink(t *testing.T) {
	h := newHost(t)
	// Without an IPv6 address, whose own event would do too.
	lan0 := wire(t, "192.0.2.1/24")
	setDown(t, "lan0")
	if err := netlink.LinkSetIP6AddrGenMode(lan0, nl.IN6_ADDR_GEN_MODE_NONE); err != nil {
		t.Fatal(err)
	}
	setUp(t, "lan0")
	if err := h.SetupRoutes(plain[:1]); err != nil {
		t.Fatal(err)
	}
	startWatch(t, h)
	settle(h)
	setDown(t, "lan0")
	awaitAffected(t, h, PlainRoutes)
	_, err := h.Repair(PlainRoutes)
	check(t, err, []string{"172.246.0.0/24 via 192.0.2.2 cannot be reached"})
	settle(h)
	setUp(t, "lan0")
	awaitAffected(t, h, PlainRoutes)
	if _, err := h.Repair(PlainRoutes); err != nil {
		t.Error(err)
	}
	wantRoutes(t, ours)
}

// Events of links that are none of ours touch nothing; those of the underlay
// are reported.
func TestAffected(t *testing.T) {
	h := newHost(t)
	plan(t)
	furnished(t, h)
	if _, err := h.Underlay(underlay, ""); err != nil {
		t.Fatal(err)
	}
	startWatch(t, h)
	settle(h)
	drainChanged(h)
	newLink(t, &netlink.Veth{LinkAttrs: named("c1"), PeerName: "c2"})
	addAddr(t, "c1", "203.0.113.1/24")
	setUp(t, "c1")
	addRoute(t, netlink.Route{}, "10.0.0.0/8", "203.0.113.9", "c1")
	for range 20 {
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-h.Changed():
		t.Errorf("touched: %q", h.Affected())
	default:
	}
	for what, do := range map[string]func(){
		"underlay down":    func() { setDown(t, "u1") },
		"its address gone": func() { delAddr(t, "u1", "192.0.2.1/24") },
		"its MTU": func() {
			if err := netlink.LinkSetMTU(link(t, "u1"), 1400); err != nil {
				t.Fatal(err)
			}
		},
	} {
		drainChanged(h)
		do()
		eventually(t, what, func() bool { return len(h.Changed()) > 0 })
	}
}

func drainChanged(h *Host) {
	select {
	case <-h.Changed():
	default:
	}
}

func noMaster(t *testing.T, name string) {
	t.Helper()
	if err := netlink.LinkSetNoMaster(link(t, name)); err != nil {
		t.Fatal(err)
	}
}

func delLink(t *testing.T, name string) {
	t.Helper()
	if err := netlink.LinkDel(link(t, name)); err != nil {
		t.Fatal(err)
	}
}
