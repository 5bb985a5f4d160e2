package fdb

import (
	"fmt"
	"slices"
	"testing"

	"overtap/encap"

	"pgregory.net/rapid"
)

// guarded returns a table with limits, and its clock.
func guarded(l Limits) (*Table, *Clock) {
	c := NewClock()
	t := NewTable(64, 300, c)
	t.SetLimits(l)
	return t, c
}

// One peer's addresses do not crowd out another's.
func TestQuota(t *testing.T) {
	tab, clock := guarded(Limits{PerPeer: 4})
	for i := range 4 {
		wantVerdict(t, tab.Learn(macA+encap.MAC(i), 1), LearnAdded)
	}
	wantVerdict(t, tab.Learn(macA+10, 1), LearnQuota)
	wantVerdict(t, tab.Learn(macA+10, 2), LearnAdded)
	wantVerdict(t, tab.Learn(macA, 1), LearnKnown)
	checkTable(t, tab)

	// A move to a peer that has enough leaves the address unknown.
	wantVerdict(t, tab.Learn(macA+10, 1), LearnQuota)
	wantPeer(t, tab, macA+10, NoPeer)
	checkTable(t, tab)

	// What goes makes room: by a move, the operator, a flush, ageing.
	wantVerdict(t, tab.Learn(macA, 2), LearnMoved)
	wantVerdict(t, tab.Learn(macA+10, 1), LearnAdded)
	mustPut(t, tab, macA+1, 1, Static)
	wantVerdict(t, tab.Learn(macA+11, 1), LearnAdded)
	wantVerdict(t, tab.Learn(macA+12, 1), LearnQuota)
	if n := tab.Flush(func(e Entry) bool { return e.MAC == macA+11 }); n != 1 {
		t.Errorf("flushed %d", n)
	}
	wantVerdict(t, tab.Learn(macA+12, 1), LearnAdded)
	checkTable(t, tab)
	clock.Set(clock.Now() + 300)
	// Each frame that finds no room looks over a part of the table.
	verdict := LearnQuota
	for looked := 0; verdict == LearnQuota && looked < len(tab.slots); looked += roomSlots {
		verdict = tab.Learn(macA+13, 1)
	}
	wantVerdict(t, verdict, LearnAdded)
	checkTable(t, tab)

	tab.SetLimits(Limits{})
	for i := range 20 {
		wantVerdict(t, tab.Learn(macA+100+encap.MAC(i), 1), LearnAdded)
	}
}

// freezes moves m between peers 1 and 2 until it is frozen, and returns after
// how many moves that was, the refused one included.
func freezes(t *testing.T, tab *Table, m encap.MAC) int {
	t.Helper()
	tab.Learn(m, 1)
	for n := 1; n <= 20; n++ {
		if tab.Learn(m, PeerID(n%2+1)) == LearnFrozen {
			return n
		}
	}
	t.Fatal("it never froze")
	return 0
}

// A MAC that moves too often stays where it is until its time is over.
func TestFreeze(t *testing.T) {
	tab, clock := guarded(Limits{Moves: 5, Window: 180})
	if n := freezes(t, tab, macA); n != 5 {
		t.Errorf("frozen by move %d, want 5", n)
	}
	wantPeer(t, tab, macA, 1) // where the fourth had put it
	if n, got := tab.Frozen(), tab.TakeFrozen(); n != 1 || !slices.Equal(got, []encap.MAC{macA}) {
		t.Errorf("%d are frozen, %v reported", n, got)
	}
	if got := tab.TakeFrozen(); got != nil {
		t.Errorf("reported again: %v", got)
	}
	for e := range tab.All() {
		if !e.Frozen {
			t.Errorf("%+v is not marked", e)
		}
	}
	wantVerdict(t, tab.Learn(macA, 2), LearnFrozen)
	wantVerdict(t, tab.Learn(macA, 1), LearnKnown)
	if tab.Forget(macA) {
		t.Error("a frozen MAC was taken to our side")
	}
	wantVerdict(t, tab.Learn(macB, 2), LearnAdded) // others are free
	wantVerdict(t, tab.Learn(macB, 1), LearnMoved)

	for range 179 {
		clock.Set(clock.Now() + 1)
		wantVerdict(t, tab.Learn(macA, 1), LearnKnown) // and it stays frozen with a new time
		tab.Sweep(64)
		wantVerdict(t, tab.Learn(macA, 2), LearnFrozen)
	}
	clock.Set(clock.Now() + 1)
	tab.Sweep(64)
	if tab.Frozen() != 0 {
		t.Error("it does not thaw")
	}
	wantVerdict(t, tab.Learn(macA, 2), LearnMoved)
	checkTable(t, tab)
}

