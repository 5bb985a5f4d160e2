package linux

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
)

// runRefusal is that the route to a peer refused a run.
type runRefusal struct {
	errno unix.Errno
	wait  time.Duration
	until time.Time // wait after the last refusal
}

// runs says how runs are sent to a peer.
type runs uint8

const (
	runsSent    runs = iota // as one, by UDP_SEGMENT
	runsTried               // as one, to see whether that is refused still
	runsRefused             // payload by payload
)

// runs returns how they are sent to the peer now.
func (p *sourcePool) runs(to netip.Addr) runs {
	if p.noRuns {
		return runsRefused
	}
	refused := p.refused.Load()
	if refused == nil {
		return runsSent
	}
	r, ok := (*refused)[to]
	switch {
	case !ok:
		return runsSent
	case p.now().Before(r.until):
		return runsRefused
	}
	return runsTried
}

// refuse notes that the peer's route did not take a run. Of several threads that
// find out at once the first counts.
func (p *sourcePool) refuse(to netip.Addr, errno unix.Errno) {
	p.change(func(all map[netip.Addr]runRefusal) {
		now, r := p.now(), all[to]
		if now.Before(r.until) {
			return
		}
		r.errno = errno
		r.wait = min(max(2*r.wait, netio.FirstBackoff), netio.LongestBackoff)
		r.until = now.Add(r.wait)
		all[to] = r
	})
}

// accept notes that the peer's route took a run that was tried, unless another
// thread was refused meanwhile.
func (p *sourcePool) accept(to netip.Addr) {
	p.change(func(all map[netip.Addr]runRefusal) {
		if !p.now().Before(all[to].until) {
			delete(all, to)
		}
	})
}

// forgetRefusals drops those of peers that no run was sent to in a second time of
// waiting.
func (p *sourcePool) forgetRefusals() {
	if p.refused.Load() == nil {
		return
	}
	p.change(func(all map[netip.Addr]runRefusal) {
		now := p.now()
		maps.DeleteFunc(all, func(_ netip.Addr, r runRefusal) bool { return now.After(r.until.Add(r.wait)) })
	})
}

// change publishes a changed copy of the refusals.
func (p *sourcePool) change(f func(map[netip.Addr]runRefusal)) {
	for {
		old := p.refused.Load()
		next := make(map[netip.Addr]runRefusal)
		if old != nil {
			maps.Copy(next, *old)
		}
		f(next)
		published := &next
		if len(next) == 0 {
			published = nil
		}
		if p.refused.CompareAndSwap(old, published) {
			return
		}
	}
}

// RunsRefused lists the refusals in the order of the peers.
func (e *Backend) RunsRefused() []netio.RunsRefused {
	refused := e.sources.refused.Load()
	if refused == nil {
		return nil
	}
	all := make([]netio.RunsRefused, 0, len(*refused))
	for _, peer := range slices.SortedFunc(maps.Keys(*refused), netip.Addr.Compare) {
		r := (*refused)[peer]
		all = append(all, netio.RunsRefused{Peer: peer, Errno: r.errno, Until: r.until})
	}
	return all
}

// SupportsUDP asks a socket whether it knows the options UDP_SEGMENT (kernel
// 4.18) and UDP_GRO (5.0).
func (e *Backend) SupportsUDP() (segment, gro bool) {
	knows := func(opt int) bool {
		_, err := unix.GetsockoptInt(e.sources.df[0], unix.IPPROTO_UDP, opt)
		return err == nil
	}
	return knows(unix.UDP_SEGMENT), knows(unix.UDP_GRO)
}
