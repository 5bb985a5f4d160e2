package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
)

// routed are two hosts that route for a container each, in subnets of their
// own:
//
//	10.1.1.2 ─ br0 ─ host a 192.0.2.1 ═══ 192.0.2.2 host b ─ br0 ─ 10.1.2.2
//	2001:db8:a:1::2                                       2001:db8:a:2::2
type routed struct {
	hosts      [2]*netlab.Host
	containers [2]*netlab.Host
	mtu        int // of the containers
}

// inner is an address of the container's subnet of host n, from 0.
func inner(n, last int, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:a:%d::%d", n+1, last))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.1.%d.%d", n+1, last))
}

func innerPrefix(n int, v6 bool) netip.Prefix {
	bits := 24
	if v6 {
		bits = 64
	}
	p, _ := inner(n, 0, v6).Prefix(bits)
	return p
}

func newRouted(t *testing.T, mtu int) *routed {
	t.Helper()
	lab := netlabtest.New(t)
	host := must[*netlab.Host](t)
	r := &routed{mtu: mtu}
	for i := range r.hosts {
		r.hosts[i] = host(lab.AddHost(string(rune('a' + i))))
	}
	check(t, lab.Underlay(1500, r.hosts[0], r.hosts[1]))
	for i, h := range r.hosts {
		check(t, h.AddBridge("br0", mtu))
		check(t, h.Sysctl("net/ipv4/ip_forward", "1"))
		check(t, h.Sysctl("net/ipv6/conf/all/forwarding", "1"))
		var addrs []netip.Prefix
		for _, v6 := range []bool{false, true} {
			bits := innerPrefix(i, v6).Bits()
			check(t, h.AddAddr("br0", netip.PrefixFrom(inner(i, 1, v6), bits)))
			addrs = append(addrs, netip.PrefixFrom(inner(i, 2, v6), bits))
		}
		c := host(h.AddContainer(netlab.ContainerSpec{
			Name: h.Name() + "1", Bridge: "br0", MTU: mtu, Addrs: addrs, Gateway: inner(i, 1, false),
		}))
		check(t, c.AddRoute(prefix("::/0"), inner(i, 1, true), netlab.ContainerDev))
		r.containers[i] = c
	}
	return r
}

// flows are those between the containers.
func (r *routed) flows() (all []flow) {
	for _, v6 := range []bool{false, true} {
		x := traffic.End{Host: r.containers[0], Addr: inner(0, 2, v6)}
		y := traffic.End{Host: r.containers[1], Addr: inner(1, 2, v6)}
		all = append(all, flow{x, y, r.mtu}, flow{y, x, r.mtu})
	}
	return all
}

func (r *routed) exchange(t *testing.T) {
	t.Helper()
	for _, f := range r.flows() {
		f.ping(t, netlab.PingOptions{Count: 3})
		f.ping(t, netlab.PingOptions{Count: 3, Size: f.mtu - f.headers(), DF: true})
		f.tcp(t, 4<<20)
		f.udps(t)
	}
}

// cut checks that the containers do not reach each other.
func (r *routed) cut(t *testing.T) {
	t.Helper()
	for _, f := range r.flows() {
		p, err := netlab.Ping(f.from.Host, f.to.Addr, netlab.PingOptions{Timeout: 50 * time.Millisecond})
		if err != nil && !errors.Is(err, unix.ENETUNREACH) || p.Received > 0 {
			t.Errorf("ping %v: %v, %v", f, p, err)
		}
	}
}

// host-gw: routes alone join the containers; who deletes one finds it back.
func TestHostGateway(t *testing.T) {
	t.Parallel()
	r := newRouted(t, 1500)
	r.cut(t)
	var daemons []*daemon
	for i, h := range r.hosts {
		c := config{underlay: netlab.UnderlayAddr(i+1, false)}
		for _, v6 := range []bool{false, true} {
			c.last += fmt.Sprintf("[[route]]\nprefix = %q\nvia = %q\n", innerPrefix(1-i, v6), netlab.UnderlayAddr(2-i, v6))
		}
		daemons = append(daemons, start(t, h, c))
	}
	r.exchange(t)

	a := r.hosts[0]
	before := ourRoutes(t, a)
	delRoute(t, a, innerPrefix(1, false))
	delRoute(t, a, innerPrefix(1, true))
	eventually(t, "the routes", func() error {
		if now := ourRoutes(t, a); now != before {
			return fmt.Errorf("%s", now)
		}
		return nil
	})
	r.exchange(t)

	// With the underlay they go, and they come back with it.
	check(t, a.SetDown(netlab.UnderlayDev))
	eventually(t, "not ready", func() error {
		if daemons[0].status().Ready {
			return errors.New("it is")
		}
		return nil
	})
	check(t, a.SetUp(netlab.UnderlayDev))
	check(t, a.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(netlab.UnderlayAddr(1, true), 64)))
	eventually(t, "ready", func() error {
		if !daemons[0].status().Ready {
			return errors.New(daemons[0].verb("status"))
		}
		return nil
	})
	r.exchange(t)
	daemons[0].idles()

	for i, d := range daemons {
		d.stop(unix.SIGTERM)
		if left := ourRoutes(t, r.hosts[i]); left != "" {
			t.Errorf("routes left on host %s:\n%s", r.hosts[i].Name(), left)
		}
	}
	r.cut(t)
}