// Moves that are further apart than the window freeze nothing.
func TestSlowMovesAreFree(t *testing.T) {
	tab, clock := guarded(Limits{Moves: 3, Window: 60})
	tab.Learn(macA, 1)
	for n := range 20 {
		wantVerdict(t, tab.Learn(macA, PeerID(n%2+2)), LearnMoved)
		clock.Set(clock.Now() + 31)
	}
}

// A MAC that is seen on our own side and behind a peer in turns freezes too, on
// our side, whichever sighting is one too many.
func TestFreezeBetweenSides(t *testing.T) {
	for _, moves := range []int{4, 5} {
		tab, clock := guarded(Limits{Moves: moves, Window: 180})
		tab.Learn(macA, 1)
		for n := 1; ; n++ {
			if n > 20 {
				t.Fatal("it never froze")
			}
			if n%2 == 1 {
				tab.Forget(macA)
			} else if tab.Learn(macA, 1) == LearnFrozen {
				break
			}
			if tab.Frozen() > 0 {
				break
			}
		}
		wantPeer(t, tab, macA, NoPeer)
		for range 18 {
			wantVerdict(t, tab.Learn(macA, 2), LearnFrozen)
			tab.Forget(macA)
			clock.Set(clock.Now() + ReleaseAfter - 1)
			wantVerdict(t, tab.Learn(macA, 2), LearnFrozen)
			clock.Set(clock.Now() + 1)
			tab.Forget(macA)
		}
		tab.Sweep(64)
		if n := tab.Frozen(); n != 0 {
			t.Errorf("%d are frozen", n)
		}
		if v := tab.Learn(macA, 2); v != LearnAdded && v != LearnMoved {
			t.Errorf("after the thaw: %s", v)
		}
		checkTable(t, tab)
	}
}

// A MAC that is not heard any more from where it is frozen is free to be elsewhere:
// behind a peer or on our own side.
func TestSilenceThaws(t *testing.T) {
	ours := func(tab *Table) {
		tab.Learn(macA, 1)
		tab.Forget(macA)
		tab.Learn(macA, 1)
		tab.Forget(macA)
	}
	peers := func(tab *Table) {
		for _, p := range []PeerID{1, 2, 1, 2} {
			tab.Learn(macA, p)
		}
	}
	for _, c := range []struct {
		name   string
		freeze func(*Table)
		speak  func(*Table) // where it is not
		peer   PeerID       // where it is then
	}{
		{"at a peer, is at another", peers, func(tab *Table) { tab.Learn(macA, 2) }, 2},
		{"at a peer, is here", peers, func(tab *Table) { tab.Forget(macA) }, NoPeer},
		{"here, is at a peer", ours, func(tab *Table) { tab.Learn(macA, 2) }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			tab, clock := guarded(Limits{Moves: 3, Window: 180})
			c.freeze(tab)
			at, _ := tab.Lookup(macA)
			for range ReleaseAfter {
				if n := tab.Frozen(); n != 1 {
					t.Fatalf("%d are frozen", n)
				}
				c.speak(tab)
				wantPeer(t, tab, macA, at)
				clock.Set(clock.Now() + 1)
			}
			c.speak(tab)
			wantPeer(t, tab, macA, c.peer)
			if n := tab.Frozen(); n != 0 {
				t.Errorf("%d are frozen", n)
			}
			checkTable(t, tab)
		})
	}
}

// A frozen MAC does not age, and what takes its entry away thaws it.
func TestFrozenDoesNotAge(t *testing.T) {
	clock := NewClock()
	tab := NewTable(64, 10, clock)
	tab.SetLimits(Limits{Moves: 3, Window: 100})
	freezes(t, tab, macA)
	at, _ := tab.Lookup(macA)
	clock.Set(clock.Now() + 90)
	sweepAll(tab)
	wantPeer(t, tab, macA, at)
	if n := tab.Frozen(); n != 1 {
		t.Errorf("%d are frozen", n)
	}
	clock.Set(clock.Now() + 10)
	sweepAll(tab)
	wantPeer(t, tab, macA, NoPeer)
	wantVerdict(t, tab.Learn(macA, 2), LearnAdded)
	checkTable(t, tab)

	for name, take := range map[string]func(){
		"flush":  func() { tab.Flush(func(e Entry) bool { return e.MAC == macB }) },
		"static": func() { mustPut(t, tab, macB, 9, Static); tab.Delete(macB, Static) },
	} {
		freezes(t, tab, macB)
		take()
		if n := tab.Frozen(); n != 0 {
			t.Errorf("%s: %d are frozen", name, n)
		}
		wantVerdict(t, tab.Learn(macB, 3), LearnAdded)
		tab.Flush(func(e Entry) bool { return e.MAC == macB })
		checkTable(t, tab)
	}
}

