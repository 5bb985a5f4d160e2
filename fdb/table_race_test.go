package fdb

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"overtap/encap"

	"golang.org/x/sync/errgroup"
)

// TestTableConcurrent lets learners, readers, a control writer and a sweeper at
// one small, crowded table. The peers that may ever be bound to a MAC are its
// own, so a key read with another entry's value shows; the static entries are
// there all the while, so a probe that missed an entry on the move shows.
func TestTableConcurrent(t *testing.T) {
	const (
		bound   = 96
		macs    = 140
		statics = 40 // the first of them
		rounds  = 100_000
	)
	c := NewClock()
	tab := NewTable(bound, 4, c)
	mac := func(i int) encap.MAC { return macA + encap.MAC(i) }
	own := func(i, k int) PeerID { return PeerID(i*4 + k + 1) } // k = 0 for static
	ownerOf := func(p PeerID) int { return int(p-1) / 4 }

	for i := range statics {
		mustPut(t, tab, mac(i), own(i, 0), Static)
	}
	look := func(i int) error {
		p, ok := tab.Lookup(mac(i))
		switch {
		case i < statics && (!ok || p != own(i, 0)):
			return fmt.Errorf("static %s: Lookup = %d, %t; want %d", mac(i), p, ok, own(i, 0))
		case ok && ownerOf(p) != i:
			return fmt.Errorf("%s: Lookup = %d, which is %s's", mac(i), p, mac(ownerOf(p)))
		}
		if n := tab.LenLearned(); n > bound {
			return fmt.Errorf("%d learned, the bound is %d", n, bound)
		}
		return nil
	}

	var done atomic.Bool
	var background, path errgroup.Group
	for range 2 { // learners
		path.Go(func() error {
			for range rounds {
				i := rand.IntN(macs)
				v := tab.Learn(mac(i), own(i, 1+rand.IntN(3)))
				if (v == LearnOutranked) != (i < statics) {
					return fmt.Errorf("Learn(%s): %s", mac(i), v)
				}
				if rand.IntN(4) == 0 {
					i = rand.IntN(macs)
					if gone := tab.Forget(mac(i)); gone && i < statics {
						return fmt.Errorf("static %s forgotten", mac(i))
					}
				}
			}
			return nil
		})
	}
	for range 2 { // readers
		background.Go(func() error {
			for !done.Load() {
				for range 64 {
					if err := look(rand.IntN(macs)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	background.Go(func() error { // a control plane and the operator
		for !done.Load() {
			i := statics + rand.IntN(macs-statics)
			switch rand.IntN(8) {
			case 0:
				n := tab.Flush(func(e Entry) bool { return e.Origin != Static && e.Peer%4 == 2 })
				if n < 0 || n > macs {
					return fmt.Errorf("flushed %d", n)
				}
			case 1:
				seen := map[encap.MAC]int{}
				for e := range tab.All() {
					seen[e.MAC]++
					if ownerOf(e.Peer) != int(e.MAC-macA) {
						return fmt.Errorf("All: %s behind %d", e.MAC, e.Peer)
					}
				}
				for i := range statics {
					if seen[mac(i)] != 1 {
						return fmt.Errorf("All yields static %s %d times", mac(i), seen[mac(i)])
					}
				}
			default:
				// Not on the learners' addresses: those are never outranked.
				i += macs
				if err := tab.Put(mac(i), own(i, 0), planeOrigin); err != nil {
					return err
				}
				if p, ok := tab.Lookup(mac(i)); !ok || p != own(i, 0) {
					return fmt.Errorf("%s was put: Lookup = %d, %t", mac(i), p, ok)
				}
				if !tab.Delete(mac(i), planeOrigin) {
					return fmt.Errorf("%s was put: nothing to delete", mac(i))
				}
			}
		}
		return nil
	})
	background.Go(func() error { // the tick
		for now := uint32(2); !done.Load(); now++ {
			c.Set(now)
			for range 20 {
				tab.Sweep(tab.SweepSlots())
			}
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
	checkTable(t, tab)
}

// TestMissWhileMoving looks for an entry that a removal moves back across two
// hundred slots, from behind the reader's eyes to where it has been.
func TestMissWhileMoving(t *testing.T) {
	const (
		run    = 200
		looks  = 500    // that overlapped a move,
		rounds = 50_000 // or as many moves, on a machine where few do
	)
	tab := NewTable(1024, 300, NewClock())
	taken := map[encap.MAC]bool{}
	first, last := macAt(tab, 0, taken), macAt(tab, 0, taken)
	for i := range run { // each at home, none can move
		mustPut(t, tab, macAt(tab, uint64(i+1), taken), 1, Static)
	}
	var there atomic.Uint64 // odd while last is in the table
	var looked atomic.Int64
	var done atomic.Bool
	var readers errgroup.Group
	for range 2 {
		readers.Go(func() error {
			for !done.Load() {
				before, moves := there.Load(), tab.moves.Load()
				p, ok := tab.Lookup(last)
				moved := tab.moves.Load() != moves
				switch {
				case before&1 == 0 || there.Load() != before:
				case !ok || p != 3:
					done.Store(true)
					return fmt.Errorf("Lookup = %d, %t of an entry that is there", p, ok)
				case moved:
					looked.Add(1)
				}
			}
			return nil
		})
	}
	for i := 0; i < rounds && looked.Load() < looks && !done.Load(); i++ {
		mustPut(t, tab, first, 2, Static)
		mustPut(t, tab, last, 3, Static)
		there.Add(1)
		tab.Delete(first, Static)
		for range 2 * run { // as long as a reader that has just begun
			there.Load()
		}
		there.Add(1)
		tab.Delete(last, Static)
	}
	done.Store(true)
	if err := readers.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d lookups while the entry moved", looked.Load())
	checkTable(t, tab)
}

// TestPutOverLearner: a learner that renews the time of an entry does not bring
// it back over a static one.
func TestPutOverLearner(t *testing.T) {
	c := NewClock()
	tab := NewTable(10, 0, c)
	var done atomic.Bool
	var learner errgroup.Group
	learner.Go(func() error {
		for now := uint32(2); !done.Load(); now++ {
			c.Set(now)
			tab.Learn(macA, 1)
		}
		return nil
	})
	for range 20_000 {
		mustPut(t, tab, macA, 2, Static)
		for range 20 {
			if p, ok := tab.Lookup(macA); !ok || p != 2 {
				t.Errorf("a static entry was displaced: Lookup = %d, %t", p, ok)
				break
			}
		}
		if !tab.Delete(macA, Static) {
			t.Error("a static entry was displaced: nothing to delete")
			break
		}
	}
	done.Store(true)
	if err := learner.Wait(); err != nil {
		t.Error(err)
	}
	checkTable(t, tab)
}
