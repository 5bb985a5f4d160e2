package traffic

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LatencyOptions are those of a run of UDP round trips, one at a time.
type LatencyOptions struct {
	Count  int           // round trips that count; 0 = 1000
	Warmup int           // round trips before those
	Size   int           // UDP payload in bytes, at least 8; 0 = 64
	Wait   time.Duration // for an answer before it is lost; 0 = 1 s
}

// LatencyResult is what the round trips took.
type LatencyResult struct {
	Sent, Lost                 int
	Min, Median, P90, P99, Max time.Duration // of a whole round trip
}

// String summarises r.
func (r LatencyResult) String() string {
	return fmt.Sprintf("%d round trips, %d lost, min %v, median %v, p90 %v, p99 %v, max %v",
		r.Sent, r.Lost, r.Min, r.Median, r.P90, r.P99, r.Max)
}

// Latency sends a datagram, waits for its echo, and again. Each end keeps to a
// CPU of its own where there are several, as it would on two hosts.
func Latency(ctx context.Context, from, to End, o LatencyOptions) (LatencyResult, error) {
	if o.Count == 0 {
		o.Count = 1000
	}
	if o.Size == 0 {
		o.Size = 64
	}
	if o.Wait == 0 {
		o.Wait = time.Second
	}
	r, err := latency(ctx, from, to, o)
	if err != nil {
		return r, fmt.Errorf("round trips from %v to %v: %w", from.Addr, to.Addr, err)
	}
	return r, nil
}

func latency(ctx context.Context, from, to End, o LatencyOptions) (LatencyResult, error) {
	var r LatencyResult
	if o.Size < 8 || o.Size > maxDatagram {
		return r, fmt.Errorf("size %d: want 8 to %d", o.Size, maxDatagram)
	}
	far, err := to.open(unix.SOCK_DGRAM)
	if err != nil {
		return r, err
	}
	defer far.close()
	port, err := far.bind(to.Addr, 0)
	if err != nil {
		return r, err
	}
	near, err := from.open(unix.SOCK_DGRAM)
	if err != nil {
		return r, err
	}
	defer near.close()
	if _, err := near.bind(from.Addr, 0); err != nil {
		return r, err
	}
	if err := unix.Connect(int(near), sockaddr(netip.AddrPortFrom(to.Addr, port))); err != nil {
		return r, fmt.Errorf("connect: %w", err)
	}

	stop, cancel := context.WithCancel(ctx)
	var echoed sync.WaitGroup
	echoed.Go(func() {
		defer keepTo(1)()
		echo(stop, far, o.Size)
	})
	defer echoed.Wait()
	defer cancel()
	defer keepTo(0)()

	var rtts []time.Duration
	out, in := make([]byte, o.Size), make([]byte, o.Size)
	for i := range o.Warmup + o.Count {
		binary.BigEndian.PutUint64(out, uint64(i))
		rtt, ok, err := roundTrip(ctx, near, out, in, o.Wait)
		if err != nil {
			return r, err
		}
		if i < o.Warmup {
			continue
		}
		r.Sent++
		if ok {
			rtts = append(rtts, rtt)
		} else {
			r.Lost++
		}
	}
	if n := len(rtts); n > 0 {
		slices.Sort(rtts)
		r.Min, r.Median, r.P90, r.P99, r.Max = rtts[0], rtts[n/2], rtts[n*90/100], rtts[n*99/100], rtts[n-1]
	}
	return r, nil
}

// echo sends back what comes until ctx ends. Errors are the other end's losses.
func echo(ctx context.Context, s sock, size int) {
	b := make([]byte, size)
	for ctx.Err() == nil {
		if n, from, err := unix.Recvfrom(int(s), b, 0); err == nil {
			unix.Sendto(int(s), b[:n], 0, from)
		}
	}
}

// roundTrip sends out and waits for the same number to come back. A destination
// that the path calls unreachable is a loss.
func roundTrip(ctx context.Context, s sock, out, in []byte, wait time.Duration) (time.Duration, bool, error) {
	start := time.Now()
	if _, err := unix.Write(int(s), out); err != nil {
		if unreachable(err) {
			return 0, false, expired(ctx, "send")
		}
		return 0, false, fmt.Errorf("send: %w", err)
	}
	for {
		n, err := unix.Read(int(s), in)
		if err == nil && n == len(out) && binary.BigEndian.Uint64(in) == binary.BigEndian.Uint64(out) {
			return time.Since(start), true, nil
		}
		if err := expired(ctx, "wait for an echo"); err != nil {
			return 0, false, err
		}
		if time.Since(start) >= wait {
			return 0, false, nil
		}
	}
}
