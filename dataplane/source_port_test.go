package dataplane_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"

	"github.com/vishvananda/netlink"
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

// TestReservedSourcePorts has an engine find all but a few ports of the dynamic
// range reserved, over each family: it takes of those few, also for a socket that
// moves, and gives up what is reserved later.
func TestReservedSourcePorts(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites, err := lab.Sites(netlab.SiteSpec{V6: v6})
			if err != nil {
				t.Fatal(err)
			}
			a := sites[0]
			const sysctl = "net/ipv4/ip_local_reserved_ports"
			reserve := func(list string) {
				t.Helper()
				if err := a.Host.Sysctl(sysctl, list); err != nil {
					t.Fatal(err)
				}
			}
			within := func(e *dataplane.Engine, first, last uint16) {
				t.Helper()
				for _, port := range e.Kernel().AllSourcePorts() {
					if port < first || port > last {
						t.Errorf("source port %d: want %d to %d", port, first, last)
					}
				}
			}
			reserve("8080,49152-59999,60020-65535")
			e := overtapWith(t, a, linux.Options{Workers: 1, SourcePorts: 4}, siteNetwork(a, sites...))
			within(e, 60000, 60019)

			taken := e.Info().Sources[1]
			reserve(fmt.Sprintf("49152-59999,60040-65535,%d", taken))
			if err := a.Host.Do(e.Kernel().VacateReserved); err != nil {
				t.Fatal(err)
			}
			within(e, 60000, 60039)
			if slices.Contains(e.Kernel().AllSourcePorts(), taken) {
				t.Errorf("port %d is a source port still", taken)
			}

			reserve("1-65535")
			err = a.Host.Do(func() error {
				_, err := newEngine(linux.Options{Workers: 1, Underlay: a.Underlay})
				return err
			})
			if err == nil || !strings.Contains(err.Error(), "ip_local_reserved_ports reserves every port from 49152 to 65535") {
				t.Errorf("with every port reserved: %v", err)
			}
		})
	}
}

// TestFragmentsWhereAllowed sends bulk to a peer behind a path that its packets
// do not fit, without DF: the kernel fragments them, GSO packets too.
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
