package netlab

import (
	"fmt"
	"net/netip"

	"overtap/encap"
)

// SiteBridge is the bridge of every site's host, and SiteVXLAN the kernel's
// vxlan device where a site has it.
const (
	SiteBridge = "br0"
	SiteVXLAN  = "vx0"
)

// SiteSpec says how sites must be made. The zero value is two of them on an
// IPv4 underlay of MTU 1500 with all offloads.
type SiteSpec struct {
	Count       int  // sites; 0 = 2; at most 26
	V6          bool // tunnels run over the underlay's IPv6 addresses
	UnderlayMTU encap.UnderlayMTU
	Hop         encap.UnderlayMTU // of a link between routers on the way; 0 = there are none; two sites only
	Offload     Offload
}

// Site is one end of an overlay without the tunnel: a host on the underlay with
// a bridge, and a container on that bridge. The tunnel, of overtap or the kernel, joins
// the bridges.
type Site struct {
	N         int              // from 1, its place among the sites
	Host      *Host            // named a, b, c …
	Container *Host            // named a1, b1, c1 …
	Underlay  netip.Addr       // of the host: what peers know it by
	MTU       encap.OverlayMTU // of the bridge and the container

	// Of the container: 198.51.100.n and 2001:db8:1::n, and 02:42 followed by
	// the IPv4 address.
	IPv4, IPv6 netip.Addr
	MAC        encap.MAC
}

// Sites makes hosts on an underlay, each with a bridge and a container.
func (l *Lab) Sites(s SiteSpec) ([]*Site, error) {
	if s.Count == 0 {
		s.Count = 2
	}
	if s.Count < 2 || s.Count > 26 {
		return nil, fmt.Errorf("lab %s: %d sites: want 2 to 26", l.name, s.Count)
	}
	if s.UnderlayMTU == 0 {
		s.UnderlayMTU = 1500
	}
	if s.Hop != 0 && s.Count != 2 {
		return nil, fmt.Errorf("lab %s: %d sites with routers between: want 2", l.name, s.Count)
	}
	mtu, err := s.UnderlayMTU.VXLANOverlay(s.V6)
	if err != nil {
		return nil, err
	}
	hosts := make([]*Host, s.Count)
	for i := range hosts {
		if hosts[i], err = l.AddHost(string(rune('a' + i))); err != nil {
			return nil, err
		}
	}
	if s.Hop == 0 {
		err = l.Underlay(int(s.UnderlayMTU), hosts...)
	} else {
		err = l.RoutedUnderlay(int(s.UnderlayMTU), int(s.Hop), hosts[0], hosts[1])
	}
	if err != nil {
		return nil, err
	}
	if err := l.SetUnderlayOffload(s.Offload, hosts...); err != nil {
		return nil, err
	}
	sites := make([]*Site, s.Count)
	for i, h := range hosts {
		n := i + 1
		sites[i] = &Site{N: n, Host: h, Underlay: UnderlayAddr(n, s.V6), MTU: mtu}
		if err := h.AddBridge(SiteBridge, int(mtu)); err != nil {
			return nil, err
		}
		if err := sites[i].addFirst(); err != nil {
			return nil, err
		}
	}
	return sites, nil
}

// addFirst makes the site's own container.
func (s *Site) addFirst() error {
	s.IPv4 = netip.AddrFrom4([4]byte{198, 51, 100, byte(s.N)})
	s.IPv6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, 15: byte(s.N)})
	s.MAC = containerMAC(s.IPv4)
	c, err := s.Host.AddContainer(ContainerSpec{
		Name:   s.Host.name + "1",
		Bridge: SiteBridge,
		MAC:    s.MAC,
		MTU:    int(s.MTU),
		Addrs:  []netip.Prefix{netip.PrefixFrom(s.IPv4, 24), netip.PrefixFrom(s.IPv6, 64)},
	})
	s.Container = c
	return err
}

// containerMAC is a locally administered address made from an IPv4 address, as
// Docker makes them.
func containerMAC(a netip.Addr) encap.MAC {
	b := a.As4()
	return encap.MACFrom([]byte{0x02, 0x42, b[0], b[1], b[2], b[3]})
}

// AddKernelVXLAN ends the tunnel of the site by the kernel's vxlan device vx0
// on the site's bridge, with every peer on its flood list.
func (s *Site) AddKernelVXLAN(vni encap.VNI, port uint16, peers ...*Site) error {
	spec := VXLANSpec{
		Name: SiteVXLAN, VNI: vni, Port: port,
		Local: s.Underlay, Dev: UnderlayDev,
		Bridge: SiteBridge, MTU: int(s.MTU),
	}
	for _, p := range peers {
		if p.N != s.N {
			spec.Flood = append(spec.Flood, p.Underlay)
		}
	}
	return s.Host.AddVXLAN(spec)
}

// KernelPair makes two sites joined by the kernel's vxlan at both ends, VNI 100
// on port 4789: the baseline of the benchmarks.
func (l *Lab) KernelPair(s SiteSpec) (a, b *Site, err error) {
	s.Count = 2
	sites, err := l.Sites(s)
	if err != nil {
		return nil, nil, err
	}
	for _, site := range sites {
		if err := site.AddKernelVXLAN(100, 4789, sites...); err != nil {
			return nil, nil, err
		}
	}
	return sites[0], sites[1], nil
}
