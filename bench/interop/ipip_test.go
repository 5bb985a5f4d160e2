package interop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/netlab/wiretest"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/dataplane/netio"
)

// tunnelled are hosts that route for a container each and are joined by one
// IP-in-IP tunnel of several peers:
//
//	10.1.1.2 ─ br0 ─ host a 192.0.2.1 ═══ 192.0.2.2 host b ─ br0 ─ 10.1.2.2
//	                                 ╚═══ 192.0.2.3 host c ─ br0 ─ 10.1.3.2
type tunnelled struct {
	hosts      []*netlab.Host
	containers []*netlab.Host
	daemons    []*daemon
}

const tunnelMTU = 1480

// newTunnelled starts overtap on n hosts, with more in each tunnel's table and
// engine in the engine's.
func newTunnelled(t *testing.T, n int, more string, engine ...string) *tunnelled {
	t.Helper()
	lab := netlabtest.New(t)
	host := must[*netlab.Host](t)
	w := new(tunnelled)
	for i := range n {
		w.hosts = append(w.hosts, host(lab.AddHost(string(rune('a'+i)))))
	}
	check(t, lab.Underlay(1500, w.hosts...))
	for i, h := range w.hosts {
		check(t, h.AddBridge("br0", tunnelMTU))
		check(t, h.Sysctl("net/ipv4/ip_forward", "1"))
		check(t, h.AddAddr("br0", netip.PrefixFrom(inner(i, 1, false), 24)))
		w.containers = append(w.containers, host(h.AddContainer(netlab.ContainerSpec{
			Name: h.Name() + "1", Bridge: "br0", MTU: tunnelMTU,
			Addrs: []netip.Prefix{netip.PrefixFrom(inner(i, 2, false), 24)}, Gateway: inner(i, 1, false),
		})))
		c := config{underlay: netlab.UnderlayAddr(i+1, false), engine: engine}
		c.last = fmt.Sprintf("[[ipip]]\nname = \"tun0\"\naddresses = [\"172.31.0.%d/32\"]\n%s", i+1, more)
		for j := range n {
			if j != i {
				c.last += fmt.Sprintf("[[ipip.route]]\nprefix = %q\npeer = %q\n", innerPrefix(j, false), netlab.UnderlayAddr(j+1, false))
				c.last += fmt.Sprintf("[[ipip.route]]\nprefix = \"172.31.0.%d/32\"\npeer = %q\n", j+1, netlab.UnderlayAddr(j+1, false))
			}
		}
		w.daemons = append(w.daemons, start(t, h, c))
	}
	return w
}

// flows are those between all containers, and between the hosts themselves.
func (w *tunnelled) flows() (all []flow) {
	for i, a := range w.containers {
		for j, b := range w.containers {
			if i != j {
				all = append(all, flow{traffic.End{Host: a, Addr: inner(i, 2, false)}, traffic.End{Host: b, Addr: inner(j, 2, false)}, tunnelMTU})
			}
		}
	}
	return all
}

// Several peers and prefixes on one device, everybody with everybody.
func TestIPIP(t *testing.T) {
	t.Parallel()
	w := newTunnelled(t, 3, "check_source = true\n")
	for _, f := range w.flows() {
		f.ping(t, netlab.PingOptions{Count: 3})
		f.ping(t, netlab.PingOptions{Count: 3, Size: f.mtu - f.headers(), DF: true})
		f.tcp(t, 4<<20)
		f.udps(t)
	}
	// The host itself, by its address on the TUN.
	reaches(t, w.hosts[0], netip.MustParseAddr("172.31.0.2"))
	reaches(t, w.hosts[0], inner(2, 2, false))

	a := w.hosts[0]
	routes := ourRoutes(t, a)
	if !strings.Contains(routes, "10.1.2.0/24 via <nil> dev tun0 ") || !strings.Contains(routes, "10.1.3.0/24 via <nil> dev tun0 ") {
		t.Errorf("routes:\n%s", routes)
	}
	// A route that is deleted comes back, and all of them with a device that is.
	delRoute(t, a, innerPrefix(1, false))
	for range 2 {
		eventually(t, "the routes", func() error {
			if now := ourRoutes(t, a); now != routes {
				return fmt.Errorf("%s", now)
			}
			return nil
		})
		for _, f := range w.flows() {
			reaches(t, f.from.Host, f.to.Addr)
		}
		check(t, a.DeleteLink("tun0"))
	}
	for i, d := range w.daemons {
		d.stop(unix.SIGTERM)
		if left := ourRoutes(t, w.hosts[i]); left != "" {
			t.Errorf("routes left on host %s:\n%s", w.hosts[i].Name(), left)
		}
	}
}

