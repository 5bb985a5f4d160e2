package bench

import (
	"net/netip"

	"overtap/bench/netlab"
)

// subnet is where a site's container is, where each has one of its own: .1 is
// the host's, .2 the container's.
func subnet(s *netlab.Site) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(s.N), 0}), 24)
}

// everySubnet holds them all.
var everySubnet = netip.MustParsePrefix("10.1.0.0/16")

// subnets moves the containers into a subnet each, with the hosts as routers.
func (b *Bed) subnets() error {
	for _, s := range []*netlab.Site{b.A, b.B} {
		gateway := subnet(s).Addr().Next()
		s.IPv4 = gateway.Next()
		for _, err := range []error{
			s.Host.Sysctl("net/ipv4/ip_forward", "1"),
			s.Host.AddAddr(netlab.SiteBridge, netip.PrefixFrom(gateway, 24)),
			s.Container.AddAddr(netlab.ContainerDev, netip.PrefixFrom(s.IPv4, 24)),
			s.Container.AddRoute(everySubnet, gateway, netlab.ContainerDev),
		} {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// route leads from one site's host to the other's container without a tunnel.
func (b *Bed) route(from, to *netlab.Site) error {
	return from.Host.AddRoute(subnet(to), to.Underlay, netlab.UnderlayDev)
}
