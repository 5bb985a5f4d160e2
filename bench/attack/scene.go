package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"overtap/bench"
	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/encap"
)

const (
	vni    encap.VNI = 100
	port   uint16    = 4789
	tapDev           = "ot0"

	probeEvery = 2 * time.Millisecond
	// strikeLimit bounds one run, whatever became of it.
	strikeLimit = 2 * time.Minute
)

// scene is three hosts: at a is the tunnel's end that is attacked, b has the
// kernel's device, c is the attacker.
type scene struct {
	a, b, c *netlab.Site
	lab     *netlab.Lab
	daemon  *bench.Daemon // a's; nil in the kernel's column
	lasting time.Duration
	most    int // frames that an attack by count sends
}

// newScene builds the hosts and returns once the containers of a and b reach
// each other. Close it.
func newScene(ctx context.Context, a attack, c column, lasting time.Duration, binary string) (*scene, error) {
	lab, err := netlab.New(bench.NewLabName())
	if err != nil {
		return nil, err
	}
	s := &scene{lab: lab, lasting: lasting, most: math.MaxInt}
	if err := s.build(ctx, a, c, binary); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *scene) build(ctx context.Context, a attack, c column, binary string) error {
	if !netlab.HaveKernelVXLAN() {
		return errors.New("this kernel has no vxlan to compare with")
	}
	sites, err := s.lab.Sites(netlab.SiteSpec{Count: 3})
	if err != nil {
		return err
	}
	s.a, s.b, s.c = sites[0], sites[1], sites[2]
	if err := s.b.AddKernelVXLAN(vni, port, s.a); err != nil {
		return err
	}
	peers := []*netlab.Site{s.b}
	if a.peer {
		peers = append(peers, s.c)
	}
	if c.kernel {
		err = s.a.AddKernelVXLAN(vni, port, peers...)
	} else {
		err = s.start(ctx, binary, func(socket string) string { return config(s.a, socket, peers, c) })
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		r, err := netlab.Ping(s.a.Container, s.b.IPv4, netlab.PingOptions{Count: 3, Timeout: 300 * time.Millisecond})
		if err != nil || r.Received == r.Sent {
			return err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the containers do not reach each other: %v", r)
		}
	}
}

// start has overtap end the tunnel at a, on a bridge that it makes itself.
func (s *scene) start(ctx context.Context, binary string, toml func(socket string) string) (err error) {
	if err := s.a.Host.DeleteLink(netlab.SiteBridge); err != nil {
		return err
	}
	if s.daemon, err = bench.StartDaemon(ctx, binary, s.a.Host, toml); err != nil {
		return err
	}
	return s.a.Host.SetMaster(s.a.Container.Name(), netlab.SiteBridge)
}

// config is that of overtap.
func config(s *netlab.Site, socket string, peers []*netlab.Site, c column) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[underlay]\naddress = %q\ndevice = %q\n", s.Underlay, netlab.UnderlayDev)
	fmt.Fprintf(&b, "[control]\nsocket = %q\nmetrics = \"\"\n", socket)
	fmt.Fprintf(&b, "[[vxlan]]\nname = \"attacked\"\nvni = %d\nport = %d\ntap = %q\nmtu = %d\nbridge = %q\n%s\n",
		vni, port, tapDev, s.MTU, netlab.SiteBridge, strings.Join(c.lines, "\n"))
	for _, p := range peers {
		fmt.Fprintf(&b, "[[vxlan.peer]]\naddress = %q\n", p.Underlay)
		if c.pins {
			fmt.Fprintf(&b, "macs = [%q]\n", p.MAC)
		}
	}
	return b.String()
}

func (s *scene) close() error {
	var err error
	if s.daemon != nil {
		err = s.daemon.Stop()
	}
	return errors.Join(err, s.lab.Destroy())
}

// strike builds the hosts, attacks, and says what became of it.
func strike(ctx context.Context, a attack, c column, lasting time.Duration, binary string) (r Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, strikeLimit)
	defer cancel()
	s, err := newScene(ctx, a, c, lasting, binary)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r, err = s.strike(ctx, a)
	r.Attack, r.Title, r.Column = a.name, a.title, c.title
	return r, err
}

