package guest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"overtap/bench/netlab"
)

// Dev is the guest's only device.
const Dev = "eth0"

// Join joins a host to the guest by a veth pair: dev on the host, with an MTU in
// bytes, and a port of the guest's bridge, named port0, port1 and so on. It sets
// the guest's device up, with that MTU. Hosts that are joined to one guest are one segment.
func (g *Guest) Join(ctx context.Context, h *netlab.Host, dev string, mtu int) error {
	port := fmt.Sprintf("port%d", len(g.ports))
	if err := netlab.AddVeth(g.host, port, h, dev, mtu); err != nil {
		return err
	}
	g.ports = append(g.ports, port)
	if err := g.host.SetMaster(port, bridge); err != nil {
		return err
	}
	if err := g.host.SetMTU(tap, mtu); err != nil {
		return err
	}
	_, err := g.Run(ctx, fmt.Sprintf("ip link set %s mtu %d up", Dev, mtu))
	return err
}

// AddAddr gives a device of the guest an address.
func (g *Guest) AddAddr(ctx context.Context, dev string, p netip.Prefix) error {
	_, err := g.Run(ctx, fmt.Sprintf("ip address add %v dev %s", p, dev))
	return err
}

// Reset takes everything away that was set up in the guest by way of this
// package, by ip or by bridge, ends every program in it, and unjoins the hosts.
// Counters of the kernel and what was written to /proc/sys stay.
func (g *Guest) Reset(ctx context.Context) error {
	for ; len(g.ports) > 0; g.ports = g.ports[1:] {
		if err := g.host.DeleteLink(g.ports[0]); err != nil {
			return err
		}
	}
	// The kernel keeps tunl0: it can not be removed without its module. The
	// shell that runs the script and init are spared by kill -1.
	_, err := g.Run(ctx, `
		kill -9 -1 || true 
		for dev in $(ls /sys/class/net); do
			case $dev in
			lo) ;;
			eth0|tunl0)
				ip link set $dev down
				ip address flush dev $dev ;;
			*) ! [ -e /sys/class/net/$dev ] || ip link delete $dev ;;
			esac
		done
		ip route flush table main
		ip -6 route flush table main
		rm -rf /tmp/*`)
	return err
}

// IPIPSpec says what an ipip device of the guest's kernel must be.
type IPIPSpec struct {
	Name   string
	Local  netip.Addr // outer IPv4 addresses
	Remote netip.Addr // invalid = by the route's next hop
	MTU    int        // bytes; 0 = the kernel's choice
	// More are further words of `ip tunnel add`, such as ttl 5, tos inherit or
	// nopmtudisc.
	More string
}

// IPIP makes an ipip device of the guest's kernel and sets it up.
func (g *Guest) IPIP(ctx context.Context, s IPIPSpec) error {
	remote := "any"
	if s.Remote.IsValid() {
		remote = s.Remote.String()
	}
	_, err := g.Run(ctx, fmt.Sprintf("ip tunnel add %s mode ipip local %v remote %s dev %s %s\nip link set %s %s up",
		s.Name, s.Local, remote, Dev, s.More, s.Name, mtu(s.MTU)))
	return err
}

// VXLAN makes a vxlan device of the guest's kernel and sets it up. The
// underlay's device is the guest's own. ZeroChecksum, AcceptZeroSum6 and
// Suppress are not for guests.
func (g *Guest) VXLAN(ctx context.Context, s netlab.VXLANSpec) error {
	if s.ZeroChecksum || s.AcceptZeroSum6 || s.Suppress || s.Dev != "" && s.Dev != Dev {
		return fmt.Errorf("the guest can not have a vxlan device of %+v", s)
	}
	port := s.Port
	if port == 0 {
		port = 4789
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ip link add %s", s.Name)
	if s.MAC != 0 {
		fmt.Fprintf(&b, " address %v", s.MAC)
	}
	fmt.Fprintf(&b, " type vxlan id %d local %v dstport %d dev %s", s.VNI, s.Local, port, Dev)
	switch {
	case s.Remote.IsMulticast():
		fmt.Fprintf(&b, " group %v", s.Remote)
	case s.Remote.IsValid():
		fmt.Fprintf(&b, " remote %v", s.Remote)
	}
	for _, word := range []struct {
		on   bool
		text string
	}{
		{s.NoLearning, "nolearning"}, {s.TTL != 0, fmt.Sprintf("ttl %d", s.TTL)},
		{s.TOS == 1, "tos inherit"}, {s.TOS > 1, fmt.Sprintf("tos %#x", s.TOS)}, {s.DF, "df set"},
	} {
		if word.on {
			fmt.Fprintf(&b, " %s", word.text)
		}
	}
	for _, peer := range s.Flood {
		fmt.Fprintf(&b, "\nbridge fdb append 00:00:00:00:00:00 dev %s dst %v", s.Name, peer)
	}
	if s.Bridge != "" {
		fmt.Fprintf(&b, "\nip link set %s master %s", s.Name, s.Bridge)
	}
	fmt.Fprintf(&b, "\nip link set %s %s up", s.Name, mtu(s.MTU))
	_, err := g.Run(ctx, b.String())
	return err
}

func mtu(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("mtu %d", n)
}
