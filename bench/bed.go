package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/encap"
)

const (
	vni    encap.VNI = 100
	port   uint16    = 4789
	tapDev           = "ot0"
	// joint is the device that joins the bridges of the plain row.
	joint = "join0"

	pingLimit     = 10 * time.Second
	announceRate  = 50_000 // frames per second, the first time
	announceTurns = 5
)

// BedSpec says what a row must run on.
type BedSpec struct {
	Row     Row
	Offload netlab.Offload
	Binary  string // overtap's, for the rows that have it
	// Peers is how many VTEPs stand on the flood lists; 0 = 1. All but one do
	// not exist: what is sent to them the other host drops.
	Peers int
	// Stations is how many MACs each side's table must have learned from the
	// other beside its container's.
	Stations int
	// Metrics: the daemons listen for who scrapes them.
	Metrics bool
}

// Bed is two sites joined by what the row says, on an underlay of MTU 1500 with
// containers of 1450.
type Bed struct {
	Spec BedSpec
	A, B *netlab.Site

	lab     *netlab.Lab
	daemons []*daemon
}

// NewBed builds the bed and returns once its containers reach each other and its
// tables are full. Close it.
func NewBed(ctx context.Context, s BedSpec) (*Bed, error) {
	lab, err := netlab.New(newLabName())
	if err != nil {
		return nil, err
	}
	b := &Bed{Spec: s, lab: lab}
	if err := b.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("row %s on %s: %w", s.Row, s.Offload, err), b.Close())
	}
	return b, nil
}

// Close ends the daemons and removes the hosts.
func (b *Bed) Close() error {
	var errs []error
	for _, d := range b.daemons {
		errs = append(errs, d.Stop())
	}
	return errors.Join(append(errs, b.lab.Destroy())...)
}

func (b *Bed) build(ctx context.Context) error {
	sites, err := b.lab.Sites(netlab.SiteSpec{Offload: b.Spec.Offload})
	if err != nil {
		return err
	}
	b.A, b.B = sites[0], sites[1]
	if err := b.join(ctx); err != nil {
		return err
	}
	if err := b.awaitReach(ctx); err != nil {
		return err
	}
	return b.announce(ctx)
}

// join makes the tunnel.
func (b *Bed) join(ctx context.Context) error {
	switch b.Spec.Row {
	case Plain:
		return b.joinBridges()
	case Kernel:
		return errors.Join(b.addKernel(b.A, b.B), b.addKernel(b.B, b.A))
	case Overtap:
		return errors.Join(b.addDaemon(ctx, b.A, b.B), b.addKernel(b.B, b.A))
	case Overtap2:
		return errors.Join(b.addDaemon(ctx, b.A, b.B), b.addDaemon(ctx, b.B, b.A))
	case Routed:
		return errors.Join(b.subnets(), b.route(b.A, b.B), b.route(b.B, b.A))
	case IPIP:
		return errors.Join(b.subnets(), b.addDaemon(ctx, b.A, b.B), b.addDaemon(ctx, b.B, b.A))
	}
	return fmt.Errorf("there is no row %q", b.Spec.Row)
}

func (b *Bed) joinBridges() error {
	mtu := int(b.A.MTU)
	if err := netlab.AddVeth(b.A.Host, joint, b.B.Host, joint, mtu); err != nil {
		return err
	}
	for _, s := range []*netlab.Site{b.A, b.B} {
		if err := s.Host.SetOffload(joint, b.Spec.Offload); err != nil {
			return err
		}
		if err := s.Host.SetMaster(joint, netlab.SiteBridge); err != nil {
			return err
		}
	}
	return nil
}

// absent is where the VTEPs live that do not exist.
var absent = netip.MustParsePrefix("192.0.2.128/25")

