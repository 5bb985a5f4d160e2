package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

const (
	macFour encap.MAC = 0x0242_0a00_0104
	macFive encap.MAC = 0x0242_0a00_0105
)

func neighbor(a string, m encap.MAC) Neighbor {
	return Neighbor{Address: netip.MustParseAddr(a), MAC: m}
}

// foundBridge makes a bridge that is up and keeps its MAC and one IPv4 address:
// with another MAC (neigh_changeaddr), or without any address (fib_disable_ip),
// the kernel forgets all neighbours.
func foundBridge(t *testing.T) {
	t.Helper()
	a := named("br-blue")
	a.HardwareAddr = hardwareAddr(0x0242_0000_0001)
	newLink(t, &netlink.Bridge{LinkAttrs: a})
	setUp(t, "br-blue")
	addAddr(t, "br-blue", "203.0.113.1/24")
}

// known are the neighbours of the tests.
var known = []Neighbor{neighbor("198.51.100.4", macFour), neighbor("2001:db8:1::4", macFour), neighbor("198.51.100.5", macFive)}

// withNeighbors is network blue with all of them.
func withNeighbors(bridge string) Network {
	n := blue()
	n.Bridge = bridge
	n.Neighbors = known
	return n
}

func carrier(bridge string) string {
	if bridge == "" {
		return "vx-blue"
	}
	return bridge
}

