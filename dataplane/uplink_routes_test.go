package dataplane_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane/netio/linux"
)

// ip runs the command on the host.
func ip(t testing.TB, h *netlab.Host, args ...string) {
	t.Helper()
	if out, err := h.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// forwarding switches a host's forwarding over a family.
func forwarding(t testing.TB, h *netlab.Host, v6, on bool) {
	t.Helper()
	key, value := "net/ipv4/ip_forward", "0"
	if v6 {
		key = "net/ipv6/conf/all/forwarding"
	}
	if on {
		value = "1"
	}
	if err := h.Sysctl(key, value); err != nil {
		t.Fatal(err)
	}
}

func family(v6 bool) string {
	if v6 {
		return "-6"
	}
	return "-4"
}

// TestUplinkFollowsRules has a rule of policy routing that holds for what this host
// sends alone ("iif lo") send the peer's packets by eth1, while the main table has
// eth0. GSO packets leave by the device that the sockets' packets leave by: unsegmented
// where the host forwards, and else by the sockets themselves.
func TestUplinkFollowsRules(t *testing.T) {
	for _, c := range []struct{ v6, forwards bool }{{false, true}, {false, false}, {true, true}, {true, false}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites, err := lab.Sites(netlab.SiteSpec{V6: c.v6})
			if err != nil {
				t.Fatal(err)
			}
			a, b := sites[0], sites[1]
			if err := b.AddKernelVXLAN(100, 4789, sites...); err != nil {
				t.Fatal(err)
			}
			if err := netlab.AddVeth(a.Host, "eth1", b.Host, "eth1", 1500); err != nil {
				t.Fatal(err)
			}
			for _, h := range []*netlab.Host{a.Host, b.Host} { // the peer answers by eth0
				for _, dev := range []string{"all", "eth1", netlab.UnderlayDev} {
					if err := h.Sysctl("net/ipv4/conf/"+dev+"/rp_filter", "0"); err != nil {
						t.Fatal(err)
					}
				}
			}
			forwarding(t, a.Host, c.v6, c.forwards)
			e := overtapWith(t, a, linux.Options{Workers: 2}, siteNetwork(a, sites...))
			ip(t, a.Host, family(c.v6), "route", "add", b.Underlay.String(), "dev", "eth1", "table", "100")
			if c.v6 { // no neighbour discovery: the address is on the peer's eth0
				nl, err := b.Host.Netlink()
				if err != nil {
					t.Fatal(err)
				}
				link, err := nl.LinkByName("eth1")
				if err != nil {
					t.Fatal(err)
				}
				ip(t, a.Host, "-6", "neigh", "replace", b.Underlay.String(), "lladdr", link.Attrs().HardwareAddr.String(), "dev", "eth1")
			}
			bytes := func(dev string) uint64 {
				c, err := a.Host.Counters(dev)
				if err != nil {
					t.Fatal(err)
				}
				return c.TxBytes
			}
			// leaves sends after the device was looked at, by the second tick.
			leaves := func(whole bool, by, not string) {
				t.Helper()
				send(t, a, b, 1<<20)
				time.Sleep(2500 * time.Millisecond)
				right, wrong := bytes(by), bytes(not)
				gsoPackets(t, e, whole, func() { send(t, a, b, 16<<20) })
				if right, wrong = bytes(by)-right, bytes(not)-wrong; right < 16<<20 || wrong > 1<<20 {
					t.Errorf("%d bytes left by %s, %d by %s: want all by %s", right, by, wrong, not, by)
				}
			}
			rule := []string{"iif", "lo", "lookup", "100", "pref", "100"}
			ip(t, a.Host, append([]string{family(c.v6), "rule", "add"}, rule...)...)
			leaves(c.forwards, "eth1", netlab.UnderlayDev)
			if i := e.Info().Uplink; i.Active != c.forwards || !c.forwards && !strings.Contains(i.Reason, `a rule of policy routing has "iif lo"`) {
				t.Errorf("with the rule: %+v", i)
			}
			ip(t, a.Host, append([]string{family(c.v6), "rule", "del"}, rule...)...)
			leaves(true, netlab.UnderlayDev, "eth1")
		})
	}
}

// TestUplinkFollowsDevice has a rule hold for what leaves by the device that the
// sockets are bound to, to a route with another MTU.
func TestUplinkFollowsDevice(t *testing.T) {
	for _, c := range []struct{ v6, forwards bool }{{false, true}, {false, false}, {true, true}, {true, false}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites, err := lab.Sites(netlab.SiteSpec{V6: c.v6})
			if err != nil {
				t.Fatal(err)
			}
			a, b := sites[0], sites[1]
			if err := b.AddKernelVXLAN(100, 4789, sites...); err != nil {
				t.Fatal(err)
			}
			forwarding(t, a.Host, c.v6, c.forwards)
			e := overtapWith(t, a, linux.Options{Workers: 2, Device: netlab.UnderlayDev}, siteNetwork(a, sites...))
			gsoPackets(t, e, true, func() { send(t, a, b, 4<<20) })
			ip(t, a.Host, family(c.v6), "route", "add", b.Underlay.String(), "dev", netlab.UnderlayDev, "mtu", "lock", "1400", "table", "100")
			ip(t, a.Host, family(c.v6), "rule", "add", "oif", netlab.UnderlayDev, "lookup", "100", "pref", "100")
			if !c.forwards {
				eventually(t, "the uplink rests", func() bool {
					return strings.Contains(e.Info().Uplink.Reason, `a rule of policy routing has "oif eth0"`)
				})
			}
			send(t, a, b, 4<<20)
			if i := e.Info().Uplink; i.Refused["too_big"] > 0 != c.forwards {
				t.Errorf("forwards %t: %+v", c.forwards, i)
			}
		})
	}
}

// TestUplinkLeavesLearnedRoutes: what the uplink needs of the kernel must not take
// the routes away that router advertisements brought.
func TestUplinkLeavesLearnedRoutes(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites, err := lab.Sites(netlab.SiteSpec{V6: v6})
			if err != nil {
				t.Fatal(err)
			}
			a, b := sites[0], sites[1]
			forwarding(t, a.Host, true, false)
			advertise(t, a.Host, b.Host)
			e := overtapWith(t, a, linux.Options{Workers: 1}, siteNetwork(a, sites...))
			if out, err := a.Host.Command("ip", "-6", "route", "show", "default").Output(); err != nil || !strings.Contains(string(out), "proto ra") {
				t.Errorf("the default route is gone: %v, %q", err, out)
			}
			if i := e.Info().Uplink; v6 != strings.Contains(i.Reason, "router advertisements") {
				t.Errorf("%+v", i)
			}
		})
	}
}

// advertise has the router send the host advertisements until it has a default route.
func advertise(t testing.TB, host, router *netlab.Host) {
	t.Helper()
	for key, value := range map[string]string{"accept_ra": "1", "accept_ra_defrtr": "1"} {
		if err := host.Sysctl("net/ipv6/conf/"+netlab.UnderlayDev+"/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a default route", func() bool {
		err := router.Do(func() error {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
				return err
			}
			dev, err := net.InterfaceByName(netlab.UnderlayDev)
			if err != nil {
				return err
			}
			ra := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0} // a router for 1800 s
			return unix.Sendto(fd, ra, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(dev.Index)})
		})
		if err != nil {
			t.Log(err) // while the link-local address is tentative
		}
		time.Sleep(20 * time.Millisecond)
		out, err := host.Command("ip", "-6", "route", "show", "default").Output()
		return err == nil && strings.Contains(string(out), "proto ra")
	})
}
