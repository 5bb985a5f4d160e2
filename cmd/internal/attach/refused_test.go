package attach

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/encap"
)

// TestUndone gives up at every point of an attachment, each step's end among
// them, and compares the host and the container with what they were.
func TestUndone(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	c, ns := container(t, lab, "c1")
	inside := inNamespace(t, c)
	lo, err := inside.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := inside.LinkSetDown(lo); err != nil {
		t.Fatal(err)
	}
	host, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	before, beforeInside := state(t, host), state(t, inside)
	r := Request{Network: "blue", Target: "c1", Addresses: prefixes("198.51.100.2/24", "2001:db8::2/64"),
		Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}}
	steps := len((&job{}).steps())
	for n := 0; ; n++ {
		_, err := a.Attach(&brittle{t.Context(), n}, blue, ns, r)
		if err == nil {
			if n < steps {
				t.Errorf("given up at %d points only, of %d steps", n, steps)
			}
			break
		}
		if !errors.Is(err, errGone) {
			t.Fatalf("point %d: %v", n, err)
		}
		if after := state(t, host); after != before {
			t.Fatalf("point %d: the host before:\n%s\nafter:\n%s", n, before, after)
		}
		if after := state(t, inside); after != beforeInside {
			t.Fatalf("point %d: the container before:\n%s\nafter:\n%s", n, beforeInside, after)
		}
	}
}

// TestRefused has everything that cannot be, and that it changes nothing.
func TestRefused(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	holder, nsHolder := container(t, lab, "holder")
	c, ns := container(t, lab, "c1")
	attach(t, a, blue, nsHolder, Request{Target: "holder", MAC: 0x0242_0000_0001,
		Addresses: prefixes("198.51.100.9/24", "2001:db8::9/64"),
		Gateways:  []netip.Addr{netip.MustParseAddr("198.51.100.1")}})
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	uts, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer uts.Close()
	host, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	before, inside, inHolder := state(t, host), state(t, inNamespace(t, c)), state(t, inNamespace(t, holder))

	small, elsewhere := blue, blue
	small.MTU, elsewhere.Bridge = 1279, "br-none"
	good := prefixes("198.51.100.2/24", "2001:db8::2/64")
	gateway := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, tc := range []struct {
		name string
		n    Network
		ns   *os.File
		r    Request
		want string
	}{
		{"taken IPv4", blue, ns, Request{Addresses: prefixes("198.51.100.9/24")},
			"the address 198.51.100.9 is taken, by 02:42:00:00:00:01: choose another"},
		{"taken IPv6", blue, ns, Request{Addresses: prefixes("198.51.100.2/24", "2001:db8::9/64")},
			"the address 2001:db8::9 is taken, by 02:42:00:00:00:01: choose another"},
		{"taken, with its MAC", blue, ns, Request{MAC: 0x0242_0000_0001, Addresses: prefixes("198.51.100.9/24")},
			"the address 198.51.100.9 is taken, by 02:42:00:00:00:01"},
		{"address inside", blue, nsHolder, Request{Addresses: prefixes("198.51.100.9/32")}, "it has the address 198.51.100.9 already"},
		{"name", blue, nsHolder, Request{IfName: "eth0", Addresses: good}, "it has a device eth0 already: choose another name with --ifname"},
		{"route", blue, nsHolder, Request{Addresses: good, Gateways: gateway("198.51.100.1")},
			"it has a default route already, by way of 198.51.100.1: leave the gateway 198.51.100.1 out"},
		{"bridge", elsewhere, ns, Request{Addresses: good}, "looking for the network's bridge br-none: Link not found"},
		{"own", blue, own, Request{Addresses: good}, "it is in the host's own network namespace"},
		{"file", blue, file, Request{Addresses: good}, "it is no network namespace"},
		{"uts", blue, uts, Request{Addresses: good}, "it is no network namespace"},
		{"no address", blue, ns, Request{}, "want at least one address"},
		{"twice", blue, ns, Request{Addresses: prefixes("198.51.100.2/24", "198.51.100.2/25")}, "the address 198.51.100.2 is named twice"},
		{"subnet", blue, ns, Request{Addresses: prefixes("198.51.100.0/24")}, "198.51.100.0/24 is the address of the subnet itself"},
		{"broadcast", blue, ns, Request{Addresses: prefixes("198.51.101.255/23")}, "198.51.101.255/23 is the broadcast address"},
		{"multicast", blue, ns, Request{Addresses: prefixes("ff02::1/64")}, "cannot be a container's address"},
		{"mapped", blue, ns, Request{Addresses: []netip.Prefix{{}}}, "cannot be a container's address"},
		{"small MTU", small, ns, Request{Addresses: good}, "the network's MTU of 1279 is too small for the IPv6 address 2001:db8::2"},
		{"long name", blue, ns, Request{IfName: "eth0123456789012", Addresses: good}, "cannot be an interface's name"},
		{"pattern", blue, ns, Request{IfName: "eth%d", Addresses: good}, "cannot be an interface's name"},
		{"group MAC", blue, ns, Request{MAC: encap.BroadcastMAC, Addresses: good}, "ff:ff:ff:ff:ff:ff cannot be a device's MAC"},
		{"the TAP's MAC", blue, ns, Request{MAC: blue.MAC, Addresses: good}, "is that of the network's own device"},
		{"far gateway", blue, ns, Request{Addresses: good, Gateways: gateway("203.0.113.1")}, "the gateway 203.0.113.1 is in the subnet of no address"},
		{"own gateway", blue, ns, Request{Addresses: good, Gateways: gateway("198.51.100.2")}, "is the container's own address"},
		{"two gateways", blue, ns, Request{Addresses: good, Gateways: gateway("198.51.100.1", "198.51.100.4")}, "198.51.100.4 is the second of its family"},
		{"odd gateway", blue, ns, Request{Addresses: good, Gateways: gateway("ff02::2")}, "ff02::2 cannot be a gateway"},
		{"target", blue, ns, Request{Target: "a\nb", Addresses: good}, `the target "a\nb" holds control characters`},
		{"long target", blue, ns, Request{Target: strings.Repeat("x", maxTarget+1), Addresses: good}, "is longer than 170 bytes"},
	} {
		tc.r.Network = "blue"
		if tc.r.Target == "" {
			tc.r.Target = "c1"
		}
		_, err := a.Attach(t.Context(), tc.n, tc.ns, tc.r)
		if err == nil || !strings.Contains(err.Error(), tc.want) ||
			!strings.HasPrefix(err.Error(), "attaching "+tc.r.Target+" to network blue: ") {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		if s := state(t, host); s != before {
			t.Errorf("%s: the host before:\n%s\nafter:\n%s", tc.name, before, s)
		}
	}
	if s := state(t, inNamespace(t, c)); s != inside {
		t.Errorf("the container before:\n%s\nafter:\n%s", inside, s)
	}
	if s := state(t, inNamespace(t, holder)); s != inHolder {
		t.Errorf("the holder before:\n%s\nafter:\n%s", inHolder, s)
	}
}
