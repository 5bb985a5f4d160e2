package interop

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/encap"
)

// fabric are two hosts whose underlay addresses stand on the loopback device, joined
// by two links of which the first has the lesser index:
//
//	a1 ─ br0 ─ host a (lo) ═ up0, up1 ═ (lo) host b ─ br0 ─ b1
type fabric struct {
	hosts, containers [2]*netlab.Host
	vteps, inner      [2]netip.Addr
	v6                bool
}

func newFabric(t *testing.T, v6 bool, mtus ...int) *fabric {
	t.Helper()
	lab := netlabtest.New(t)
	host := must[*netlab.Host](t)
	f := &fabric{v6: v6}
	for i, name := range []string{"a", "b"} {
		h := host(lab.AddHost(name))
		f.hosts[i] = h
		f.vteps[i] = netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i)})
		if v6 {
			f.vteps[i] = netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%d", 1+i))
		}
		f.inner[i] = inner(0, 2+i, false)
		check(t, h.AddAddr("lo", netip.PrefixFrom(f.vteps[i], f.vteps[i].BitLen())))
		check(t, h.AddBridge("br0", 1450))
		f.containers[i] = host(h.AddContainer(netlab.ContainerSpec{
			Name: name + "1", Bridge: "br0", MTU: 1280,
			Addrs: []netip.Prefix{netip.PrefixFrom(f.inner[i], 24)},
		}))
		for _, dev := range []string{"all", "default"} {
			check(t, h.Sysctl("net/ipv4/conf/"+dev+"/rp_filter", "0"))
		}
	}
	for n, mtu := range mtus {
		dev := "up" + strconv.Itoa(n)
		check(t, netlab.AddVeth(f.hosts[0], dev, f.hosts[1], dev, mtu))
		for i, h := range f.hosts {
			check(t, h.AddAddr(dev, netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/30", 4*n+1+i))))
			command(t, h, "ip", "-6", "addr", "add", fmt.Sprintf("2001:db8:8:%d::%d/64", n, 1+i), "dev", dev, "nodad")
		}
	}
	return f
}

// command runs one on the host.
func command(t testing.TB, h *netlab.Host, args ...string) {
	t.Helper()
	if out, err := h.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// route has the hosts reach each other by the n-th link.
func (f *fabric) route(t testing.TB, n int) {
	t.Helper()
	for i, h := range f.hosts {
		family, via := "-4", fmt.Sprintf("192.0.2.%d", 4*n+2-i)
		if f.v6 {
			family, via = "-6", fmt.Sprintf("2001:db8:8:%d::%d", n, 2-i)
		}
		command(t, h, "ip", family, "route", "replace", f.vteps[1-i].String(), "via", via, "src", f.vteps[i].String())
	}
}

func (f *fabric) start(t *testing.T, i int, more string) *daemon {
	t.Helper()
	c := config{underlay: f.vteps[i]}
	c.last = "[[vxlan]]\nname = \"blue\"\nvni = 100\nbridge = \"br0\"\n" + more
	return start(t, f.hosts[i], c)
}

// peer is the other host as a peer of host i.
func (f *fabric) peer(i int) string {
	return fmt.Sprintf("[[vxlan.peer]]\naddress = %q\n", f.vteps[1-i])
}

// TestAddressOnLoopback derives the MTU from the way to the peers, not from the
// loopback device, and follows it to another link.
func TestAddressOnLoopback(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			f := newFabric(t, v6, 1500, 1400)
			f.route(t, 0)
			d := f.start(t, 0, f.peer(0))
			f.start(t, 1, f.peer(1))
			over := encap.VXLANOverhead4
			if v6 {
				over = encap.VXLANOverhead6
			}
			mtu := func(want int) func() error {
				return func() error {
					if got := int(d.status().Networks[0].MTU); got != want {
						return fmt.Errorf("MTU %d, want %d", got, want)
					}
					return nil
				}
			}
			check(t, mtu(1500-over)())
			x := flow{traffic.End{Host: f.containers[0], Addr: f.inner[0]}, traffic.End{Host: f.containers[1], Addr: f.inner[1]}, 1280}
			reaches(t, x.from.Host, x.to.Addr)
			x.tcp(t, 1<<20)
			f.route(t, 1)
			eventually(t, "the other link's MTU", mtu(1400-over))
			f.route(t, 0)
			eventually(t, "the first link's MTU", mtu(1500-over))
			x.tcp(t, 1<<20)
		})
	}
}

// TestGroupOnLoopback joins the underlay's multicast group on the link by which the
// way to it leads, and on another one when it leads there.
func TestGroupOnLoopback(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			f := newFabric(t, v6, 1500, 1500)
			group, family := netip.MustParseAddr("239.1.1.1"), "-4"
			if v6 {
				group, family = netip.MustParseAddr("ff05::100"), "-6"
			}
			f.route(t, 0)
			way := func(dev string) {
				for _, h := range f.hosts {
					if v6 {
						command(t, h, "ip", "-6", "route", "replace", "multicast", "ff05::/16", "dev", dev, "table", "local", "metric", "1")
					} else {
						command(t, h, "ip", family, "route", "replace", "239.0.0.0/8", "dev", dev)
					}
				}
			}
			way("up0")
			for i := range f.hosts {
				f.start(t, i, fmt.Sprintf("group = %q\nadmit = [%q]\n", group, netip.PrefixFrom(f.vteps[1-i], f.vteps[1-i].BitLen())))
			}
			reaches(t, f.containers[0], f.inner[1])
			joined := func(dev string) error {
				for _, h := range f.hosts {
					out, err := h.Command("ip", "maddr", "show", "dev", dev).Output()
					if err != nil || !strings.Contains(string(out), group.String()) {
						return fmt.Errorf("%s: %v: %s", dev, err, out)
					}
				}
				return nil
			}
			check(t, joined("up0"))
			f.route(t, 1)
			way("up1")
			eventually(t, "the group is joined on the other link", func() error { return joined("up1") })
			reaches(t, f.containers[0], f.inner[1])
		})
	}
}
