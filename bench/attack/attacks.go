package main

import (
	"context"
	"net/netip"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/encap"
)

// attack is one kind of attack.
type attack struct {
	name  string // on the command line
	title string
	peer  bool // site c is listed as a peer; else it is a stranger
	tcp   bool // a TCP flow from b to a is measured beside the probe, before and meanwhile
	// guarded are keys of the network's table that this attack is what they are for;
	// overtap is measured without and with them. nil = the defaults suffice.
	guarded []string
	pins    bool // as well, with each peer pinned to its MACs
	run     func(ctx context.Context, s *scene) (sent int64, took time.Duration, err error)
}

// column is who ends the tunnel at site a.
type column struct {
	title  string
	kernel bool
	lines  []string // further keys of overtap's table
	pins   bool     // its peers may send from their own MACs alone
}

func (a attack) columns() []column {
	all := []column{{title: "overtap"}}
	if a.guarded != nil {
		title := ""
		for i, key := range a.guarded {
			if i > 0 {
				title += ", "
			}
			title += "`" + key + "`"
		}
		all = append(all, column{title: "overtap, " + title, lines: a.guarded})
	}
	if a.pins {
		all = append(all, column{title: "overtap, `macs` of each peer", pins: true})
	}
	return append(all, column{title: "kernel", kernel: true})
}

const (
	// impostor is the first of the MACs that no host has.
	impostor encap.MAC = 0x0242_0300_0000
	// spoofed is how many source MACs the attack on the table has.
	spoofed = 1_000_000
	// moving is how often a second a MAC moves.
	moving = 10_000
)

// attacks are all of them.
var attacks = []attack{
	{name: "macs", title: "A peer sends from 1 M source MACs", peer: true, run: func(ctx context.Context, s *scene) (int64, time.Duration, error) {
		count := int64(min(spoofed, s.most))
		return s.vxlan(ctx, []traffic.End{s.stranger()}, traffic.VXLANOptions{Dst: s.a.MAC, Src: impostor, Sources: int(count), Count: count})
	}},
	{name: "stranger", title: "An unlisted host floods small VXLAN frames", tcp: true, run: func(ctx context.Context, s *scene) (int64, time.Duration, error) {
		return s.vxlan(ctx, []traffic.End{s.stranger()}, traffic.VXLANOptions{Dst: s.a.MAC, Src: impostor, Duration: s.lasting})
	}},
	{name: "storm", title: "A peer storms broadcasts", peer: true, tcp: true, guarded: []string{"storm_broadcast = 1000"},
		run: func(ctx context.Context, s *scene) (int64, time.Duration, error) {
			return s.vxlan(ctx, []traffic.End{s.stranger()}, traffic.VXLANOptions{Dst: encap.BroadcastMAC, Src: impostor, Duration: s.lasting})
		}},
	{name: "flap", title: "A MAC moves between two peers, 10 k times a second", peer: true, run: func(ctx context.Context, s *scene) (int64, time.Duration, error) {
		return s.vxlan(ctx, []traffic.End{{Host: s.b.Host, Addr: s.b.Underlay}, s.stranger()},
			traffic.VXLANOptions{Dst: s.a.MAC, Src: impostor, Batch: 1, Rate: moving, Duration: s.lasting})
	}},
	{name: "theft", title: "A peer claims the MAC of another's container, 10 k times a second", peer: true, pins: true,
		run: func(ctx context.Context, s *scene) (int64, time.Duration, error) {
			return s.vxlan(ctx, []traffic.End{s.stranger()},
				traffic.VXLANOptions{Dst: s.a.MAC, Src: s.b.MAC, Batch: 1, Rate: moving, Duration: s.lasting})
		}},
	{name: "container", title: "A container floods while another of its host is in use", run: func(ctx context.Context, s *scene) (int64, time.Duration, error) {
		from, err := s.second()
		if err != nil {
			return 0, 0, err
		}
		r, err := traffic.UDP(ctx, from, traffic.End{Host: s.b.Container, Addr: s.b.IPv4}, traffic.UDPOptions{Size: 64, Duration: s.lasting})
		return r.Offered, r.Sending, err
	}},
}

// stranger is site c, which the attacks come from.
func (s *scene) stranger() traffic.End { return traffic.End{Host: s.c.Host, Addr: s.c.Underlay} }

// vxlan sends to the tunnel's end at a.
func (s *scene) vxlan(ctx context.Context, from []traffic.End, o traffic.VXLANOptions) (int64, time.Duration, error) {
	o.VNI = vni
	return traffic.VXLAN(ctx, from, netip.AddrPortFrom(s.a.Underlay, port), o)
}

// second is another container at a.
func (s *scene) second() (traffic.End, error) {
	addr := netip.MustParsePrefix("198.51.100.202/24")
	c, err := s.a.Host.AddContainer(netlab.ContainerSpec{
		Name: "a2", Bridge: netlab.SiteBridge, MTU: int(s.a.MTU), MAC: 0x0242_0000_0067, Addrs: []netip.Prefix{addr},
	})
	return traffic.End{Host: c, Addr: addr.Addr()}, err
}