// Two subnets on one overlay, as flannel joins them: each host has an address of
// its own in the network, with no subnet, and a route to the other's containers.
func TestSubnetsByNetworkRoutes(t *testing.T) {
	t.Parallel()
	for _, bridge := range []string{"br-blue", ""} {
		t.Run("bridge "+bridge, func(t *testing.T) {
			r := newRouted(t, 1450)
			var daemons []*daemon
			for i, h := range r.hosts {
				n := network{name: "blue", vni: 1, port: 8472, bridge: bridge, peers: []netip.Addr{netlab.UnderlayAddr(2-i, false)}}
				own := fmt.Sprintf("addresses = [\"10.1.%d.0/32\", \"2001:db8:a:%d::/128\"]", i+1, i+1)
				c := config{underlay: netlab.UnderlayAddr(i+1, false), networks: []network{n.with(own)}}
				for _, v6 := range []bool{false, true} {
					c.last += fmt.Sprintf("[[vxlan.route]]\nprefix = %q\nvia = %q\n", innerPrefix(1-i, v6), inner(1-i, 0, v6))
				}
				daemons = append(daemons, start(t, h, c))
			}
			r.exchange(t)

			a, dev := r.hosts[0], bridge
			if dev == "" {
				dev = "vx-blue"
			}
			if got := ourRoutes(t, a); !strings.Contains(got, "10.1.2.0/24 via 10.1.2.0 dev "+dev+" ") || !strings.Contains(got, "onlink") {
				t.Errorf("routes:\n%s", got)
			}
			// A device that is deleted takes them along; they come back with it.
			for _, dev := range []string{"vx-blue", dev} {
				check(t, a.DeleteLink(dev))
				for _, f := range r.flows() {
					reaches(t, f.from.Host, f.to.Addr)
				}
			}
			r.exchange(t)
			for i, d := range daemons {
				d.stop(unix.SIGTERM)
				if left := ourRoutes(t, r.hosts[i]); left != "" {
					t.Errorf("routes left on host %s:\n%s", r.hosts[i].Name(), left)
				}
			}
		})
	}
}

// Routes that cannot be are refused, and nothing is made.
func TestRefusesRoutes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make func(t *testing.T, r *routed)
		last string
		want string
	}{
		"gateway": {func(t *testing.T, r *routed) {
			check(t, r.hosts[0].AddRoute(prefix("10.9.0.0/16"), netlab.UnderlayAddr(2, false), netlab.UnderlayDev))
		}, "[[route]]\nprefix = \"10.1.2.0/24\"\nvia = \"10.9.0.1\"\n", "is not on a link, but behind the gateway 192.0.2.2"},
		"taken": {func(t *testing.T, r *routed) {
			check(t, r.hosts[0].AddRoute(prefix("10.1.2.0/24"), netlab.UnderlayAddr(3, false), netlab.UnderlayDev))
		}, "[[route]]\nprefix = \"10.1.2.0/24\"\nvia = \"192.0.2.2\"\n", "would hide one that is there already, 10.1.2.0/24 via 192.0.2.3 dev eth0"},
		"default": {func(*testing.T, *routed) {}, "[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"192.0.2.2\"\n", "is the default route"},
		"of a network": {func(*testing.T, *routed) {},
			"[[vxlan.route]]\nprefix = \"10.1.1.0/24\"\nvia = \"10.1.2.0\"\n", "would hide one that is there already, 10.1.1.0/24 dev br0 proto kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouted(t, 1450)
			tc.make(t, r)
			c := config{underlay: netlab.UnderlayAddr(1, false), last: tc.last}
			if strings.Contains(tc.last, "vxlan") {
				c.networks = []network{{name: "blue", vni: 1, bridge: "br-blue"}}
			}
			refused(t, r.hosts[0], c, tc.want)
			if left := ourRoutes(t, r.hosts[0]); left != "" {
				t.Errorf("routes left:\n%s", left)
			}
		})
	}
}
