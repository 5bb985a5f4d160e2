package bench

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"overtap/bench/traffic"
)

// imixFlows is how many stations each end of the IMIX has, and so how many flows
// there are.
const imixFlows = 64

// imixSizes are the simple IMIX, 7:4:1, as IPv4 packets in bytes. Its largest is
// what the containers' MTU allows, and sizes are shuffled: runs of equal ones
// are what the other loads are about.
var imixSizes = []int{64, 576, 64, 64, 576, 64, 1450, 64, 576, 64, 64, 576}

// mixedRate is the rate of the small packets beside a TCP flow, per second: low
// enough that the machine has time for both.
const mixedRate = 50_000

func tcpFlows(n int) func(context.Context, turn) (Sample, error) {
	return func(ctx context.Context, t turn) (Sample, error) {
		r, err := traffic.TCP(ctx, t.from, t.to, traffic.TCPOptions{Flows: n, Duration: t.Duration, Arrived: t.arrived})
		return Sample{TCP: tcpSample(r)}, err
	}
}

func bothWays(ctx context.Context, t turn) (Sample, error) {
	var out, back traffic.TCPResult
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		out, err = traffic.TCP(ctx, t.from, t.to, traffic.TCPOptions{Duration: t.Duration})
		return err
	})
	g.Go(func() (err error) {
		back, err = traffic.TCP(ctx, t.to, t.from, traffic.TCPOptions{Duration: t.Duration})
		return err
	})
	err := g.Wait()
	return Sample{TCP: tcpSample(out, back)}, err
}

func udpFlood(size int) func(context.Context, turn) (Sample, error) {
	return func(ctx context.Context, t turn) (Sample, error) {
		r, err := traffic.UDP(ctx, t.from, t.to, traffic.UDPOptions{Size: size, Duration: t.Duration, Arrived: t.arrived})
		return Sample{UDP: udpSample(r)}, err
	}
}

// udpAt sends datagrams one by one, so many a second.
func udpAt(rate float64) func(context.Context, turn) (Sample, error) {
	return func(ctx context.Context, t turn) (Sample, error) {
		r, err := traffic.UDP(ctx, t.from, t.to, traffic.UDPOptions{Size: 64, Rate: rate, Duration: t.Duration})
		return Sample{UDP: udpSample(r)}, err
	}
}

func imix(ctx context.Context, t turn) (Sample, error) {
	return t.frames(ctx, imixSizes)
}

// scattered sends each frame between other stations.
func scattered(ctx context.Context, t turn) (Sample, error) {
	return t.frames(ctx, nil)
}

func (t turn) frames(ctx context.Context, sizes []int) (Sample, error) {
	r, err := traffic.Frames(ctx, t.from.Host, t.to.Host, traffic.FrameOptions{
		From: t.atSender, To: t.atTarget, Sizes: sizes, Duration: t.Duration,
	})
	return Sample{UDP: udpSample(r)}, err
}

func roundTrips(ctx context.Context, t turn) (Sample, error) {
	r, err := traffic.Latency(ctx, t.from, t.to, traffic.LatencyOptions{
		Count:  max(20, int(t.Duration/(250*time.Microsecond))),
		Warmup: 100,
	})
	return Sample{RTT: rttSample(r)}, err
}

func mixed(ctx context.Context, t turn) (Sample, error) {
	var stream traffic.TCPResult
	var small traffic.UDPResult
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		stream, err = traffic.TCP(ctx, t.from, t.to, traffic.TCPOptions{Duration: t.Duration})
		return err
	})
	g.Go(func() (err error) {
		small, err = traffic.UDP(ctx, t.from, t.to, traffic.UDPOptions{Size: 64, Rate: mixedRate, Duration: t.Duration})
		return err
	})
	err := g.Wait()
	return Sample{TCP: tcpSample(stream), UDP: udpSample(small)}, err
}

// broadcast sends GSO packets that every peer gets a copy of. One peer exists,
// and its container counts.
func broadcast(ctx context.Context, t turn) (Sample, error) {
	a := t.to.Addr.As4()
	a[3] = 255
	rs, err := traffic.UDPTo(ctx, t.from, netip.AddrFrom4(a), []traffic.End{t.to}, traffic.UDPOptions{
		Size: 1400, Duration: t.Duration, Segment: true,
	})
	if err != nil {
		return Sample{}, err
	}
	return Sample{UDP: udpSample(rs[0])}, nil
}