// A freeze is reported once, also when it is over before the first question.
func TestEachFreezeIsToldOnce(t *testing.T) {
	tab, _ := guarded(Limits{Moves: 3, Window: 100})
	freezes(t, tab, macA)
	tab.Flush(func(Entry) bool { return true })
	if tab.Frozen() != 0 {
		t.Fatal("it is frozen still")
	}
	for _, want := range [][]encap.MAC{{macA}, nil} {
		if got := tab.TakeFrozen(); !slices.Equal(got, want) {
			t.Errorf("reported %v, want %v", got, want)
		}
	}
	freezes(t, tab, macA)
	if got := tab.TakeFrozen(); !slices.Equal(got, []encap.MAC{macA}) {
		t.Errorf("frozen again, and reported %v", got)
	}
}

// A flood beyond the quota sweeps the table once a second, not for ever, and what
// ages out makes room all the same.
func TestQuotaFloodSweepsOnce(t *testing.T) {
	clock := NewClock()
	tab := NewTable(1024, 10, clock)
	tab.SetLimits(Limits{PerPeer: 4})
	for i := range 4 {
		tab.Learn(macA+encap.MAC(i), 1)
	}
	passes := len(tab.slots) / roomSlots
	for second := range 3 {
		tab.swept = 0
		for i := range 10 * passes {
			wantVerdict(t, tab.Learn(macA+0x10000+encap.MAC(i), 1), LearnQuota)
		}
		if tab.swept != len(tab.slots) {
			t.Errorf("second %d: %d slots were swept for %d frames, want %d", second, tab.swept, 10*passes, len(tab.slots))
		}
		clock.Set(clock.Now() + 1)
	}
	clock.Set(clock.Now() + 10)
	added := 0
	for i := range 10 * passes {
		if tab.Learn(macA+0x10000+encap.MAC(i), 1) == LearnAdded {
			added++
		}
	}
	if added != 4 {
		t.Errorf("%d were learned when the peer's four had aged out", added)
	}
	checkTable(t, tab)
}

// What moves slowly, as a router that fails over does and a container that is moved,
// is never frozen, however often; a loop is, within its fifth move.
func TestFailoverIsNoPendulum(t *testing.T) {
	limits := Limits{Moves: 5, Window: 180}
	for _, c := range []struct {
		every  uint32 // seconds from move to move
		freeze int    // by which; 0 = by none
	}{{15, 0}, {Settle, 0}, {Settle - 1, 5}, {1, 5}, {0, 5}} {
		tab, clock := guarded(limits)
		tab.Learn(macA, 1)
		for n := 1; n <= 200; n++ {
			clock.Set(clock.Now() + c.every)
			v := tab.Learn(macA, PeerID(n%2+1))
			if n == c.freeze {
				wantVerdict(t, v, LearnFrozen)
				break
			}
			wantVerdict(t, v, LearnMoved)
		}
		if want := min(c.freeze, 1); tab.Frozen() != want {
			t.Errorf("a move every %d s: %d are frozen, want %d", c.every, tab.Frozen(), want)
		}
		checkTable(t, tab)

		// The same between a peer and our own side.
		tab, clock = guarded(limits)
		for n := 1; n <= 200 && tab.Frozen() == 0; n++ {
			if v := tab.Learn(macA, 1); n > 1 && v == LearnFrozen {
				break
			}
			clock.Set(clock.Now() + c.every)
			tab.Forget(macA)
			clock.Set(clock.Now() + c.every)
		}
		if want := min(c.freeze, 1); tab.Frozen() != want {
			t.Errorf("between sides, a move every %d s: %d are frozen, want %d", c.every, tab.Frozen(), want)
		}
		checkTable(t, tab)
	}
}

// crowd has peers p and q take MACs from each other, a move each a lap.
func crowd(tab *Table, p, q PeerID, from encap.MAC, macs, frames int) {
	for i := range frames {
		by := p
		if i/macs%2 == 1 {
			by = q
		}
		tab.Learn(from+encap.MAC(i%macs), by)
	}
}

