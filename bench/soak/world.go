package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"overtap/bench"
	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/encap"
)

const (
	vni  encap.VNI = 100
	port uint16    = 4789
	// metrics is each daemon's listener, in its host's namespace.
	metrics = "127.0.0.1:9472"
	// guest is the number of the site that is a peer now and then.
	guest = 3

	reachLimit = 20 * time.Second
)

// The container that moves, and the one that comes and goes.
var (
	moverIP   = netip.MustParseAddr("198.51.100.77")
	moverMAC  = encap.MACFrom([]byte{0x02, 0x42, 198, 51, 100, 77})
	visitorIP = netip.MustParseAddr("198.51.100.78")
)

// world is four sites on one network: overtap on a and b, the kernel's device on c
// and d. a, b and c are peers of each other all the time, d now and then. Each has a
// container; two more stand on a or b.
type world struct {
	lab            *netlab.Lab
	sites          []*netlab.Site
	nodes          []*node // of a and b
	mover, visitor *netlab.Host
}

// node is a daemon and what it is told.
type node struct {
	*bench.Daemon
	site  *netlab.Site
	peers []*netlab.Site
	want  wanted

	settled dropCounts // dropped before the soak began
}

// wanted is what a configuration varies in.
type wanted struct {
	guest bool // d is a peer
	red   bool // there is a second network
	ttl   int
}

func (n *node) toml(socket string, w wanted) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[underlay]\naddress = %q\n[control]\nsocket = %q\nmetrics = %q\n", n.site.Underlay, socket, metrics)
	table(&b, "blue", vni, netlab.SiteBridge, w.ttl)
	for i, p := range n.peers {
		if p != n.site && (i != guest || w.guest) {
			fmt.Fprintf(&b, "[[vxlan.peer]]\naddress = %q\n", p.Underlay)
		}
	}
	if w.red {
		table(&b, "red", vni+1, "br-red", w.ttl)
		fmt.Fprintf(&b, "[[vxlan.peer]]\naddress = %q\n", n.peers[2].Underlay)
	}
	return b.String()
}

func table(b *strings.Builder, name string, vni encap.VNI, bridge string, ttl int) {
	fmt.Fprintf(b, "[[vxlan]]\nname = %q\nvni = %d\nport = %d\ntap = %q\nbridge = %q\nttl = %d\nageing = \"30s\"\nmax_entries = 4096\n",
		name, vni, port, "vx-"+name, bridge, ttl)
}

// apply rewrites the configuration. The error is that of reload, after which what
// was wanted before is still so.
func (n *node) apply(ctx context.Context, w wanted) error {
	if err := os.WriteFile(n.Config(), []byte(n.toml(n.Socket(), w)), 0o600); err != nil {
		return err
	}
	if _, err := n.Verb(ctx, "reload"); err != nil {
		return err
	}
	n.want = w
	return nil
}