// peers returns the underlay addresses on the flood list of the site. The absent
// ones are routed to the other host, which is no router and drops what it gets.
func (b *Bed) peers(s, other *netlab.Site) ([]netip.Addr, error) {
	list := []netip.Addr{other.Underlay}
	if b.Spec.Peers < 2 {
		return list, nil
	}
	if err := s.Host.AddRoute(absent, other.Underlay, netlab.UnderlayDev); err != nil {
		return nil, err
	}
	for a := absent.Addr().Next(); len(list) < b.Spec.Peers; a = a.Next() {
		if !absent.Contains(a) {
			return nil, fmt.Errorf("%d peers: want at most %d", b.Spec.Peers, len(list))
		}
		list = append(list, a)
	}
	return list, nil
}

func (b *Bed) addKernel(s, other *netlab.Site) error {
	if !netlab.HaveKernelVXLAN() {
		return errors.New("this kernel has no vxlan")
	}
	flood, err := b.peers(s, other)
	if err != nil {
		return err
	}
	return s.Host.AddVXLAN(netlab.VXLANSpec{
		Name: netlab.SiteVXLAN, VNI: vni, Port: port,
		Local: s.Underlay, Dev: netlab.UnderlayDev, Flood: flood,
		Bridge: netlab.SiteBridge, MTU: int(s.MTU),
	})
}

func (b *Bed) addDaemon(ctx context.Context, s, other *netlab.Site) error {
	flood, err := b.peers(s, other)
	if err != nil {
		return err
	}
	c := daemonConfig{site: s, maxEntries: 1<<16 + 2*b.Spec.Stations}
	if b.Spec.Metrics {
		c.metrics = metricsAddr
	}
	if b.Spec.Row == IPIP {
		c.subnet = subnet(other)
	}
	for _, p := range flood {
		c.peers = append(c.peers, p.String())
	}
	d, err := startDaemon(ctx, b.Spec.Binary, c)
	if err != nil {
		return err
	}
	b.daemons = append(b.daemons, d)
	return nil
}

// awaitReach waits until the containers know each other's MAC.
func (b *Bed) awaitReach(ctx context.Context) error {
	for deadline := time.Now().Add(pingLimit); ; {
		r, err := netlab.Ping(b.A.Container, b.B.IPv4, netlab.PingOptions{Count: 3, Timeout: 200 * time.Millisecond})
		if err != nil {
			return err
		}
		if r.Received == r.Sent {
			return nil
		}
		if err := errors.Join(ctx.Err(), b.alive()); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the containers do not reach each other within %v: %v", pingLimit, r)
		}
	}
}

// stations are those behind the sites' containers.
func (b *Bed) stations() (atA, atB traffic.Stations) {
	return traffic.Stations{Side: 0, Count: b.Spec.Stations}, traffic.Stations{Side: 1, Count: b.Spec.Stations}
}

// announce has every station speak to all, so that the tables learn them.
func (b *Bed) announce(ctx context.Context) error {
	if b.Spec.Stations == 0 {
		return nil
	}
	atA, atB := b.stations()
	return errors.Join(b.announceFrom(ctx, b.A, b.B, atA), b.announceFrom(ctx, b.B, b.A, atB))
}

// announceFrom repeats it, slower each time, until the other site knows them all:
// its daemon says so, and the kernel has learned what it delivers (vxlan_rcv).
// To list a table of this size takes the kernel seconds.
func (b *Bed) announceFrom(ctx context.Context, from, to *netlab.Site, s traffic.Stations) error {
	var known int
	for turn := range announceTurns {
		r, err := traffic.Frames(ctx, from.Container, to.Container, traffic.FrameOptions{
			From: s, Count: int64(s.Count), Rate: announceRate / float64(int(1)<<turn),
		})
		if err != nil {
			return err
		}
		known = int(r.Received)
		for _, d := range b.daemons {
			if d.site != to {
				continue
			}
			if known, err = d.learned(ctx); err != nil {
				return err
			}
		}
		if known >= s.Count {
			return nil
		}
	}
	return fmt.Errorf("site %s knows %d of the other's %d stations, after they spoke up %d times",
		to.Host.Name(), known, s.Count, announceTurns)
}

// alive returns an error when a daemon has ended.
func (b *Bed) alive() error {
	for _, d := range b.daemons {
		if err := d.Alive(); err != nil {
			return err
		}
	}
	return nil
}