// Two peers that throw thousands of MACs to each other do not keep the guard from the
// MACs of others, nor from those that they take from others.
func TestTwoPeersLeaveTheGuardOn(t *testing.T) {
	clock := NewClock()
	tab := NewTable(1<<16, 300, clock)
	tab.SetLimits(Limits{Moves: 5, Window: 180})
	const others, taken encap.MAC = 0x0210_0000_0000, 0x0220_0000_0000
	for i := range encap.MAC(100) {
		tab.Learn(others+i, 3)
		tab.Learn(taken+i, 3)
	}
	if tab.Saturated() {
		t.Fatal("it is saturated before any move")
	}
	crowd(tab, 1, 2, 0x0200_0000_0000, 3199, 23_544)
	crowd(tab, 2, 1, 0x0201_0000_0000, 3199, 23_544)
	if n := tab.Frozen(); n != 2*maxHeld {
		t.Errorf("%d are frozen by two peers, want %d", n, 2*maxHeld)
	}
	if !tab.Saturated() {
		t.Error("it does not say that it is saturated")
	}
	for i := range encap.MAC(100) {
		for n := 1; n <= 8; n++ {
			want := LearnMoved
			if n >= 5 {
				want = LearnFrozen
			}
			by := PeerID(4 - (n+1)%2) // 4 takes it, 3 takes it back
			if n > 5 && by == 3 {
				want = LearnKnown // where it stays
			}
			if v := tab.Learn(others+i, by); v != want {
				t.Fatalf("move %d of %s, by %d: %s, want %s", n, others+i, by, v, want)
			}
			if by == 4 {
				by = 1 // which has no place left
			}
			if v := tab.Learn(taken+i, by); v != want {
				t.Fatalf("move %d of %s, by %d: %s, want %s", n, taken+i, by, v, want)
			}
		}
		wantPeer(t, tab, others+i, 3)
		wantPeer(t, tab, taken+i, 3)
		// A container that is moved may go.
		wantVerdict(t, tab.Learn(0x0230_0000_0000+i, 3), LearnAdded)
		wantVerdict(t, tab.Learn(0x0230_0000_0000+i, 4), LearnMoved)
	}
	// What is refused without a place is so as long as it is heard where it is.
	last := taken + 200
	tab.Learn(last, 3)
	for _, p := range []PeerID{1, 3, 1, 3} {
		wantVerdict(t, tab.Learn(last, p), LearnMoved)
	}
	for range ReleaseAfter {
		wantVerdict(t, tab.Learn(last, 1), LearnFrozen)
		if e, _ := tab.Entry(last); e.Frozen {
			t.Fatalf("%+v: a place beyond the peer's share", e)
		}
		clock.Set(clock.Now() + 1)
	}
	wantVerdict(t, tab.Learn(last, 1), LearnMoved)
	checkTable(t, tab)
	clock.Set(clock.Now() + saturation)
	if tab.Saturated() {
		t.Error("it is saturated a minute after the last move")
	}
}

// When even many peers' moves have frozen every place, a MAC that is heard where it is
// does not move, and one that is not does.
func TestNoPlaceLeft(t *testing.T) {
	clock := NewClock()
	tab := NewTable(1<<18, 300, clock)
	tab.SetLimits(Limits{Moves: 2, Window: 180})
	for p := PeerID(100); p < 200; p += 2 {
		crowd(tab, p, p+1, 0x0200_0000_0000+encap.MAC(p)<<16, 2400, 2400*4)
	}
	m := macA
	for tab.spot(m, 3, clock.Now()) != nil {
		m++ // most sets are full by now
	}
	wantVerdict(t, tab.Learn(m, 3), LearnAdded)
	wantVerdict(t, tab.Learn(m, 4), LearnFrozen)
	if e, _ := tab.Entry(m); e.Frozen || e.Peer != 3 {
		t.Errorf("%+v", e)
	}
	if v := tab.WouldLearn(m, 4); v != LearnFrozen {
		t.Errorf("would be: %s", v)
	}
	clock.Set(clock.Now() + ReleaseAfter)
	if v := tab.WouldLearn(m, 4); v != LearnMoved {
		t.Errorf("would be: %s", v)
	}
	wantVerdict(t, tab.Learn(m, 4), LearnMoved)
	checkTable(t, tab)
}