// permanent lists the permanent neighbours of a device.
func permanent(t *testing.T, h *Host, dev string) []string {
	t.Helper()
	all, err := h.neighborsOf(link(t, dev).Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for a, e := range all {
		if e.permanent {
			out = append(out, fmt.Sprintf("%s %s proto %d", a, e.mac, e.protocol))
		}
	}
	slices.Sort(out)
	return out
}

func wantPermanent(t *testing.T, h *Host, dev string, want ...string) {
	t.Helper()
	if got := permanent(t, h, dev); !slices.Equal(got, want) {
		t.Errorf("permanent neighbours of %s:\n%s\nwant:\n%s", dev, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var allKnown = []string{
	"198.51.100.4 02:42:0a:00:01:04 proto 79", "198.51.100.5 02:42:0a:00:01:05 proto 79", "2001:db8:1::4 02:42:0a:00:01:04 proto 79",
}

// setNeigh makes another program's entry; without a state it is permanent.
func setNeigh(t *testing.T, dev, a string, m encap.MAC, state int) {
	t.Helper()
	if state == 0 {
		state = unix.NUD_PERMANENT
	}
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link(t, dev).Attrs().Index, IP: netip.MustParseAddr(a).AsSlice(), HardwareAddr: hardwareAddr(m), State: state,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func delNeigh(t *testing.T, dev, a string) {
	t.Helper()
	err := netlink.NeighDel(&netlink.Neigh{LinkIndex: link(t, dev).Attrs().Index, IP: netip.MustParseAddr(a).AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNeighbors(t *testing.T) {
	for _, bridge := range []string{"br-blue", ""} {
		t.Run("bridge "+bridge, func(t *testing.T) {
			h := newHost(t)
			newTAP(t, "vx-blue")
			n := withNeighbors(bridge)
			for range 2 {
				if err := h.Setup(n); err != nil {
					t.Fatal(err)
				}
				wantPermanent(t, h, carrier(bridge), allKnown...)
			}
			if put, err := h.Repair("blue"); len(put) > 0 || err != nil {
				t.Errorf("put back %q, %v, although all is there", put, err)
			}
			if err := h.Undo(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// On a bridge that was found what is ours goes at the end, and nothing else;
// what the kernel has found out itself gives way.
func TestNeighborsOnAFoundBridge(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	foundBridge(t)
	setNeigh(t, "br-blue", "198.51.100.4", macFour, 0)              // by hand, and as it should be
	setNeigh(t, "br-blue", "198.51.100.5", macFour, unix.NUD_STALE) // heard
	setNeigh(t, "br-blue", "198.51.100.9", macFive, 0)              // not configured
	if err := h.Setup(withNeighbors("br-blue")); err != nil {
		t.Fatal(err)
	}
	four, nine := "198.51.100.4 02:42:0a:00:01:04 proto 0", "198.51.100.9 02:42:0a:00:01:05 proto 0"
	wantPermanent(t, h, "br-blue", four, allKnown[1], nine, allKnown[2])
	delNeigh(t, "br-blue", "198.51.100.5")
	setNeigh(t, "br-blue", "198.51.100.5", macFive, 0) // another program's by now
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	wantPermanent(t, h, "br-blue", four, "198.51.100.5 02:42:0a:00:01:05 proto 0", nine)
}

// What a run that crashed left is known by its protocol and corrected.
func TestNeighborsOfACrashedRun(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	foundBridge(t)
	n := withNeighbors("br-blue")
	n.Neighbors = []Neighbor{neighbor("198.51.100.4", macFive), neighbor("2001:db8:1::4", macFour)}
	crashedHost(t, n)
	wantPermanent(t, h, "br-blue", "198.51.100.4 02:42:0a:00:01:05 proto 79", allKnown[2])
	if err := h.Setup(withNeighbors("br-blue")); err != nil {
		t.Fatal(err)
	}
	wantPermanent(t, h, "br-blue", allKnown...)
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	wantPermanent(t, h, "br-blue")
}

// Another program's entry of another MAC is not replaced: Preflight says so, and
// so does the set-up.
func TestNeighborTaken(t *testing.T) {
	h := newHost(t)
	p := plan(t)
	newTAP(t, "vx-blue")
	foundBridge(t)
	setNeigh(t, "br-blue", "198.51.100.5", macFour, 0)
	before := permanent(t, h, "br-blue")
	want := []string{"network blue: ", "the neighbour 198.51.100.5 lladdr 02:42:0a:00:01:05 would replace one that is there already, " +
		"lladdr 02:42:0a:00:01:04 nud permanent: remove that with `ip neigh del 198.51.100.5 dev br-blue`"}
	n := withNeighbors("br-blue")
	p.Networks = []Network{n}
	p.Networks[0].Device = "vx-free"
	check(t, h.Preflight(p), want)
	check(t, h.Setup(n), want)
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	wantPermanent(t, h, "br-blue", before...)
}

// Who deletes or changes one marks its network, and Repair puts it back; what
// else happens to neighbours touches nothing.
func TestNeighborsRepaired(t *testing.T) {
	for _, bridge := range []string{"br-blue", ""} {
		t.Run("bridge "+bridge, func(t *testing.T) {
			h := newHost(t)
			newTAP(t, "vx-blue")
			n := withNeighbors(bridge)
			if err := h.Setup(n); err != nil {
				t.Fatal(err)
			}
			startWatch(t, h)
			settle(h)
			dev := carrier(bridge)
			delNeigh(t, dev, "2001:db8:1::4")
			awaitAffected(t, h, "blue")
			if put, err := h.Repair("blue"); err != nil || !slices.Equal(put, []string{"the neighbour 2001:db8:1::4 of " + dev}) {
				t.Errorf("put back %q, %v", put, err)
			}
			setNeigh(t, dev, "198.51.100.4", macFive, 0)
			awaitAffected(t, h, "blue")
			if put, err := h.Repair("blue"); err != nil || !slices.Equal(put, []string{"the neighbour 198.51.100.4 of " + dev}) {
				t.Errorf("put back %q, %v", put, err)
			}
			wantPermanent(t, h, dev, allKnown...)

			setNeigh(t, dev, "198.51.100.77", macFive, unix.NUD_STALE)
			time.Sleep(50 * time.Millisecond)
			if got := h.Affected(); len(got) > 0 {
				t.Errorf("a neighbour that is not ours touches %q", got)
			}
		})
	}
}