// newWorld builds it and returns once all containers reach each other.
func newWorld(ctx context.Context, binary string) (*world, error) {
	lab, err := netlab.New(fmt.Sprintf("soak%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	w := &world{lab: lab}
	if err := w.build(ctx, binary); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) build(ctx context.Context, binary string) (err error) {
	if !netlab.HaveKernelVXLAN() {
		return errors.New("this kernel has no vxlan to be the peer")
	}
	if w.sites, err = w.lab.Sites(netlab.SiteSpec{Count: guest + 1}); err != nil {
		return err
	}
	for _, s := range w.sites[2:] {
		if err := s.AddKernelVXLAN(vni, port, w.sites...); err != nil {
			return err
		}
	}
	for _, s := range w.sites[:2] {
		n := &node{site: s, peers: w.sites, want: wanted{guest: true, ttl: 64}}
		n.Daemon, err = bench.StartDaemon(ctx, binary, s.Host, func(socket string) string { return n.toml(socket, n.want) })
		if err != nil {
			return err
		}
		w.nodes = append(w.nodes, n)
	}
	for _, name := range []string{"mover", "visitor"} {
		c, err := w.lab.AddHost(name)
		if err != nil {
			return err
		}
		if name == "mover" {
			w.mover = c
		} else {
			w.visitor = c
		}
	}
	if err := w.introduce(); err != nil {
		return err
	}
	if err := w.attach(ctx, w.nodes[0], w.mover, moverIP); err != nil {
		return err
	}
	return w.awaitReach(ctx)
}

// introduce has the steady containers know each other and the mover for good, for a
// question that is late on a busy machine loses what waits for it. Each has second
// addresses, which are asked for all the time.
func (w *world) introduce() error {
	for _, s := range w.sites[:guest] {
		for _, p := range []netip.Prefix{netip.PrefixFrom(second(s.IPv4), 24), netip.PrefixFrom(second(s.IPv6), 64)} {
			if err := s.Container.AddAddr(netlab.ContainerDev, p); err != nil {
				return err
			}
		}
		if err := s.Container.AddNeighbor(netlab.ContainerDev, moverIP, moverMAC); err != nil {
			return err
		}
	}
	for _, pair := range w.steady() {
		for _, a := range []netip.Addr{pair[1].IPv4, pair[1].IPv6} {
			if err := pair[0].Container.AddNeighbor(netlab.ContainerDev, a, pair[1].MAC); err != nil {
				return err
			}
		}
	}
	return nil
}

// second is the other address of the container that has a.
func second(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += 100
	a, _ = netip.AddrFromSlice(b)
	return a
}

// awaitReach waits until every container answers every other.
func (w *world) awaitReach(ctx context.Context) error {
	deadline := time.Now().Add(reachLimit)
	for _, from := range w.sites {
		for _, to := range w.sites {
			for _, dst := range []netip.Addr{to.IPv4, to.IPv6} {
				if from == to {
					continue
				}
				for {
					r, err := netlab.Ping(from.Container, dst, netlab.PingOptions{Timeout: 200 * time.Millisecond})
					if err != nil {
						return err
					}
					if r.Received == r.Sent {
						break
					}
					if err := errors.Join(ctx.Err(), w.alive()); err != nil {
						return err
					}
					if time.Now().After(deadline) {
						return fmt.Errorf("site %s does not reach %v within %v", from.Host.Name(), dst, reachLimit)
					}
				}
			}
		}
	}
	return nil
}

// attach joins the container to a node's network by the verb; detach is the
// reverse.
func (w *world) attach(ctx context.Context, n *node, c *netlab.Host, a netip.Addr) error {
	_, err := n.Verb(ctx, "attach", "blue", c.Namespace(), "--address", netip.PrefixFrom(a, 24).String())
	return err
}

func (w *world) detach(ctx context.Context, n *node, c *netlab.Host) error {
	_, err := n.Verb(ctx, "detach", "blue", c.Namespace())
	return err
}

// alive returns an error when a daemon has ended.
func (w *world) alive() error {
	var errs []error
	for _, n := range w.nodes {
		errs = append(errs, n.Alive())
	}
	return errors.Join(errs...)
}

// close ends the daemons and removes the hosts.
func (w *world) close() error {
	var errs []error
	for _, n := range w.nodes {
		errs = append(errs, n.Stop())
	}
	return errors.Join(append(errs, w.lab.Destroy())...)
}

// steady are the pairs of containers between which nothing may be lost.
func (w *world) steady() (pairs [][2]*netlab.Site) {
	for _, from := range w.sites[:guest] {
		for _, to := range w.sites[:guest] {
			if from != to {
				pairs = append(pairs, [2]*netlab.Site{from, to})
			}
		}
	}
	return pairs
}

// ends are the pair's, in IPv4 or IPv6.
func ends(pair [2]*netlab.Site, v6 bool) (from, to traffic.End) {
	from, to = traffic.End{Host: pair[0].Container, Addr: pair[0].IPv4}, traffic.End{Host: pair[1].Container, Addr: pair[1].IPv4}
	if v6 {
		from.Addr, to.Addr = pair[0].IPv6, pair[1].IPv6
	}
	return from, to
}

// run lets the world live for as long as the options say.
func (w *world) run(ctx context.Context, o options, r *report) error {
	end, cancel := context.WithTimeout(ctx, o.time)
	defer cancel()
	for _, n := range w.nodes {
		s, err := n.stats(ctx)
		if err != nil {
			return err
		}
		n.settled = dropsOf(s)
	}
	before, err := w.kernelDrops()
	if err != nil {
		return err
	}
	probes, stop, err := w.probe(ctx)
	if err != nil {
		return err
	}
	var tasks sync.WaitGroup
	c := &churn{world: w, options: o, report: r, probes: probes}
	for _, task := range []func(context.Context){
		c.run,
		func(end context.Context) { w.watch(end, o, r) },
		func(end context.Context) { w.streams(ctx, end, r) },
		func(end context.Context) { w.datagrams(ctx, end, r) },
		func(end context.Context) { w.pings(end, r) },
		func(end context.Context) { w.stations(ctx, end, r) },
	} {
		tasks.Go(func() { task(end) })
	}
	tasks.Wait()
	stop()
	r.took = time.Since(r.began)
	for _, p := range probes {
		r.probes = append(r.probes, p.result())
	}
	if err := errors.Join(ctx.Err(), w.alive()); err != nil {
		return err
	}
	after, err := w.kernelDrops()
	if err != nil {
		return err
	}
	for dev, n := range after {
		if n > before[dev] {
			r.kernelDrops[dev] = n - before[dev]
		}
	}
	return w.account(ctx, r)
}
