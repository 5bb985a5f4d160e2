package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// awaitReady waits until the daemon says whether it is ready.
func (d *daemon) awaitReady(ready bool) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("ready = %v", ready), func() error {
		if d.status().Ready != ready {
			return errors.New(d.verb("status"))
		}
		return nil
	})
}

// overtaps are two sites with overtap at both ends, bound to the underlay's
// device.
func overtaps(t *testing.T, s netlab.SiteSpec, lines ...string) (d [2]*daemon, a, b *netlab.Site) {
	t.Helper()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(s))
	for i, site := range sites {
		c := at(site, blue(site, sites...).with(lines...))
		c.device = netlab.UnderlayDev
		d[i] = start(t, site.Host, c)
	}
	return d, sites[0], sites[1]
}

// An underlay device that is deleted and made again is used again: also by
// sockets that were bound to the old one, and by a multicast group.
func TestUnderlayDeviceMadeAnew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		v6    bool
		lines []string
	}{
		{"v4", false, nil},
		{"v4 group", false, []string{`admit = "any"`, `group = "239.1.1.1"`}},
		{"v6 group", true, []string{`admit = "any"`, `group = "ff05::100"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, a, b := overtaps(t, netlab.SiteSpec{V6: c.v6}, c.lines...)
			reaches(t, a.Container, b.IPv4)
			same := furnishTAP(t, a.Host, "vx-blue")
			check(t, a.Host.DeleteLink(netlab.UnderlayDev)) // and the other end with it
			for _, d := range d {
				d.awaitReady(false)
			}
			d[0].idles()
			check(t, netlab.AddVeth(a.Host, netlab.UnderlayDev, b.Host, netlab.UnderlayDev, 1500))
			for i, s := range []*netlab.Site{a, b} {
				for _, v6 := range []bool{false, true} {
					bits := 24
					if v6 {
						bits = 64
					}
					check(t, s.Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(netlab.UnderlayAddr(i+1, v6), bits)))
				}
			}
			for _, d := range d {
				d.awaitReady(true)
			}
			reaches(t, a.Container, b.IPv4)
			reaches(t, b.Container, a.IPv6)
			same()
			exchange(t, a, b, 1<<20)
			for _, d := range d {
				if n := strings.Count(d.log.String(), "learned entries are lost"); n != 1 {
					t.Errorf("said %d times that learned entries are lost", n)
				}
			}
		})
	}
}

// An underlay address that is gone and comes back is used by the same sockets.
func TestUnderlayAddressGone(t *testing.T) {
	t.Parallel()
	d, a, b := overtaps(t, netlab.SiteSpec{})
	reaches(t, a.Container, b.IPv4)
	for range 2 {
		delAddr(t, a.Host, netlab.UnderlayDev, netip.PrefixFrom(a.Underlay, 24))
		d[0].awaitReady(false)
		check(t, a.Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(a.Underlay, 24)))
		d[0].awaitReady(true)
		reaches(t, a.Container, b.IPv4)
	}
	exchange(t, a, b, 1<<20)
	if strings.Contains(d[0].log.String(), "learned entries are lost") {
		t.Error("the engine was started again for nothing")
	}
}

// A bridge that is deleted and made again, by overtap or by who made it, has
// the TAP as its port again.
func TestBridgeMadeAgain(t *testing.T) {
	t.Parallel()
	for _, bridge := range []string{netlab.SiteBridge, "br-blue"} {
		t.Run(bridge, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
			a, b := sites[0], sites[1]
			kernel.end(t, b, blue(b, sites...), sites)
			n := blue(a, sites...).with(`addresses = ["198.51.100.101/24"]`)
			n.bridge = bridge
			d := start(t, a.Host, at(a, n))
			check(t, a.Host.SetMaster(a.Container.Name(), bridge))
			reaches(t, a.Container, b.IPv4)
			for range 2 {
				check(t, a.Host.DeleteLink(bridge))
				if bridge == netlab.SiteBridge {
					d.awaitReady(false)
					check(t, a.Host.AddBridge(bridge, int(a.MTU)))
				}
				eventually(t, "the TAP on its bridge", func() error {
					if p := ports(t, a.Host, bridge); !slices.Contains(p, "vx-blue") {
						return fmt.Errorf("its ports: %v", p)
					}
					return nil
				})
				check(t, a.Host.SetMaster(a.Container.Name(), bridge))
				reaches(t, a.Container, b.IPv4)
				reaches(t, b.Container, netip.MustParseAddr("198.51.100.101"))
				d.awaitReady(true)
			}
			d.idles()
			exchange(t, a, b, 1<<20)
		})
	}
}

// A TAP, or a bridge that overtap made, that gets another MAC from outside has its own
// again, and the log says so.
func TestMACPutBack(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	n := blue(a, sites...)
	n.bridge = "br-blue"
	d := start(t, a.Host, at(a, n))
	check(t, a.Host.SetMaster(a.Container.Name(), "br-blue"))
	for _, dev := range []string{"vx-blue", "br-blue"} {
		own := must[encap.MAC](t)(a.Host.MAC(dev))
		check(t, a.Host.SetMAC(dev, 0x0242_dead_0001))
		eventually(t, "its own MAC", func() error {
			if got := must[encap.MAC](t)(a.Host.MAC(dev)); got != own || !strings.Contains(d.log.String(), "the MAC of "+dev) {
				return fmt.Errorf("%s has the MAC %s, want %s; the log:\n%s", dev, got, own, d.log)
			}
			return nil
		})
	}
	d.awaitReady(true)
	reaches(t, a.Container, b.IPv4)
}

// furnishTAP puts on the TAP what an administrator may: isolation of the bridge's port,
// or a macvlan where there is no bridge, and a qdisc for filters. It returns a call that
// wants the same device with all of it.
func furnishTAP(t *testing.T, h *netlab.Host, tap string) (same func()) {
	t.Helper()
	nh := must[*netlink.Handle](t)(h.Netlink())
	l := must[netlink.Link](t)(nh.LinkByName(tap))
	index, bridge := l.Attrs().Index, l.Attrs().MasterIndex
	if bridge != 0 {
		check(t, nh.LinkSetIsolated(l, true))
	} else {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "upon", index
		check(t, nh.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	}
	check(t, nh.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
	return func() {
		t.Helper()
		l := must[netlink.Link](t)(nh.LinkByName(tap))
		if got := l.Attrs().Index; got != index {
			t.Errorf("%s has the index %d, had %d: it is another device", tap, got, index)
			return
		}
		if got := l.Attrs().MasterIndex; got != bridge {
			t.Errorf("%s is a port of link %d, was of %d", tap, got, bridge)
		}
		if bridge == 0 {
			if m := must[netlink.Link](t)(nh.LinkByName("upon")); m.Attrs().ParentIndex != index {
				t.Errorf("the macvlan stands on link %d", m.Attrs().ParentIndex)
			}
		} else if p := must[netlink.Protinfo](t)(nh.LinkGetProtinfo(l)); !p.Isolated {
			t.Errorf("%s is no longer isolated", tap)
		}
		qdiscs := must[[]netlink.Qdisc](t)(nh.QdiscList(l))
		if !slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }) {
			t.Errorf("%s has the qdiscs %v, and no clsact", tap, qdiscs)
		}
	}
}

// An underlay whose MTU shrinks makes derived MTUs shrink, and traffic of the
// new size passes.
func TestUnderlayMTUShrinks(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6 %v", v6), func(t *testing.T) {
			d, a, b := overtaps(t, netlab.SiteSpec{V6: v6})
			reaches(t, a.Container, b.IPv4)
			same := furnishTAP(t, a.Host, "vx-blue")
			for _, mtu := range []encap.UnderlayMTU{1400, 1500} {
				want := must[encap.OverlayMTU](t)(mtu.VXLANOverlay(v6))
				for _, s := range []*netlab.Site{a, b} {
					check(t, s.Host.SetMTU(netlab.UnderlayDev, int(mtu)))
				}
				for i, s := range []*netlab.Site{a, b} {
					eventually(t, "the MTU", func() error {
						got, err := s.Host.MTU("vx-blue") // gone for a moment
						if err == nil && (got != int(want) || !d[i].status().Ready) {
							err = fmt.Errorf("%d, want %d", got, want)
						}
						return err
					})
					check(t, s.Container.SetMTU(netlab.ContainerDev, int(want)))
					check(t, s.Host.SetMTU(s.Container.Name(), int(want)))
					s.MTU = want
				}
				same()
				if e, ok := d[0].entry("blue", b.MAC); !ok || e.Origin != "learned" {
					t.Errorf("with an underlay MTU of %d what was learned is lost: %+v, %v", mtu, e, ok)
				}
				reaches(t, a.Container, b.IPv4)
				reaches(t, b.Container, a.IPv6)
			}
			exchange(t, a, b, 1<<20)
		})
	}
}
