package fdb

import (
	"errors"
	"math/rand/v2"
	"testing"

	"overtap/encap"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// guardModel is the slow twin of a table whose senders are bounded. Nothing ages in
// it, and there are no more MACs than one set of moveTrackers holds.
type guardModel struct {
	rows   map[encap.MAC]guardRow
	moves  map[encap.MAC]*moveTracker
	limits Limits
	max    int
	now    uint32
}

type guardRow struct {
	Peer   PeerID
	Origin Origin
	Frozen bool
}

func (m *guardModel) learned(of PeerID) (n int) {
	for _, r := range m.rows {
		if r.Origin == Learned && (of == NoPeer || r.Peer == of) {
			n++
		}
	}
	return n
}

func (m *guardModel) overQuota(p PeerID) bool {
	return m.limits.PerPeer != 0 && m.learned(p) >= m.limits.PerPeer
}

// moved notes a move and reports whether the MAC is frozen by it.
func (m *guardModel) moved(mac encap.MAC, local bool) bool {
	if m.limits.Moves == 0 {
		return false
	}
	r := m.moves[mac]
	if r == nil {
		r = &moveTracker{first: m.now}
		m.moves[mac] = r
	}
	if m.now-r.first >= m.limits.Window {
		r.first, r.moves = m.now, 0
	}
	if r.moves++; int(r.moves) >= m.limits.Moves {
		r.until = m.now + m.limits.Window
		return true
	}
	r.local = local
	return false
}

func (m *guardModel) learn(mac encap.MAC, p PeerID) Verdict {
	r, ok := m.rows[mac]
	switch {
	case ok && r.Peer == p:
		return LearnKnown
	case ok && r.Origin != Learned:
		return LearnOutranked
	case ok && r.Frozen:
		return LearnFrozen
	case ok && m.moved(mac, false):
		r.Frozen = true
		m.rows[mac] = r
		return LearnFrozen
	case ok && m.overQuota(p):
		delete(m.rows, mac)
		return LearnQuota
	case ok:
		m.rows[mac] = guardRow{Peer: p, Origin: Learned}
		return LearnMoved
	}
	if r := m.moves[mac]; r != nil && (r.until != 0 || r.local && m.moved(mac, false)) {
		return LearnFrozen
	}
	switch {
	case m.overQuota(p):
		return LearnQuota
	case m.learned(NoPeer) >= m.max:
		return LearnFull
	}
	m.rows[mac] = guardRow{Peer: p, Origin: Learned}
	return LearnAdded
}

func (m *guardModel) forget(mac encap.MAC) bool {
	if r, ok := m.rows[mac]; !ok || r.Origin != Learned || r.Frozen {
		return false
	}
	m.moved(mac, true)
	delete(m.rows, mac)
	return true
}

// remove deletes a row, and with a frozen one what is known of its moves.
func (m *guardModel) remove(mac encap.MAC) {
	if m.rows[mac].Frozen {
		delete(m.moves, mac)
	}
	delete(m.rows, mac)
}

func (m *guardModel) put(mac encap.MAC, p PeerID, o Origin) error {
	if m.rows[mac].Origin > o {
		return ErrOutranked
	}
	m.remove(mac)
	m.rows[mac] = guardRow{Peer: p, Origin: o}
	return nil
}

// unfreezeDue ends what is over, or everything.
func (m *guardModel) unfreezeDue(all bool) {
	for mac, r := range m.moves {
		if r.until == 0 || !all && m.now < r.until {
			continue
		}
		if row, ok := m.rows[mac]; ok {
			row.Frozen = false
			m.rows[mac] = row
		}
		delete(m.moves, mac)
	}
}

func (m *guardModel) frozen() (n int) {
	for _, r := range m.moves {
		if r.until != 0 {
			n++
		}
	}
	return n
}

// guardProperty drives a table by any calls beside its model.
func guardProperty(t *rapid.T) {
	limits := rapid.Custom(func(t *rapid.T) Limits {
		return Limits{
			PerPeer: rapid.IntRange(0, 3).Draw(t, "per peer"),
			Moves:   rapid.SampledFrom([]int{0, 2, 3}).Draw(t, "moves"),
			Window:  rapid.Uint32Range(1, 5).Draw(t, "window"),
		}
	})
	c := NewClock()
	m := &guardModel{
		rows: map[encap.MAC]guardRow{}, moves: map[encap.MAC]*moveTracker{}, now: 1,
		max: rapid.IntRange(1, 4).Draw(t, "max"), limits: limits.Draw(t, "limits"),
	}
	tab := NewTable(m.max, 0, c)
	tab.SetLimits(m.limits)
	macs := rapid.Custom(func(t *rapid.T) encap.MAC {
		return macA + encap.MAC(rapid.IntRange(0, trackerWays-1).Draw(t, "n"))
	})
	peers := rapid.SampledFrom([]PeerID{1, 2, 300})
	same := func(t *rapid.T, what string, got, want any) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s (-model +table):\n%s", what, d)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"learn": func(t *rapid.T) {
			mac, p := macs.Draw(t, "mac"), peers.Draw(t, "peer")
			same(t, "Learn", tab.Learn(mac, p), m.learn(mac, p))
		},
		"forget": func(t *rapid.T) {
			mac := macs.Draw(t, "mac")
			same(t, "Forget", tab.Forget(mac), m.forget(mac))
		},
		"put": func(t *rapid.T) {
			mac, p, o := macs.Draw(t, "mac"), peers.Draw(t, "peer"), rapid.SampledFrom([]Origin{2, Static}).Draw(t, "origin")
			if got, want := tab.Put(mac, p, o), m.put(mac, p, o); !errors.Is(got, want) {
				t.Fatalf("Put: %v, want %v", got, want)
			}
		},
		"delete": func(t *rapid.T) {
			mac, o := macs.Draw(t, "mac"), rapid.SampledFrom([]Origin{Learned, 2, Static}).Draw(t, "origin")
			r, ok := m.rows[mac]
			want := ok && r.Origin == o
			if want {
				m.remove(mac)
			}
			same(t, "Delete", tab.Delete(mac, o), want)
		},
		"flush": func(t *rapid.T) {
			p, n := peers.Draw(t, "peer"), 0
			for mac, r := range m.rows {
				if r.Peer == p {
					m.remove(mac)
					n++
				}
			}
			same(t, "Flush", tab.Flush(func(e Entry) bool { return e.Peer == p }), n)
		},
		"limits": func(t *rapid.T) {
			m.limits = limits.Draw(t, "limits")
			tab.SetLimits(m.limits)
			if m.limits.Moves == 0 {
				m.unfreezeDue(true)
				clear(m.moves)
			}
		},
		"tick": func(t *rapid.T) {
			m.now += rapid.Uint32Range(0, 3).Draw(t, "seconds")
			c.Set(m.now)
		},
		"sweep": func(t *rapid.T) {
			tab.Sweep(tab.SweepSlots())
			m.unfreezeDue(false)
		},
		"": func(t *rapid.T) {
			checkTable(t, tab)
			got := map[encap.MAC]guardRow{}
			for e := range tab.All() {
				got[e.MAC] = guardRow{e.Peer, e.Origin, e.Frozen}
			}
			same(t, "All", got, m.rows)
			same(t, "Frozen", tab.Frozen(), m.frozen())
			if alarms := tab.TakeFrozen(); len(alarms) > maxAlarms {
				t.Fatalf("%d alarms", len(alarms))
			}
		},
	})
}

func TestGuardModel(t *testing.T) { rapid.Check(t, guardProperty) }

// FuzzGuard is TestGuardModel with the calls that a fuzzer finds.
func FuzzGuard(f *testing.F) {
	seedCalls(f)
	f.Fuzz(rapid.MakeFuzz(guardProperty))
}

// seedCalls adds a few sequences of calls, of which a property takes what it needs.
func seedCalls(f *testing.F) {
	f.Helper()
	for seed := range byte(4) {
		b := make([]byte, 4<<10)
		rand.NewChaCha8([32]byte{seed}).Read(b)
		f.Add(b)
	}
}