// Byte-exact both ways, whatever the offloads: GSO packets cut by the path, by
// the stack, by none; TUNs without a vnet header; several workers.
func TestIPIPOffloads(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		offload netlab.Offload
		engine  []string
	}{
		"all":                  {netlab.AllOffloads, nil},
		"underlay without":     {netlab.NoOffloads, nil},
		"no uplink":            {netlab.AllOffloads, []string{"tunnel_gso = false"}},
		"no uplink, underlay":  {netlab.NoOffloads, []string{"tunnel_gso = false"}},
		"plain TUN":            {netlab.AllOffloads, []string{"offload = false"}},
		"four workers":         {netlab.AllOffloads, []string{"workers = 4"}},
		"four without":         {netlab.NoOffloads, []string{"workers = 4", "tunnel_gso = false"}},
		"without segmentation": {netlab.NoTunnelSegmentation, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTunnelled(t, 2, "", c.engine...)
			for _, h := range w.hosts {
				check(t, h.SetOffload(netlab.UnderlayDev, c.offload))
			}
			for _, f := range w.flows() {
				f.ping(t, netlab.PingOptions{Count: 3})
				f.tcp(t, 32<<20)
				f.udps(t)
			}
			for _, d := range w.daemons {
				if drops := d.stats().Drops; len(drops) > 0 {
					t.Errorf("drops: %+v", drops)
				}
			}
		})
	}
}

// What goes over the wire is IP-in-IP in the eyes of tshark, without a wrong
// checksum, also where the stack cuts GSO packets for a device that does
// nothing; outer headers are as RFC 2003 has them.
func TestNothingWrongInIPIP(t *testing.T) {
	t.Parallel()
	shark := wiretest.NewShark(t)
	for name, engine := range map[string][]string{"uplink": nil, "socket": {"tunnel_gso = false"}} {
		t.Run(name, func(t *testing.T) {
			w := newTunnelled(t, 2, "ttl = 7\ntos = 0x20\n", engine...)
			for _, h := range w.hosts {
				check(t, h.SetOffload(netlab.UnderlayDev, netlab.NoOffloads))
				check(t, h.SetFeatures(netlab.UnderlayDev, false, "tx-checksum-ip-generic"))
			}
			ear := openRaw(t, w.hosts[1], netlab.UnderlayDev)
			for _, f := range w.flows() {
				f.ping(t, netlab.PingOptions{Count: 3})
				f.tcp(t, 1<<20)
				f.udps(t)
			}
			last := netlab.PingOptions{Count: 1, Size: 777}
			w.flows()[0].ping(t, last)
			own := netlab.UnderlayAddr(1, false).AsSlice()
			var frames [][]byte
			ear.arrivals(1, func(s seen) bool {
				p := gopacket.NewPacket(s.data, layers.LayerTypeEthernet, gopacket.NoCopy)
				ip, ok := p.NetworkLayer().(*layers.IPv4)
				if !ok || !ip.SrcIP.Equal(net.IP(own)) {
					return false
				}
				if s.unfinished {
					t.Error("the capture is of no use: a checksum is left to a device")
				}
				if ip.Protocol != layers.IPProtocolIPv4 || ip.TTL != 7 || ip.TOS&^3 != 0x20 || ip.Flags != layers.IPv4DontFragment {
					t.Errorf("outer header %+v", ip)
				}
				frames = append(frames, s.data)
				return len(ip.Payload) == 20+8+last.Size
			})
			s := shark.Look(t, 4789, frames)
			for i, n := range s.Numbers(wiretest.Amiss) {
				if i < 3 {
					t.Errorf("frame %d of %d is amiss:\n%s", n, len(frames), s.Explain(n))
				}
			}
			if got := len(s.Numbers("tcp.len > 1000")); got < 500 {
				t.Errorf("%d full segments of %d frames", got, len(frames))
			}
			if got := len(s.Numbers("ip.proto == 4")); got != len(frames) || got == 0 {
				t.Errorf("%d frames of %d are IP-in-IP", got, len(frames))
			}
			up := w.daemons[0].uplink()
			if (up.Sent > 0) != (name == "uplink") {
				t.Errorf("%+v", up)
			}
		})
	}
}

