package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"overtap/bench/traffic"
)

// Options size a turn.
type Options struct {
	// Duration is how long a turn sends. Round trips are counted instead: as
	// many as fit in it at 250 µs each.
	Duration time.Duration
	// TableSize is how many entries the table of the load "table" has; 0 =
	// 100 000.
	TableSize int
}

// Load is what the containers send.
type Load struct {
	Name    string // on the command line
	Title   string
	Figures []Figure
	// Symmetric loads go both ways: they have no direction.
	Symmetric bool
	// Program is what sends, in place of package traffic; "" = that.
	Program string

	// slice is the sample of a part of a turn, in which so much arrived: payload
	// bytes of TCP, datagrams; nil = the load is of whole turns.
	slice    func(arrived int64, d time.Duration) Sample
	peers    int               // on the flood lists; 0 = 1
	stations func(Options) int // behind each end; nil = none
	run      func(context.Context, turn) (Sample, error)
}

// turn is what a load's run has to know.
type turn struct {
	Options
	from, to           traffic.End
	atSender, atTarget traffic.Stations
	// arrived, if any, counts what arrived, of loads that have a slice.
	arrived *atomic.Int64
}

const manyPeers = 64

// Loads lists all loads.
var Loads = []Load{
	{Name: "tcp1", Title: "TCP, 1 flow", Figures: []Figure{tcpRate}, slice: sliceTCP, run: tcpFlows(1)},
	{Name: "tcp4", Title: "TCP, 4 flows", Figures: []Figure{tcpRate}, slice: sliceTCP, run: tcpFlows(4)},
	{Name: "tcp16", Title: "TCP, 16 flows", Figures: []Figure{tcpRate}, slice: sliceTCP, run: tcpFlows(16)},
	{Name: "both", Title: "TCP, 1 flow each way at once", Figures: []Figure{tcpRate}, Symmetric: true, run: bothWays},
	{Name: "udp64", Title: "UDP 64 B flood", Figures: []Figure{udpRate}, slice: sliceUDP, run: udpFlood(64)},
	{Name: "udp1400", Title: "UDP 1400 B flood", Figures: []Figure{udpRate}, slice: sliceUDP, run: udpFlood(1400)},
	{Name: "imix", Title: "IMIX, 64 flows", Figures: []Figure{udpRate}, run: imix,
		stations: func(Options) int { return imixFlows }},
	{Name: "rtt", Title: "Round trip, 64 B", Figures: []Figure{rttMedian, rttP99}, Symmetric: true, run: roundTrips},
	{Name: "mixed", Title: "TCP, 1 flow, beside UDP 64 B at 50 kpps", Figures: []Figure{tcpRate, udpRate}, run: mixed},
	{Name: "peers64", Title: "UDP 64 B flood to one of 64 peers", Figures: []Figure{udpRate}, peers: manyPeers, run: udpFlood(64)},
	{Name: "flood64", Title: "Broadcast GSO packets to 64 peers", Figures: []Figure{udpRate}, peers: manyPeers, run: broadcast},
	{Name: "table", Title: "UDP 64 B flood over a table of 100 k entries", Figures: []Figure{udpRate}, run: scattered,
		stations: func(o Options) int { return o.TableSize }},
	{Name: "udp5k", Title: "UDP 64 B at 5 kpps", Figures: []Figure{daemonPerPacket}, run: udpAt(5_000)},
	{Name: "udp20k", Title: "UDP 64 B at 20 kpps", Figures: []Figure{daemonPerPacket}, run: udpAt(20_000)},
	{Name: "udp50k", Title: "UDP 64 B at 50 kpps", Figures: []Figure{daemonPerPacket}, run: udpAt(50_000)},
	{Name: "iperf3-tcp1", Title: "iperf3 TCP, 1 flow", Figures: []Figure{tcpRate}, Program: iperf3, run: iperf3TCP(1)},
	{Name: "iperf3-tcp4", Title: "iperf3 TCP, 4 flows", Figures: []Figure{tcpRate}, Program: iperf3, run: iperf3TCP(4)},
	{Name: "iperf3-tcp16", Title: "iperf3 TCP, 16 flows", Figures: []Figure{tcpRate}, Program: iperf3, run: iperf3TCP(16)},
	{Name: "iperf3-udp64", Title: "iperf3 UDP 64 B flood", Figures: []Figure{udpRate}, Program: iperf3, run: iperf3UDP(64)},
	{Name: "iperf3-udp1400", Title: "iperf3 UDP 1400 B flood", Figures: []Figure{udpRate}, Program: iperf3, run: iperf3UDP(1400)},
	{Name: "sockperf", Title: "sockperf round trip, 64 B", Figures: []Figure{rttMedian, rttP99}, Symmetric: true, Program: sockperf, run: sockperfPingPong},
}

// needsEthernet reports whether the containers must share one Ethernet.
func (l Load) needsEthernet() bool { return l.peers > 0 || l.stations != nil }

// bedSpec returns what the load needs its bed to have.
func (l Load) bedSpec(o Options) BedSpec {
	s := BedSpec{Peers: l.peers}
	if l.stations != nil {
		s.Stations = l.stations(o.withDefaults())
	}
	return s
}

func (o Options) withDefaults() Options {
	if o.Duration == 0 {
		o.Duration = 2 * time.Second
	}
	if o.TableSize == 0 {
		o.TableSize = 100_000
	}
	return o
}

// turnLimit bounds what a turn takes beyond its sending: a tunnel that carries
// nothing any more must not hold up the run.
const turnLimit = 30 * time.Second

// Measure runs the load once, from site a's container to b's, or the other way.
func (b *Bed) Measure(ctx context.Context, l Load, reverse bool, o Options) (Sample, error) {
	return b.measureCounted(ctx, l, reverse, o, nil)
}

// measureCounted is Measure that counts what arrives, as it does.
func (b *Bed) measureCounted(ctx context.Context, l Load, reverse bool, o Options, arrived *atomic.Int64) (Sample, error) {
	s, err := b.measure(ctx, l, reverse, o.withDefaults(), arrived)
	if err != nil {
		return s, fmt.Errorf("%s, %s, %s: %w", l.Title, Lane{b.Spec.Row, reverse}, b.Spec.Offload, err)
	}
	return s, nil
}

func (b *Bed) measure(ctx context.Context, l Load, reverse bool, o Options, arrived *atomic.Int64) (s Sample, err error) {
	t := turn{
		Options: o,
		arrived: arrived,
		from:    traffic.End{Host: b.A.Container, Addr: b.A.IPv4},
		to:      traffic.End{Host: b.B.Container, Addr: b.B.IPv4},
	}
	t.atSender, t.atTarget = b.stations()
	if reverse {
		t.from, t.to = t.to, t.from
		t.atSender, t.atTarget = t.atTarget, t.atSender
	}
	if !l.Installed() {
		return s, fmt.Errorf("there is no program %s in PATH: install it", l.Program)
	}
	if err := b.alive(); err != nil {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Duration+turnLimit)
	defer cancel()
	m, err := startMeter(b)
	if err != nil {
		return s, err
	}
	start := time.Now()
	if s, err = l.run(ctx, t); err != nil {
		// Why, when the daemon is gone.
		if dead := b.alive(); dead != nil {
			err = fmt.Errorf("%w: %w", err, dead)
		}
		return s, err
	}
	wall := time.Since(start)
	c, err := m.read()
	if err != nil {
		return s, err
	}
	s.charge(c, wall)
	return s, nil
}
