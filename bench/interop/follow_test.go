package interop

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

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

// An underlay device that is deleted and made anew is used again: also by
// sockets that were bound to the old one, and by a multicast group.
func TestUnderlayDeviceMadeAnew(t *testing.T) {
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
		t.Error("the engine was started anew for nothing")
	}
}

// A bridge that is deleted and made again, by overtap or by who made it, has
// the TAP as its port again.
func TestBridgeMadeAgain(t *testing.T) {
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

// An underlay whose MTU shrinks makes derived MTUs shrink, and traffic of the
// new size passes.
func TestUnderlayMTUShrinks(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6 %v", v6), func(t *testing.T) {
			d, a, b := overtaps(t, netlab.SiteSpec{V6: v6})
			reaches(t, a.Container, b.IPv4)
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
				reaches(t, a.Container, b.IPv4)
				reaches(t, b.Container, a.IPv6)
			}
			exchange(t, a, b, 1<<20)
		})
	}
}