// Uplink is what the daemon says of it.
func (d *daemon) uplink() netio.UplinkInfo {
	d.t.Helper()
	return ask[struct{ Uplink netio.UplinkInfo }](d, "status").Uplink
}

// The tunnel follows the underlay's MTU, comes back with its device, and the
// daemon says when the kernel would take its packets too.
func TestIPIPFollows(t *testing.T) {
	t.Parallel()
	w := newTunnelled(t, 2, "")
	a, d := w.hosts[0], w.daemons[0]
	hasMTU := func(want int) {
		t.Helper()
		eventually(t, "the tunnel's MTU", func() error {
			for _, n := range d.status().Networks {
				if n.Network == "tun0" && n.Kind == dataplane.KindIPIP && int(n.MTU) == want && !n.Lost {
					return nil
				}
			}
			return errors.New(d.verb("status"))
		})
	}
	hasMTU(tunnelMTU)
	check(t, a.SetMTU(netlab.UnderlayDev, 1400))
	hasMTU(1380)
	reaches(t, w.containers[0], inner(1, 2, false))
	check(t, a.SetMTU(netlab.UnderlayDev, 1500))
	hasMTU(tunnelMTU)
	for _, f := range w.flows() {
		reaches(t, f.from.Host, f.to.Addr)
	}
	if out := d.verb("status"); strings.Contains(out, "warning") {
		t.Errorf("a warning:\n%s", out)
	}
	check(t, netlab.AddVeth(a, "tunl0", a, "tunl1", 1500))
	if out := d.verb("status"); !strings.Contains(out, "warning   the kernel has IP-in-IP too (tunl0)") {
		t.Errorf("no warning:\n%s", out)
	}
}

// behindRouter are two hosts that a router joins, with a container each:
//
//	10.1.1.2 ─ host a 192.0.2.1 ═ router ═ 192.0.2.6 host b ─ 10.1.2.2
//	                        1500          1400
type behindRouter struct {
	a, router, b *netlab.Host
	containers   [2]*netlab.Host
	daemons      [2]*daemon
}

func newBehindRouter(t *testing.T) *behindRouter {
	t.Helper()
	lab := netlabtest.New(t)
	host := must[*netlab.Host](t)
	w := &behindRouter{a: host(lab.AddHost("a")), router: host(lab.AddHost("router")), b: host(lab.AddHost("b"))}
	const dev = netlab.UnderlayDev
	check(t, netlab.AddVeth(w.a, dev, w.router, "to-a", 1500))
	check(t, netlab.AddVeth(w.b, dev, w.router, "to-b", 1400))
	check(t, w.router.Sysctl("net/ipv4/ip_forward", "1"))
	check(t, w.router.AddAddr("to-a", prefix("192.0.2.2/30")))
	check(t, w.router.AddAddr("to-b", prefix("192.0.2.5/30")))
	ends := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.6")}
	check(t, w.a.AddAddr(dev, netip.PrefixFrom(ends[0], 30)))
	check(t, w.b.AddAddr(dev, netip.PrefixFrom(ends[1], 30)))
	check(t, w.a.AddRoute(prefix("192.0.2.4/30"), netip.MustParseAddr("192.0.2.2"), dev))
	check(t, w.b.AddRoute(prefix("192.0.2.0/30"), netip.MustParseAddr("192.0.2.5"), dev))
	for i, h := range []*netlab.Host{w.a, w.b} {
		check(t, h.AddBridge("br0", tunnelMTU))
		check(t, h.Sysctl("net/ipv4/ip_forward", "1"))
		check(t, h.AddAddr("br0", netip.PrefixFrom(inner(i, 1, false), 24)))
		w.containers[i] = host(h.AddContainer(netlab.ContainerSpec{
			Name: h.Name() + "1", Bridge: "br0", MTU: tunnelMTU,
			Addrs: []netip.Prefix{netip.PrefixFrom(inner(i, 2, false), 24)}, Gateway: inner(i, 1, false),
		}))
		c := config{underlay: ends[i]}
		c.last = fmt.Sprintf("[[ipip]]\nname = \"tun0\"\naddresses = [\"172.31.0.%d/32\"]\n[[ipip.route]]\nprefix = %q\npeer = %q\n",
			i+1, innerPrefix(1-i, false), ends[1-i])
		w.daemons[i] = start(t, h, c)
	}
	return w
}

