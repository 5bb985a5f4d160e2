package dataplane

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"overtap/dataplane/netio"
)

// A VXLAN sender may leave the UDP checksum zero (RFC 7348 section 5). Over IPv4
// every receiver takes it. Over IPv6, whose header has no checksum of its own, the kernel drops
// such a datagram before a socket sees it, unless that socket asks for them
// (UDP_NO_CHECK6_RX; RFC 6935, and RFC 6936 for who may). A socket is that of all
// networks of its port, so where they differ, or their peers, a socket filter keeps
// nothing of the datagrams of the others but their header (netio/linux/zero_filter.go), and
// they are dropped here under a name.

// zeroChecksum says what holds for the port when these are all its networks.
func zeroChecksum(networks []*Network) netio.PortZeroChecksum {
	z := netio.PortZeroChecksum{Any: len(networks) > 0}
	for _, n := range networks {
		c := n.ZeroChecksum
		if !c.Accept || len(c.Except) > 0 {
			z.Any = false
		}
		if c.Accept || len(c.Except) > 0 {
			z.Networks = append(z.Networks, netio.NetworkZeroChecksum{VNI: n.VNI, ZeroChecksum: c})
		}
	}
	if z.Any {
		z.Networks = nil
	}
	slices.SortFunc(z.Networks, func(a, b netio.NetworkZeroChecksum) int { return cmp.Compare(a.VNI, b.VNI) })
	return z
}

// checkZeroChecksum reports ports with more rules than a socket filter takes.
func (d *Desired) checkZeroChecksum() (errs []error) {
	for port, networks := range d.byPort() {
		z := zeroChecksum(networks)
		if cost := z.FilterCost(); cost > netio.MaxFilterCost {
			most := netio.MaxFilterExceptions
			errs = append(errs, fmt.Errorf("port %d: zero UDP checksums of IPv6 are taken by %d networks with exceptions, which is more than a socket filter holds: "+
				"want less than %d peers that differ from their network", port, len(z.Networks), most))
		}
	}
	return errs
}

// byPort are the networks of each port.
func (d *Desired) byPort() map[uint16][]*Network {
	all := make(map[uint16][]*Network)
	for i := range d.Networks {
		n := &d.Networks[i]
		all[n.Port] = append(all[n.Port], n)
	}
	return all
}

// acceptZeroChecksums has the sockets take what the networks do, where that is
// another than before. Those that another engine works with still are left alone
// until Start.
func (e *Engine) acceptZeroChecksums() error {
	if e.options.Hold && !e.running.Load() {
		return nil
	}
	byPort := make(map[uint16][]*Network)
	for _, n := range e.snapshot.Load().networks {
		byPort[n.config().Port] = append(byPort[n.config().Port], n.config())
	}
	for at, wires := range e.conns {
		if at == protocol4 {
			continue
		}
		z := zeroChecksum(byPort[at.port])
		if was, ok := e.zero[at]; ok && reflect.DeepEqual(was, z) {
			continue
		}
		for _, w := range wires {
			if err := w.AcceptZeroChecksums(z); err != nil {
				return fmt.Errorf("port %d: take UDP checksums of zero: %w", at.port, err)
			}
		}
		e.zero[at] = z
	}
	return nil
}