// The memory of moves is bounded, for any sequence of moves.
func TestMoversAreBounded(t *testing.T) {
	clock := NewClock()
	tab := NewTable(1<<16, 300, clock)
	tab.SetLimits(Limits{Moves: 2, Window: 180})
	for i := range 20000 {
		m := encap.MAC(0x0200_0000_0000 + i)
		tab.Learn(m, 1)
		tab.Learn(m, 2)
		tab.Learn(m, 1)
	}
	if n := tab.Frozen(); n != maxHeld {
		t.Errorf("%d are frozen by one peer, want %d", n, maxHeld)
	}
	if got := tab.TakeFrozen(); len(got) != maxAlarms {
		t.Errorf("%d reported", len(got))
	}
	tab.SetLimits(Limits{})
	if tab.Frozen() != 0 {
		t.Error("limits gone, and still frozen")
	}
	for e := range tab.All() {
		if e.Frozen {
			t.Fatalf("%+v", e)
		}
	}
	checkTable(t, tab)
}

// Whatever happens, the counts are right, no peer has more than its quota, and a
// frozen entry is where it froze.
func TestGuardHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{
			PerPeer: rapid.IntRange(1, 5).Draw(t, "quota"),
			Moves:   rapid.IntRange(2, 4).Draw(t, "moves"), Window: 20,
		}
		clock := NewClock()
		tab := NewTable(8, 50, clock)
		tab.SetLimits(l)
		mac := rapid.Custom(func(t *rapid.T) encap.MAC { return macA + encap.MAC(rapid.IntRange(0, 11).Draw(t, "mac")) })
		peer := rapid.Custom(func(t *rapid.T) PeerID { return PeerID(rapid.IntRange(1, 3).Draw(t, "peer")) })
		t.Repeat(map[string]func(*rapid.T){
			"learn": func(t *rapid.T) {
				m, p := mac.Draw(t, "m"), peer.Draw(t, "p")
				before, frozen := PeerID(NoPeer), false
				for e := range tab.All() {
					if e.MAC == m {
						before, frozen = e.Peer, e.Frozen && e.Age < ReleaseAfter
					}
				}
				v := tab.Learn(m, p)
				after, _ := tab.Lookup(m)
				if frozen && after != before {
					t.Fatalf("frozen behind %d, and went to %d by %s", before, after, v)
				}
				if (v == LearnKnown || v == LearnAdded || v == LearnMoved) != (after == p) && v != LearnFrozen {
					t.Fatalf("%s, but it is behind %d, not %d", v, after, p)
				}
			},
			"forget": func(t *rapid.T) { tab.Forget(mac.Draw(t, "m")) },
			"put":    func(t *rapid.T) { _ = tab.Put(mac.Draw(t, "m"), peer.Draw(t, "p"), Static) },
			"delete": func(t *rapid.T) { tab.Delete(mac.Draw(t, "m"), Static) },
			"wait": func(t *rapid.T) {
				clock.Set(clock.Now() + uint32(rapid.IntRange(1, 30).Draw(t, "s")))
				tab.Sweep(64)
			},
			"": func(t *rapid.T) {
				checkTable(t, tab)
				for p, n := range tab.guard.owned {
					if int(n) > l.PerPeer {
						t.Fatalf("peer %d has %d entries, more than %d", p, n, l.PerPeer)
					}
				}
				frozen := 0
				if tab.guard.trackers != nil {
					for i := range tab.guard.trackers {
						if tab.guard.trackers[i].until != 0 {
							frozen++
						}
					}
				}
				places, held := make(map[PeerID]int32), make(map[PeerID]int32)
				if tab.guard.trackers != nil {
					for i := range tab.guard.trackers {
						if r := &tab.guard.trackers[i]; r.mac.Load() != 0 {
							places[r.by]++
							if r.until != 0 {
								held[r.by]++
							}
						}
					}
				}
				for p := range PeerID(8) {
					if of(tab.guard.places, p) != int(places[p]) || of(tab.guard.held, p) != int(held[p]) {
						t.Fatalf("peer %d has %d places, %d frozen; counted %d and %d", p, places[p], held[p], of(tab.guard.places, p), of(tab.guard.held, p))
					}
				}
				if frozen != tab.Frozen() || frozen != tab.guard.frozen || (tab.frozenTrackers.Load() != nil) != (frozen > 0) {
					t.Fatalf("%d frozen, counted %d and %d", frozen, tab.Frozen(), tab.guard.frozen)
				}
			},
		})
	})
}

