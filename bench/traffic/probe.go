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

// Probe is a steady flow of small datagrams, each of which the other end sends
// back, that tells how honest traffic fares while something else goes on. What it
// counts falls into phases by when a datagram was sent. Its methods may be called
// from one goroutine.
type Probe struct {
	to    netip.AddrPort
	near  sock
	far   sock
	every time.Duration
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu    sync.Mutex
	sent  []sample // by sequence number
	marks []int    // the sequence numbers that phases end before
}

// sample is one datagram of a probe.
type sample struct {
	at      time.Time
	rtt     time.Duration // 0 = no answer yet
	answers int
}

// ProbeResult is what became of the datagrams of one phase.
type ProbeResult struct {
	Sent, Lost  int
	Duplicates  int // answers beyond the first
	Median, P99 time.Duration
	Max         time.Duration
	Gap         time.Duration // the longest time in which nothing that was sent was answered
}

// String summarises r.
func (r ProbeResult) String() string {
	return fmt.Sprintf("%d of %d lost, %d duplicates, median %v, p99 %v, max %v, longest gap %v",
		r.Lost, r.Sent, r.Duplicates, r.Median, r.P99, r.Max, r.Gap)
}

// Loss returns the share that was lost, 0 to 1.
func (r ProbeResult) Loss() float64 {
	if r.Sent == 0 {
		return 0
	}
	return float64(r.Lost) / float64(r.Sent)
}

const (
	probeSize = 64
	// probeGrace is how long the last answers may take.
	probeGrace = time.Second
	// probeSettled is how many answers in a row mean that the flow goes on.
	probeSettled = 10
)

// StartProbe begins a flow of one datagram every so often. Stop ends it.
func StartProbe(from, to End, every time.Duration) (*Probe, error) {
	p := &Probe{every: every, near: -1, far: -1}
	if err := p.open(from, to); err != nil {
		p.close()
		return nil, fmt.Errorf("probe from %v to %v: %w", from.Addr, to.Addr, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.done.Go(func() { echo(ctx, p.far, probeSize) })
	p.done.Go(func() { p.receive(ctx) })
	p.done.Go(func() { p.send(ctx) })
	return p, nil
}

func (p *Probe) open(from, to End) (err error) {
	if p.far, err = to.open(unix.SOCK_DGRAM); err != nil {
		return err
	}
	port, err := p.far.bind(to.Addr, 0)
	if err != nil {
		return err
	}
	p.to = netip.AddrPortFrom(to.Addr, port)
	if p.near, err = from.open(unix.SOCK_DGRAM); err != nil {
		return err
	}
	// Not connected: what the path says of one datagram must not fail the next.
	_, err = p.near.bind(from.Addr, 0)
	return err
}

func (p *Probe) close() {
	for _, s := range []sock{p.near, p.far} {
		if s >= 0 {
			s.close()
		}
	}
}

// send sends on schedule. What a busy machine made it miss is not made up for.
func (p *Probe) send(ctx context.Context) {
	b, to := make([]byte, probeSize), sockaddr(p.to)
	for due := time.Now(); ctx.Err() == nil; {
		time.Sleep(time.Until(due))
		now := time.Now()
		p.mu.Lock()
		binary.BigEndian.PutUint64(b, uint64(len(p.sent)))
		p.sent = append(p.sent, sample{at: now})
		p.mu.Unlock()
		// What cannot be sent is not answered, and so counted.
		_ = unix.Sendto(int(p.near), b, 0, to)
		if due = due.Add(p.every); due.Before(now) {
			due = now.Add(p.every)
		}
	}
}

func (p *Probe) receive(ctx context.Context) {
	b := make([]byte, probeSize)
	for ctx.Err() == nil {
		n, err := unix.Read(int(p.near), b)
		now := time.Now()
		if err != nil || n != probeSize {
			continue
		}
		p.mu.Lock()
		if seq := binary.BigEndian.Uint64(b); seq < uint64(len(p.sent)) {
			s := &p.sent[seq]
			if s.answers++; s.answers == 1 {
				s.rtt = now.Sub(s.at)
			}
		}
		p.mu.Unlock()
	}
}

// Mark ends a phase and begins the next.
func (p *Probe) Mark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marks = append(p.marks, len(p.sent))
}

// Recover waits until what is sent from now on is answered, ten in a row, and
// returns how long that took. It gives up with the context's error.
func (p *Probe) Recover(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	p.mu.Lock()
	first := len(p.sent)
	p.mu.Unlock()
	for ; ; time.Sleep(p.every) {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("wait for answers to a probe: %w", err)
		}
		if at, ok := p.settled(first); ok {
			return at.Sub(start), nil
		}
	}
}

// settled looks for answers in a row, and says when the first of them was sent.
func (p *Probe) settled(first int) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	run := 0
	for i := first; i < len(p.sent); i++ {
		if p.sent[i].answers == 0 {
			run = 0
			continue
		}
		if run++; run == probeSettled {
			return p.sent[i+1-run].at, true
		}
	}
	return time.Time{}, false
}

// Stop ends the flow, waits for the last answers, and returns the result of each
// phase: one more than there were marks.
func (p *Probe) Stop() []ProbeResult {
	p.Mark()
	p.mu.Lock()
	end := len(p.sent)
	p.mu.Unlock()
	for deadline := time.Now().Add(probeGrace); time.Now().Before(deadline) && !p.answered(end); {
		time.Sleep(p.every)
	}
	p.stop()
	p.done.Wait()
	p.close()
	var all []ProbeResult
	from := 0
	for _, to := range p.marks {
		all = append(all, summary(p.sent[from:to]))
		from = to
	}
	return all
}

func (p *Probe) answered(end int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(p.sent[:end], func(s sample) bool { return s.answers == 0 })
}

// summary counts the samples of a phase.
func summary(samples []sample) (r ProbeResult) {
	var rtts []time.Duration
	var silent time.Time // since when nothing is answered
	for _, s := range samples {
		r.Sent++
		if s.answers == 0 {
			r.Lost++
			if silent.IsZero() {
				silent = s.at
			}
			r.Gap = max(r.Gap, s.at.Sub(silent))
			continue
		}
		if !silent.IsZero() {
			r.Gap = max(r.Gap, s.at.Sub(silent))
			silent = time.Time{}
		}
		r.Duplicates += s.answers - 1
		rtts = append(rtts, s.rtt)
	}
	if n := len(rtts); n > 0 {
		slices.Sort(rtts)
		r.Median, r.P99, r.Max = rtts[n/2], rtts[n*99/100], rtts[n-1]
	}
	return r
}
