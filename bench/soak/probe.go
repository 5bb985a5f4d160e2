package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic/echo"
)

const (
	probeBeat = 50 * time.Millisecond
	probeSize = 64
	// stragglers is how long answers are waited for in the end.
	stragglers = 3 * time.Second
)

// probe sends a datagram a tick and notes which of them come back, so that each one
// that does not can be held against what was being done when it left.
type probe struct {
	name string
	conn *net.UDPConn

	mu      sync.Mutex
	sent    []time.Time
	back    []time.Duration // round trips; 0 = none yet
	twice   int             // answers beyond the first
	strange int             // answers to nothing that was sent
	excused []window
}

// window is a time in which losses have a reason.
type window struct{ from, to time.Time }

// probeResult is what came of one.
type probeResult struct {
	name                       string
	sent, lost, excused, twice int
	strange                    int
	p50, p99, max              time.Duration
	worst                      []time.Time // of the losses without a reason, the first few
}

// probe starts the probes between all steady containers and to the one that moves.
// stop ends them.
func (w *world) probe(ctx context.Context) (probes []*probe, stop func(), err error) {
	serving, cancel := context.WithCancel(context.Background())
	sending, quiet := context.WithCancel(ctx)
	var servers, senders, receivers sync.WaitGroup
	stop = func() {
		quiet()
		senders.Wait()
		select {
		case <-time.After(stragglers):
		case <-ctx.Done():
		}
		for _, p := range probes {
			p.conn.Close()
		}
		receivers.Wait()
		cancel()
		servers.Wait()
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	// Bound to the address that is asked, which answers are from then.
	serve := func(h *netlab.Host, a netip.Addr) error {
		var ear net.PacketConn
		if err := h.Do(func() (err error) {
			ear, err = net.ListenPacket("udp", netip.AddrPortFrom(a, echo.Port).String())
			return err
		}); err != nil {
			return fmt.Errorf("host %s: echo: %w", h.Name(), err)
		}
		servers.Go(func() { _ = echo.Serve(serving, nil, ear) })
		return nil
	}
	for _, s := range w.sites[:guest] {
		if err := errors.Join(serve(s.Container, s.IPv4), serve(s.Container, s.IPv6)); err != nil {
			return nil, stop, err
		}
	}
	// The one that moves has its address no longer and again.
	if err := serve(w.mover, netip.IPv4Unspecified()); err != nil {
		return nil, stop, err
	}
	add := func(from *netlab.Site, to string, dst netip.Addr) error {
		p := &probe{name: from.Container.Name() + " → " + to}
		err := from.Container.Do(func() error {
			c, err := net.Dial("udp", netip.AddrPortFrom(dst, echo.Port).String())
			if err == nil {
				p.conn = c.(*net.UDPConn)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("probe %s: %w", p.name, err)
		}
		probes = append(probes, p)
		receivers.Go(p.receive)
		senders.Go(func() { p.send(sending) })
		return nil
	}
	for i, pair := range w.steady() {
		_, to := ends(pair, i%2 == 1)
		if err := add(pair[0], pair[1].Container.Name(), to.Addr); err != nil {
			return nil, stop, err
		}
	}
	for _, s := range w.sites[:guest] {
		if err := add(s, "mover", moverIP); err != nil {
			return nil, stop, err
		}
	}
	return probes, stop, nil
}

func (p *probe) send(ctx context.Context) {
	tick := time.NewTicker(probeBeat)
	defer tick.Stop()
	b := make([]byte, probeSize)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		binary.BigEndian.PutUint64(b, uint64(len(p.sent)))
		p.sent = append(p.sent, time.Now())
		p.back = append(p.back, 0)
		p.mu.Unlock()
		// An error is what became of an earlier one, or that this one is lost: it
		// will not come back.
		_, _ = p.conn.Write(b)
	}
}

func (p *probe) receive() {
	b := make([]byte, 2*probeSize)
	for {
		n, err := p.conn.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // told by ICMP of one that was lost
		}
		p.mu.Lock()
		switch at := binary.BigEndian.Uint64(b); {
		case n != probeSize || at >= uint64(len(p.sent)):
			p.strange++
		case p.back[at] != 0:
			p.twice++
		default:
			p.back[at] = max(time.Since(p.sent[at]), 1)
		}
		p.mu.Unlock()
	}
}

// excuse has losses of what left within the time have a reason.
func (p *probe) excuse(from, to time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.excused = append(p.excused, window{from, to})
}

// result is for when nothing comes any more.
func (p *probe) result() probeResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := probeResult{name: p.name, sent: len(p.sent), twice: p.twice, strange: p.strange}
	var trips []time.Duration
	for i, rtt := range p.back {
		if rtt != 0 {
			trips = append(trips, rtt)
			continue
		}
		r.lost++
		at := p.sent[i]
		if slices.ContainsFunc(p.excused, func(w window) bool { return !at.Before(w.from) && !at.After(w.to) }) {
			r.excused++
		} else if len(r.worst) < 5 {
			r.worst = append(r.worst, at)
		}
	}
	if slices.Sort(trips); len(trips) > 0 {
		r.p50, r.p99, r.max = trips[len(trips)/2], trips[len(trips)*99/100], trips[len(trips)-1]
	}
	return r
}
