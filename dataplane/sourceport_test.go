package dataplane_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/dataplane"
)

// TestSourcePortGivesWay has a network listen on a port that stands in the pool
// of source ports.
func TestSourcePortGivesWay(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	taken := e.Info().Sources[3]
	n := siteNetwork(a, a, b)
	other := n
	other.Name, other.Device, other.VNI, other.Port = "red", "vx1", 200, taken
	if err := a.Host.Do(func() error {
		_, err := e.Apply(dataplane.Desired{Networks: []dataplane.Network{n, other}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(e.Info().Sources, taken) {
		t.Errorf("port %d is a source port still", taken)
	}
	bulk(t, a, b) // by all source ports
}

// TestFragmentsWhereAllowed sends bulk to a peer behind a path that its packets
// do not fit, without DF: the kernel fragments them, superframes too.
func TestFragmentsWhereAllowed(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, func(n *dataplane.Network) { n.DF = false })
	nl, err := a.Host.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	link, err := nl.LinkByName(netlab.UnderlayDev)
	if err != nil {
		t.Fatal(err)
	}
	if err := nl.RouteAdd(&netlink.Route{
		Dst:       &net.IPNet{IP: b.Underlay.AsSlice(), Mask: net.CIDRMask(32, 32)},
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, MTU: 1400, MTULock: true,
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	from := traffic.End{Host: a.Container, Addr: a.IPv4}
	to := traffic.End{Host: b.Container, Addr: b.IPv4}
	if _, err := traffic.TCP(ctx, from, to, traffic.TCPOptions{Bytes: 4 << 20, Checked: true}); err != nil {
		t.Error(err)
	}
	if n := e.Stats().Drops; slices.ContainsFunc(n, func(d dataplane.DropStats) bool { return d.Direction == dataplane.Outbound }) {
		t.Errorf("dropped: %+v", n)
	}
	if e.Info().SegmentationRefused {
		t.Error("a small path was taken for a route without segmentation")
	}
}
