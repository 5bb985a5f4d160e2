package interop

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
)

// cpu returns the processor time that the daemon has used so far.
func (d *daemon) cpu() time.Duration {
	d.t.Helper()
	stat := must[[]byte](d.t)(os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid)))
	// proc_pid_stat(5): the second field may hold blanks; utime and stime are
	// the 14th and 15th, in ticks of 10 ms.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user := must[int](d.t)(strconv.Atoi(fields[11]))
	system := must[int](d.t)(strconv.Atoi(fields[12]))
	return time.Duration(user+system) * 10 * time.Millisecond
}

// idles fails the test when the daemon, with nothing to do, uses much of a CPU.
func (d *daemon) idles() {
	d.t.Helper()
	before, start := d.cpu(), time.Now()
	time.Sleep(time.Second)
	if used, wall := d.cpu()-before, time.Since(start); used > wall/4 {
		d.t.Errorf("the daemon used %v of CPU in %v with nothing to do", used, wall)
	}
}

// pair is a (overtap) and b (kernel) over IPv4.
func pair(t *testing.T) (d *daemon, a, b *netlab.Site) {
	t.Helper()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b = sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	return start(t, a.Host, at(a, blue(a, sites...))), a, b
}

// A deleted TAP is opened again, again and again.
func TestTAPDeleted(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	reaches(t, a.Container, b.IPv4)
	for range 3 {
		check(t, a.Host.DeleteLink("vx-blue"))
		reaches(t, a.Container, b.IPv4)
		reaches(t, b.Container, a.IPv6)
		d.idles()
	}
	eventually(t, "ready", func() error {
		if s := d.status(); !s.Ready || s.Networks[0].Lost {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if n := strings.Count(d.log.String(), "deleted by another program"); n != 3 {
		t.Errorf("said %d times in the log, want 3", n)
	}
	exchange(t, a, b, 1<<20)
}

// A TAP set down takes no frames, which is counted, and up again it does.
func TestTAPDown(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	reaches(t, a.Container, b.IPv4)
	check(t, a.Host.SetDown("vx-blue"))
	eventually(t, "tap_down", func() error {
		if _, err := netlab.Ping(b.Container, a.IPv4, netlab.PingOptions{Timeout: 50 * time.Millisecond}); err != nil {
			return err
		}
		if d.drops("blue", dataplane.Inbound, dataplane.DropTapDown) == 0 {
			return fmt.Errorf("not counted: %+v", d.dropped())
		}
		return nil
	})
	d.idles()
	check(t, a.Host.SetUp("vx-blue"))
	reaches(t, a.Container, b.IPv4)
	reaches(t, b.Container, a.IPv6)
}

// An underlay that goes down and comes back is used again.
func TestUnderlayDown(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	reaches(t, a.Container, b.IPv4)
	for range 2 {
		check(t, a.Host.SetDown(netlab.UnderlayDev))
		eventually(t, "no_route", func() error {
			if _, err := netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Timeout: 50 * time.Millisecond}); err != nil {
				return err
			}
			if d.drops("blue", dataplane.Outbound, dataplane.DropNoRoute) == 0 {
				return fmt.Errorf("not counted: %+v", d.dropped())
			}
			return nil
		})
		d.idles()
		check(t, a.Host.SetUp(netlab.UnderlayDev))
		reaches(t, a.Container, b.IPv4)
		reaches(t, b.Container, a.IPv6)
	}
	// The other end of the wire, which takes the carrier.
	check(t, b.Host.SetDown(netlab.UnderlayDev))
	if r, err := netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Timeout: 100 * time.Millisecond}); err != nil || r.Received > 0 {
		t.Errorf("with the wire cut: %v, %v", r, err)
	}
	d.idles()
	check(t, b.Host.SetUp(netlab.UnderlayDev))
	reaches(t, a.Container, b.IPv4)
	exchange(t, a, b, 1<<20)
}

