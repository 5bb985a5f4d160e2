package main

import (
	"context"
	"fmt"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
)

const (
	streamBytes  = 2 << 20
	streamPause  = 700 * time.Millisecond
	streamLimit  = 30 * time.Second
	udpRate      = 400
	udpPause     = 500 * time.Millisecond
	pingPause    = 300 * time.Millisecond
	pingCount    = 5
	pingSize     = 1300
	stationCount = 300
	stationRate  = 1500
	stationPause = 4 * time.Second
)

// pause waits, and reports whether the soak goes on.
func pause(end context.Context, d time.Duration) bool {
	select {
	case <-end.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// streams sends TCP streams whose bytes are compared, one after the other, over all
// steady pairs in turn. One that has begun when the time is up may end.
func (w *world) streams(ctx, end context.Context, r *report) {
	pairs := w.steady()
	for i := 0; pause(end, streamPause); i++ {
		from, to := ends(pairs[i%len(pairs)], i/len(pairs)%2 == 1)
		limit, cancel := context.WithTimeout(ctx, streamLimit)
		got, err := traffic.TCP(limit, from, to, traffic.TCPOptions{Bytes: streamBytes, Checked: true})
		cancel()
		r.add(func() {
			r.streams++
			r.streamBytes += got.Bytes
			r.retransmits += got.Retransmits
		})
		if err == nil && got.Bytes != streamBytes {
			err = fmt.Errorf("%d of %d bytes arrived", got.Bytes, streamBytes)
		}
		r.failed("stream", err)
	}
}

// datagrams does the same with small UDP datagrams.
func (w *world) datagrams(ctx, end context.Context, r *report) {
	pairs := w.steady()
	for i := 0; pause(end, udpPause); i++ {
		from, to := ends(pairs[i%len(pairs)], i/len(pairs)%2 == 0)
		got, err := traffic.UDP(ctx, from, to, traffic.UDPOptions{Rate: udpRate, Batch: 4, Grace: stragglers})
		if err != nil {
			r.failed("datagrams", err)
			continue
		}
		// What the receiver's own socket had no room for did arrive.
		lost := max(got.Lost-got.Overflowed, 0)
		r.add(func() {
			r.datagrams.sent += got.Offered
			r.datagrams.lost += lost
			r.datagrams.twice += got.Duplicated
		})
		r.missed("datagrams from "+from.Addr.String()+" to "+to.Addr.String(), lost)
		if got.Corrupted != 0 {
			r.failed("datagrams", fmt.Errorf("from %v to %v: %v", from.Addr, to.Addr, got))
		}
	}
}

// pings sends nearly full packets between containers that have forgotten each
// other's MAC: each begins with ARP or neighbour discovery.
func (w *world) pings(end context.Context, r *report) {
	pairs := w.steady()
	for i := 0; pause(end, pingPause); i++ {
		from, to := ends(pairs[i%len(pairs)], i/len(pairs)%2 == 1)
		// What is not there need not be forgotten.
		to.Addr = second(to.Addr)
		_ = from.Host.DeleteNeighbor(netlab.ContainerDev, to.Addr)
		got, err := netlab.Ping(from.Host, to.Addr, netlab.PingOptions{
			Count: pingCount, Size: pingSize, Interval: 20 * time.Millisecond, Timeout: 3 * time.Second, DF: true,
		})
		if err != nil {
			r.failed("ping", err)
			continue
		}
		r.add(func() {
			r.pings.sent += int64(got.Sent)
			r.pings.lost += int64(got.Sent - got.Received)
			r.pings.twice += int64(got.Duplicates)
		})
		r.missed("pings from "+from.Addr.String()+" to "+to.Addr.String(), int64(got.Sent-got.Received))
		if got.Corrupted+got.Errors != 0 {
			r.failed("ping", fmt.Errorf("from %v to %v: %v", from.Addr, to.Addr, got))
		}
	}
}

// stations has many MACs behind the kernel's device speak to all, so that the tables
// fill, age and are flushed.
func (w *world) stations(ctx, end context.Context, r *report) {
	for i := 0; pause(end, stationPause); i++ {
		from, to := w.sites[2].Container, w.sites[i%2].Container
		got, err := traffic.Frames(ctx, from, to, traffic.FrameOptions{
			From: traffic.Stations{Side: 2, Count: stationCount}, Count: stationCount, Rate: stationRate, Grace: stragglers,
		})
		if err != nil {
			r.failed("stations", err)
			continue
		}
		r.add(func() {
			r.stations.sent += got.Offered
			r.stations.lost += max(got.Lost-got.Overflowed, 0)
		})
	}
}
