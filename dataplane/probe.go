package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// Probing is beside the paths: the rx thread takes a probe out of what it
// received (rx_vxlan.go) and goes on; the prober, one goroutine for the engine,
// sends requests and replies. A probe is neither learned from nor delivered, and
// counts as no traffic.

const (
	// probeSpread is in how many parts an interval falls, so that not all peers
	// are asked at once.
	probeSpread = 16
	// leastProbeWait bounds how often the prober looks who is due.
	leastProbeWait = 5 * time.Millisecond
	// MinProbe is the least interval of probes.
	MinProbe = 100 * time.Millisecond
	// asksPerSecond bounds how many peers are asked in a second, of all networks:
	// where there are more than that they are asked less often than they should
	// be. It is what ten networks of 500 hosts each come to at the default
	// interval.
	asksPerSecond = 500
	// repliesPerSecond bounds the replies to one peer of one network.
	repliesPerSecond = 50
)

// probeKey is a peer of a network.
type probeKey struct {
	network *network
	addr    netip.Addr
}

// prober asks the listed peers of the networks that want it, and answers any peer that
// is admitted. Its goroutine alone touches what is not said otherwise.
type prober struct {
	engine *Engine
	wake   chan struct{}
	boxes  []probeBox  // by worker, shared with its rx thread
	stale  atomic.Bool // networks or their peers changed

	peers   []*probedPeer
	byKey   map[probeKey]*probedPeer
	wait    time.Duration    // between two rounds; 0 = no peer is asked
	stretch float64          // of the intervals, so that asksPerSecond holds; at least 1
	replies map[probeKey]int // in this second
	second  time.Time        // when it began
	buffer  []byte           // of a payload
	send    netio.Send
	parts   [1][]byte

	mu      sync.Mutex // over results
	results map[probeKey]Probe
}

func newProber(e *Engine) *prober {
	p := &prober{
		engine: e, wake: make(chan struct{}, 1), boxes: make([]probeBox, e.workers),
		replies: make(map[probeKey]int), results: make(map[probeKey]Probe),
	}
	for i := range p.boxes {
		p.boxes[i].wake = p.wake
	}
	return p
}

// changed has the prober look at the networks again.
func (p *prober) changed() {
	p.stale.Store(true)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// result is what is known of a peer; nil when it is not asked. Any goroutine may
// call it.
func (p *prober) result(n *network, addr netip.Addr) *Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.results[probeKey{n, addr}]
	if !ok {
		return nil
	}
	return &r
}

func (p *prober) publish(of *probedPeer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.results[probeKey{of.network, of.addr}] = of.result()
}

// run asks and answers until the engine stops.
func (p *prober) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var next time.Time
	for {
		select {
		case <-p.engine.stop:
			return
		case <-p.wake:
		case <-timer.C:
		}
		p.receive()
		if p.stale.Swap(false) {
			p.refresh()
			next = time.Time{}
		}
		if p.wait == 0 {
			timer.Reset(time.Hour)
			continue
		}
		if now := time.Now(); !now.Before(next) {
			p.ask(now)
			next = now.Add(p.wait)
		}
		timer.Reset(time.Until(next))
	}
}