// A host that cannot run the configuration says what is in the way, and is left
// as it was.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(t *testing.T, a, b *netlab.Site, conf *config)
		want []string
	}{
		{"port taken by the kernel", func(t *testing.T, a, b *netlab.Site, _ *config) {
			kernel.end(t, a, blue(a, a, b), []*netlab.Site{a, b})
		}, []string{"UDP port 4789 on 192.0.2.1 is taken", "vxlan device vx0", "ip link set vx0 down"}},
		{"port taken by a daemon", func(t *testing.T, a, b *netlab.Site, conf *config) {
			start(t, a.Host, at(a, blue(a, a, b)))
			conf.networks[0].name = "green"
		}, []string{"UDP port 4789 on 192.0.2.1 is taken", "ss -ulpn"}},
		{"TAP's name taken", func(t *testing.T, a, _ *netlab.Site, _ *config) {
			check(t, a.Host.AddBridge("vx-blue", 0))
		}, []string{"the device name vx-blue is taken by a bridge", "ip link del vx-blue"}},
		{"bridge that is none", func(t *testing.T, _, _ *netlab.Site, conf *config) {
			conf.networks[0].bridge = netlab.UnderlayDev
		}, []string{"bridge eth0", "is no bridge but a veth"}},
		{"MTU too large", func(t *testing.T, _, _ *netlab.Site, conf *config) {
			conf.networks[0] = conf.networks[0].with("mtu = 1451")
		}, []string{"mtu", "1451", "the underlay's MTU of 1500 leaves room for 1450"}},
		{"underlay's MTU too small", func(t *testing.T, a, _ *netlab.Site, conf *config) {
			check(t, a.Host.SetMTU(netlab.UnderlayDev, 100))
		}, []string{"underlay MTU 100: want at least 118"}},
		{"two obstacles", func(t *testing.T, a, b *netlab.Site, conf *config) {
			check(t, a.Host.AddBridge("vx-blue", 0))
			conf.networks[0] = conf.networks[0].with("mtu = 1451")
		}, []string{"vx-blue is taken", "leaves room for 1450"}},
		{"an obstacle beside a missing underlay", func(t *testing.T, a, b *netlab.Site, conf *config) {
			check(t, a.Host.AddBridge("vx-blue", 0))
			conf.underlay = netlab.UnderlayAddr(77, false)
		}, []string{"vx-blue is taken", "the underlay address 192.0.2.77 is not on this host", "192.0.2.1 (eth0)"}},
		{"second network in the way", func(t *testing.T, a, b *netlab.Site, conf *config) {
			check(t, a.Host.AddBridge("vx-green", 0))
			green := network{name: "green", vni: 101, port: 8472, bridge: "br-green"}
			conf.networks = append(conf.networks, green)
		}, []string{"network green", "vx-green is taken"}},
		{"the kernel refuses when half is made", func(t *testing.T, a, b *netlab.Site, conf *config) {
			check(t, netlab.AddVeth(a.Host, "lan0", b.Host, "lan0", 1500))
			check(t, a.Host.AddAddr("lan0", prefix("203.0.113.1/24")))
			check(t, a.Host.AddRoute(prefix("10.9.0.0/16"), netip.MustParseAddr("203.0.113.2"), "lan0"))
			check(t, a.Host.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
			blue := &conf.networks[0]
			blue.bridge = "br-blue"
			*blue = blue.with(`addresses = ["198.51.100.101/24"]`, `ports = ["lan0"]`, `ports_take_addresses = true`)
			conf.networks = append(conf.networks, network{name: "red", vni: 7, bridge: "br-red"}.with(`addresses = ["2001:db8:7::1/64"]`))
		}, []string{"network red", "2001:db8:7::1"}},
		{"TUN's name taken", func(t *testing.T, a, _ *netlab.Site, conf *config) {
			check(t, a.Host.AddBridge("tun0", 0))
			conf.last = tunnelTable("10.1.2.0/24")
		}, []string{"the device name tun0 is taken by a bridge", "ip link del tun0"}},
		{"another program's route in the tunnel's way", func(t *testing.T, a, b *netlab.Site, conf *config) {
			check(t, a.Host.AddRoute(prefix("10.1.2.0/24"), b.Underlay, netlab.UnderlayDev))
			conf.last = tunnelTable("10.1.2.0/24")
		}, []string{"10.1.2.0/24"}},
		{"another program's neighbour", func(t *testing.T, a, b *netlab.Site, conf *config) {
			conf.networks[0] = conf.networks[0].with(`addresses = ["198.51.100.101/24"]`)
			check(t, a.Host.AddNeighbor(netlab.SiteBridge, b.IPv4, 0x0242_0000_0099))
			conf.last = fmt.Sprintf("[[vxlan.neighbor]]\naddress = %q\nmac = %q\n", b.IPv4, b.MAC)
		}, []string{"02:42:00:00:00:99"}},
		{"mistakes in the file", func(t *testing.T, _, _ *netlab.Site, conf *config) {
			conf.networks[0] = conf.networks[0].with("vlan = 1", "bridges = true")
		}, []string{"overtap.toml:", "vxlan[0].vlan", "bridges"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
			a, b := sites[0], sites[1]
			conf := at(a, blue(a, sites...))
			c.make(t, a, b, &conf)
			refused(t, a.Host, conf, c.want...)
		})
	}
}

// tunnelTable is an IP-in-IP tunnel to the second host for the prefix.
func tunnelTable(prefix string) string {
	return fmt.Sprintf("[[ipip]]\nname = \"tun0\"\naddresses = [\"172.31.0.1/32\"]\n[[ipip.route]]\nprefix = %q\npeer = %q\n",
		prefix, netlab.UnderlayAddr(2, false))
}

// gone is nil when the host has none of the devices.
func gone(h *netlab.Host, devices ...string) error {
	links, err := h.Links()
	if err != nil {
		return err
	}
	for _, d := range devices {
		if slices.Contains(links, d) {
			return errors.New(d + " is still there")
		}
	}
	return nil
}