func (s *scene) strike(ctx context.Context, a attack) (r Result, err error) {
	near, far := traffic.End{Host: s.a.Container, Addr: s.a.IPv4}, traffic.End{Host: s.b.Container, Addr: s.b.IPv4}
	probe, err := traffic.StartProbe(near, far, probeEvery)
	if err != nil {
		return r, err
	}
	running := true
	defer func() {
		if running {
			probe.Stop()
		}
	}()
	honest := func() (float64, error) {
		if !a.tcp {
			return 0, sleep(ctx, s.lasting)
		}
		t, err := traffic.TCP(ctx, far, near, traffic.TCPOptions{Duration: s.lasting})
		return t.BitsPerSecond(), err
	}
	if _, err := probe.Recover(ctx); err != nil {
		return r, err
	}
	probe.Mark()
	if r.TCPBefore, err = honest(); err != nil {
		return r, err
	}
	before, err := s.look(ctx)
	if err != nil {
		return r, err
	}
	probe.Mark()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		var took time.Duration
		r.Sent, took, err = a.run(gctx, s)
		r.Took = took.Seconds()
		return err
	})
	if a.tcp {
		g.Go(func() (err error) {
			r.TCPDuring, err = honest()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return r, err
	}
	probe.Mark()
	if err := sleep(ctx, s.lasting); err != nil {
		return r, err
	}
	running = false
	phases := probe.Stop()
	r.Before, r.During, r.After = phases[1], phases[2], phases[3]
	after, err := s.look(ctx)
	if err != nil {
		return r, err
	}
	r.compare(before, after)
	return r, nil
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// seen is what a look at the attacked host shows.
type seen struct {
	stats     dataplane.Stats // of overtap
	entries   int             // of the tunnel's table
	bridge    int             // that the bridge before it has learned, at all ports
	memory    int64           // KiB: of the daemon resident, of the kernel its slabs
	delivered uint64          // frames that reached the container
}

func (s *scene) look(ctx context.Context) (l seen, err error) {
	counters, err := s.a.Container.Counters(netlab.ContainerDev)
	if err != nil {
		return l, err
	}
	l.delivered = counters.RxPackets
	if l.bridge, err = s.a.Host.BridgeLearned(netlab.SiteBridge); err != nil {
		return l, err
	}
	if s.daemon == nil {
		if l.entries, err = s.kernelEntries(l.bridge); err != nil {
			return l, err
		}
		// What cannot be reclaimed: forwarding entries are of that kind.
		l.memory, err = field("/proc/meminfo", slabs)
		return l, err
	}
	out, err := s.daemon.Verb(ctx, "stats", "--json")
	if err == nil {
		err = json.Unmarshal(out, &l.stats)
	}
	if err != nil {
		return l, fmt.Errorf("overtap stats: %w", err)
	}
	for _, n := range l.stats.Networks {
		l.entries += n.EntriesLearned
	}
	l.memory, err = field(fmt.Sprintf("/proc/%d/status", s.daemon.PID()), resident)
	return l, err
}

// listable is how many entries the kernel lists in a second or two.
const listable = 50_000

// kernelEntries is how many MACs the kernel's device has learned. Of more than
// can be listed it is what the bridge behind it says, which sees no frame that the
// device has not learned from (vxlan_rcv).
func (s *scene) kernelEntries(bridge int) (n int, err error) {
	if bridge > listable {
		return bridge, nil
	}
	entries, err := s.a.Host.KernelFDB(netlab.SiteVXLAN)
	for _, e := range entries {
		if !e.Static && !e.Bridge {
			n++
		}
	}
	return n, err
}

var (
	slabs    = regexp.MustCompile(`(?m)^SUnreclaim:\s*(\d+) kB`)
	resident = regexp.MustCompile(`(?m)^VmRSS:\s*(\d+) kB`)
)

// field reads a number of a file of /proc.
func field(path string, pattern *regexp.Regexp) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	m := pattern.FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("%s: nothing matches %v", path, pattern)
	}
	return strconv.ParseInt(string(m[1]), 10, 64)
}