// refresh takes over networks and peers as they are now. What is known of those
// that stay is kept.
func (p *prober) refresh() {
	was := p.byKey
	p.peers, p.byKey, p.wait, p.stretch = nil, make(map[probeKey]*probedPeer), 0, 1
	now := time.Now()
	rate := 0.0 // of peers asked in a second
	p.engine.mu.Lock()
	for _, n := range p.engine.snapshot.Load().networks {
		every := n.policy.Load().Probe
		if every == 0 {
			continue
		}
		if wait := max(every/probeSpread, leastProbeWait); p.wait == 0 || wait < p.wait {
			p.wait = wait
		}
		for info := range n.peers.All() {
			if info.Learned {
				continue // to speak once is no subscription
			}
			key := probeKey{n, info.Addr}
			one := was[key]
			if one == nil {
				one = &probedPeer{network: n, addr: info.Addr, round: -1}
			}
			p.peers, p.byKey[key] = append(p.peers, one), one
			rate += 1 / every.Seconds()
		}
	}
	p.engine.mu.Unlock()
	p.stretch = max(1, rate/asksPerSecond)
	for _, one := range p.peers {
		every := p.interval(one.network)
		if one.due.IsZero() {
			one.due = now.Add(rand.N(every))
		}
		one.due = minTime(one.due, now.Add(every))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.results {
		if p.byKey[key] == nil {
			delete(p.results, key)
		}
	}
	for key, one := range p.byKey {
		p.results[key] = one.result()
	}
}

// interval is the time between two rounds with a peer of the network, which
// wants probes.
func (p *prober) interval(n *network) time.Duration {
	every := max(n.policy.Load().Probe, MinProbe)
	return time.Duration(float64(every) * p.stretch)
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// receive takes in what the threads received.
func (p *prober) receive() {
	for i := range p.boxes {
		for {
			r, ok := p.boxes[i].next()
			if !ok {
				break
			}
			if !r.Reply {
				p.answer(&r)
			} else if one := p.byKey[probeKey{r.network, r.from}]; one != nil && one.reply(&r) {
				p.publish(one)
			}
		}
	}
}

// answer replies to a request: by a frame of the least length, however long the
// request was.
func (p *prober) answer(r *receivedProbe) {
	now := time.Now()
	if now.Sub(p.second) >= time.Second {
		p.second = now
		clear(p.replies)
	}
	key := probeKey{r.network, r.from}
	if p.replies[key] >= repliesPerSecond {
		r.network.probesRefused.Add(1)
		return
	}
	p.replies[key]++
	held := min(now.Sub(r.at).Microseconds(), 1<<32-1)
	p.transmit(r.network, r.from, encap.ProbeLen, encap.Probe{Reply: true, ID: r.ID, Len: r.Len, Held: uint32(max(held, 0))})
}

// ask begins a round with each peer that is due: a probe without padding, which
// finds whether the peer is alive, and one padded to what its path is thought to
// take.
func (p *prober) ask(now time.Time) {
	for _, one := range p.peers {
		if now.Before(one.due) {
			continue
		}
		policy := one.network.policy.Load()
		one.due = now.Add(p.interval(one.network))
		one.look()
		outer := encap.UnderlayMTU(vxlanOuter(one.addr))
		one.path.resize(policy.MTU.VXLANUnderlay(one.addr.Is6()), outer+encap.ProbeLen)
		length := one.path.least
		p.request(one, length, one.note(length, false, time.Now()))
		if length := one.path.next(); length > one.path.least {
			if p.request(one, length, one.note(length, true, time.Now())) == unix.EMSGSIZE {
				one.unsend()
				p.tooLong(one)
			}
		}
		p.publish(one)
	}
}

func (p *prober) request(one *probedPeer, outer encap.UnderlayMTU, id uint64) unix.Errno {
	frame := int(outer) - vxlanOuter(one.addr)
	return p.transmit(one.network, one.addr, frame, encap.Probe{ID: id, Len: frame})
}

// transmit sends a probe of so many bytes.
func (p *prober) transmit(n *network, to netip.Addr, frame int, probe encap.Probe) unix.Errno {
	policy := n.policy.Load()
	size := encap.VXLANHeaderLen + frame
	if size > cap(p.buffer) {
		p.buffer = make([]byte, size)
	}
	b := p.buffer[:size]
	encap.PutVXLAN(b, policy.VNI)
	encap.PutProbe(b[encap.VXLANHeaderLen:], policy.MAC, probe)
	p.parts[0] = b
	p.send = netio.Send{
		To: netip.AddrPortFrom(to, policy.Port), Flow: encap.FlowHash(b[encap.VXLANHeaderLen:]), Parts: p.parts[:],
		TOS: policy.TOS.outer(0, false), TTL: policy.TTL, DF: policy.DF, Count: 1,
	}
	return p.engine.backend.SendOne(&p.send)
}

// tooLong asks the kernel what it knows of the path, for the search and for the
// path.
func (p *prober) tooLong(one *probedPeer) {
	e := p.engine
	e.mu.Lock()
	path := e.backend.PathMTU(one.addr)
	if id, ok := one.network.peers.ID(one.addr); ok && path != 0 {
		one.network.peers.SetPathMTU(id, path)
	}
	e.mu.Unlock()
	one.path.setLimit(path)
}