// A narrow hop in the underlay: inner senders get an ICMP error and adapt.
func TestIPIPPathMTU(t *testing.T) {
	t.Parallel()
	w := newBehindRouter(t)
	x := traffic.End{Host: w.containers[0], Addr: inner(0, 2, false)}
	y := traffic.End{Host: w.containers[1], Addr: inner(1, 2, false)}
	reaches(t, x.Host, y.Addr)
	for _, f := range []flow{{x, y, 1380}, {y, x, 1380}} {
		f.tcp(t, 8<<20)
		f.ping(t, netlab.PingOptions{Count: 3, Size: f.mtu - f.headers(), DF: true})
		f.udp(t, traffic.UDPOptions{Count: 64, Size: f.mtu - f.headers()})
	}
	// Too long for the path, from the first packet that its sender cannot cut.
	r, err := netlab.Ping(x.Host, y.Addr, netlab.PingOptions{Count: 3, Size: tunnelMTU - 28, DF: true, Timeout: time.Second})
	if err != nil || r.Received != 0 || r.Errors == 0 {
		t.Errorf("too long a ping: %v, %v", r, err)
	}
	known := false
	for _, p := range w.daemons[0].stats().Peers {
		known = known || p.PathMTU == 1400
	}
	n := w.daemons[0].stats().Networks[0]
	if !known || n.Answered == 0 {
		t.Errorf("path MTU 1400 is known: %v; %+v", known, n)
	}
}

// What a router says cannot be reached is relayed to its sender.
func TestIPIPUnreachable(t *testing.T) {
	t.Parallel()
	w := newBehindRouter(t)
	to := inner(1, 2, false)
	reaches(t, w.containers[0], to)
	nl := must[*netlink.Handle](t)(w.router.Netlink())
	check(t, nl.RouteAdd(&netlink.Route{Dst: ipNet(prefix("192.0.2.6/32")), Type: unix.RTN_UNREACHABLE}))
	// A ping's socket keeps such errors to itself: the container's counter shows it.
	eventually(t, "an error", func() error {
		r, err := netlab.Ping(w.containers[0], to, netlab.PingOptions{Timeout: 100 * time.Millisecond})
		if err != nil || r.Received > 0 {
			return fmt.Errorf("%v, %v", r, err)
		}
		if snmp(t, w.containers[0], "Icmp", "InDestUnreachs") == "0" {
			return fmt.Errorf("none; %+v", w.daemons[0].stats())
		}
		return nil
	})
	if n := w.daemons[0].stats().Networks[0]; n.UnreachableAnswered == 0 {
		t.Errorf("%+v", n)
	}
	check(t, nl.RouteDel(&netlink.Route{Dst: ipNet(prefix("192.0.2.6/32")), Type: unix.RTN_UNREACHABLE}))
	reaches(t, w.containers[0], to)
	w.daemons[0].idles()
}

// snmp reads a counter of the host's.
func snmp(t testing.TB, h *netlab.Host, section, name string) string {
	t.Helper()
	out := must[[]byte](t)(h.Command("cat", "/proc/net/snmp").Output())
	var names []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] != section+":":
		case names == nil:
			names = f
		default:
			return f[slices.Index(names, name)]
		}
	}
	t.Fatalf("no %s of %s in\n%s", name, section, out)
	return ""
}
