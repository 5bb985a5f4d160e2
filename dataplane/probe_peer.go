package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"overtap/encap"
)

const (
	// probesKept are the probes whose replies still count: of some rounds, two
	// each.
	probesKept = 8
	// deadAfter rounds in a row without a reply a peer is not alive.
	deadAfter = 3
)

// probedPeer is a peer that is asked in rounds. The prober's goroutine alone
// touches it.
type probedPeer struct {
	network *network
	addr    netip.Addr
	due     time.Time

	sent     [probesKept]sentProbe
	count    int // sent so far
	round    int // of sent, the one without padding of the last round; -1 = none
	missed   int // rounds without a reply, in a row
	since    time.Time
	answered bool // ever
	rtt      time.Duration
	path     pathSearch
}

// sentProbe is one of the last that were sent.
type sentProbe struct {
	id       uint64
	at       time.Time
	length   encap.UnderlayMTU // of the outer packet
	padded   bool
	answered bool
}

// note remembers a probe that leaves now, and gives it a number.
func (p *probedPeer) note(length encap.UnderlayMTU, padded bool, now time.Time) uint64 {
	// Only a host that sees the request can answer it.
	s := sentProbe{id: rand.Uint64(), at: now, length: length, padded: padded}
	p.sent[p.count%probesKept] = s
	if !padded {
		p.round = p.count
	}
	p.count++
	return s.id
}

// unsend forgets the last probe, which never left.
func (p *probedPeer) unsend() { p.count-- }

// look draws the conclusions from the last round, before the next begins.
func (p *probedPeer) look() {
	if p.round < 0 {
		return
	}
	plain, padded := p.sent[p.round%probesKept], p.sent[(p.round+1)%probesKept]
	if !plain.answered {
		p.missed++
		if p.since.IsZero() {
			p.since = plain.at
		}
		return
	}
	if p.count == p.round+2 && !padded.answered {
		p.path.missed(padded.length)
	}
}

// reply takes in a reply, and reports whether it is one to a probe that was sent.
func (p *probedPeer) reply(r *receivedProbe) bool {
	for i := range p.sent {
		s := &p.sent[i]
		if s.at.IsZero() || s.id != r.ID || s.answered {
			continue
		}
		s.answered, p.answered = true, true
		p.missed, p.since = 0, time.Time{}
		if s.padded {
			p.path.arrived(s.length)
		} else {
			p.rtt = max(r.at.Sub(s.at)-time.Duration(r.Held)*time.Microsecond, 0)
		}
		return true
	}
	return false
}

// result is what is known of the peer.
func (p *probedPeer) result() Probe {
	r := Probe{Alive: p.answered && p.missed < deadAfter, UnansweredSince: p.since, Answered: p.answered,
		VerifiedMTU: p.path.verified, FullMTU: p.path.full}
	if r.Alive {
		r.RTT = p.rtt.Seconds()
	} else {
		r.VerifiedMTU = 0
	}
	return r
}
