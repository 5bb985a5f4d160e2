package fdb

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// TestPeersConcurrent lets several paths admit the same unlisted senders while control
// changes lists, policies and IDs. An ID that a path got belongs to the address
// it was given for until it is released, and no two addresses share one.
func TestPeersConcurrent(t *testing.T) {
	const (
		bound  = 40
		hosts  = 64
		rounds = 60_000
	)
	c := NewClock()
	p := NewPeers(addr("192.0.2.0"), bound, c)
	var pool []netip.Addr
	for a := addr("192.0.2.1"); len(pool) < hosts; a = a.Next() {
		pool = append(pool, a)
	}
	always := pool[:8]
	list := func() (want []Peer) {
		for i, a := range pool {
			if i < len(always) || rand.IntN(4) == 0 {
				want = append(want, Peer{Addr: a, Flood: rand.IntN(2) == 0})
			}
		}
		return want
	}
	mustSet(t, p, list(), Policy{})

	// Each path names the tick before which its IDs must not be released: a stand
	// for the batch it is in.
	var batches [3]atomic.Uint64
	var done atomic.Bool
	var path, background errgroup.Group
	for w := range batches {
		path.Go(func() error {
			defer batches[w].Store(1 << 63)
			for range rounds {
				batches[w].Add(1)
				i := rand.IntN(hosts)
				a := pool[i]
				id, v := p.Admit(a)
				switch v {
				case AdmitKnown, AdmitAdded:
					if got := p.Addr(id); got != a {
						return fmt.Errorf("%s is %d, which is %s", a, id, got)
					}
				case AdmitDenied, AdmitFull, AdmitBusy:
					if i < len(always) {
						return fmt.Errorf("%s, always listed: %s", a, v)
					}
				}
				if n := p.LenLearned(); n > bound {
					return fmt.Errorf("%d learned, the bound is %d", n, bound)
				}
				for _, f := range p.Flood() {
					if got := p.Addr(f.ID); got != f.Addr {
						return fmt.Errorf("%s floods as %d, which is %s", f.Addr, f.ID, got)
					}
				}
			}
			return nil
		})
	}
	background.Go(func() error {
		policies := []Policy{{}, {Any: true}, {Prefixes: prefixes("192.0.2.32/27")}}
		for now := uint32(2); !done.Load(); now++ {
			c.Set(now)
			removed, err := p.Set(list(), policies[rand.IntN(len(policies))])
			if err != nil {
				return err
			}
			removed = append(removed, p.Expire(3)...)
			ids := map[PeerID]netip.Addr{}
			for info := range p.All() {
				if was, twice := ids[info.ID]; twice {
					return fmt.Errorf("%s and %s both are %d", was, info.Addr, info.ID)
				}
				ids[info.ID] = info.Addr
			}
			for _, id := range removed {
				if a, ok := ids[id]; ok {
					return fmt.Errorf("removed %d is listed as %s", id, a)
				}
			}
			for i := range batches { // every path ends the batch it is in
				for was := batches[i].Load(); batches[i].Load() == was && was < 1<<63 && !done.Load(); {
				}
			}
			p.Release(removed)
		}
		return nil
	})
	if err := path.Wait(); err != nil {
		t.Error(err)
	}
	done.Store(true)
	if err := background.Wait(); err != nil {
		t.Error(err)
	}
	if n := p.nextID; n > 4*hosts {
		t.Errorf("%d IDs were given to %d hosts: released ones are not used again", n, hosts)
	}
	seen := map[netip.Addr]PeerID{}
	for info := range p.All() {
		if was, twice := seen[info.Addr]; twice {
			t.Errorf("%s is both %d and %d", info.Addr, was, info.ID)
		}
		seen[info.Addr] = info.ID
	}
}