// A watch sees every change, in order; one that is too slow gets the number that it
// missed.
func TestWatch(t *testing.T) {
	tab, clock := guarded(Limits{Moves: 3, Window: 100})
	tab.Learn(macC, 1) // before
	w := tab.Watch()
	tab.Learn(macA, 1)
	tab.Learn(macA, 2)
	tab.Learn(macA, 2)
	tab.Learn(macA, 1)
	tab.Learn(macA, 2) // the third: frozen
	tab.Learn(macB, 2)
	tab.Forget(macB)
	mustPut(t, tab, macB, 3, Static)
	mustPut(t, tab, macB, 3, Static)
	tab.Delete(macB, Static)
	tab.Flush(func(e Entry) bool { return e.MAC == macC })
	clock.Set(clock.Now() + 300)
	sweepAll(tab)
	want := []string{
		"learn 0>1", "move 1>2", "move 2>1", "freeze 0>0", "learn 0>2", "local 2>0",
		"add 0>3", "delete 3>0", "delete 1>0", "thaw 0>0", "age 1>0",
	}
	var got []string
	events, lost := w.Read(nil)
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %d>%d", e.Change, e.From, e.To))
	}
	if !slices.Equal(got, want) || lost != 0 {
		t.Errorf("%q, lost %d, want %q", got, lost, want)
	}
	if events[0].MAC != macA || events[6].MAC != macB || events[6].Origin != Static {
		t.Errorf("%+v", events)
	}

	for i := range ringSize + 10 {
		tab.Learn(macA, PeerID(i%2+1))
		tab.Forget(macA)
		clock.Set(clock.Now() + 100)
	}
	events, lost = w.Read(events[:0])
	if n := len(events) + int(lost); n < 2*(ringSize+10) || lost == 0 || len(events) > ringSize {
		t.Errorf("%d events and %d lost", len(events), lost)
	}
	w.Close()
	if tab.watched.Load() != nil {
		t.Error("recorded without a watch")
	}
}

// An aged-out entry is reported as such, by whichever call finds it first.
func TestWatchTellsAged(t *testing.T) {
	for name, take := range map[string]func(*Table){
		"flush":          func(tab *Table) { tab.Flush(func(Entry) bool { return true }) },
		"put":            func(tab *Table) { mustPut(t, tab, macA, 3, Static) },
		"delete":         func(tab *Table) { tab.Delete(macA, Learned) },
		"sweep":          func(tab *Table) { sweepAll(tab) },
		"learn":          func(tab *Table) { tab.Learn(macA, 1) },
		"learn by other": func(tab *Table) { tab.Learn(macA, 2) },
		"learn by one with its share": func(tab *Table) {
			tab.Learn(macB, 2)
			tab.Learn(macC, 2)
			tab.Learn(macA, 2)
		},
	} {
		tab, clock := guarded(Limits{PerPeer: 2})
		tab.Learn(macA, 1)
		clock.Set(clock.Now() + 300)
		w := tab.Watch()
		take(tab)
		events, _ := w.Read(nil)
		aged := 0
		for _, e := range events {
			switch {
			case e.MAC == macA && e.Change == EntryAged && e.From == 1:
				aged++
			case e.Change == EntryDeleted || e.From != NoPeer:
				t.Errorf("%s: reported %s from %d", name, e.Change, e.From)
			}
		}
		if aged != 1 {
			t.Errorf("%s: reported %d times that it aged out: %+v", name, aged, events)
		}
		w.Close()
	}
}

// A reader that races with the writer gets no nonsense.
func TestWatchRace(t *testing.T) {
	tab := NewTable(1024, 300, NewClock())
	w := tab.Watch()
	defer w.Close()
	const rounds = 200000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range rounds {
			m := macA + encap.MAC(i%512)
			tab.Learn(m, PeerID(i%7+1))
		}
	}()
	var seen, lost uint64
	read := func() {
		events, n := w.Read(nil)
		lost += n
		seen += uint64(len(events))
		for _, e := range events {
			if (e.Change != EntryLearned && e.Change != EntryMoved) || e.MAC < macA || e.MAC >= macA+512 || e.To < 1 || e.To > 7 {
				t.Errorf("%+v", e)
			}
		}
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		read()
	}
	if seen+lost < rounds*6/7-512 || seen+lost > rounds {
		t.Errorf("%d seen and %d lost of about %d", seen, lost, rounds)
	}
}
