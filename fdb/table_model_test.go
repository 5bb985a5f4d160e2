package fdb

import (
	"errors"
	"testing"

	"overtap/encap"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// row is an entry of the slow twin: a plain map.
type row struct {
	peer   PeerID
	origin Origin
	tick   uint32
}

type tableModel struct {
	rows   map[encap.MAC]row
	now    uint32
	ageing uint32
	max    int
}

func (m *tableModel) age() {
	for mac, r := range m.rows {
		if r.origin == Learned && m.ageing != 0 && m.now-r.tick >= m.ageing {
			delete(m.rows, mac)
		}
	}
}

func (m *tableModel) learned() (n int) {
	for _, r := range m.rows {
		if r.origin == Learned {
			n++
		}
	}
	return n
}

func (m *tableModel) learn(mac encap.MAC, p PeerID) Verdict {
	r, ok := m.rows[mac]
	switch {
	case ok && r.origin > Learned && r.peer == p:
		return LearnKnown
	case ok && r.origin > Learned:
		return LearnOutranked
	case !ok && m.learned() >= m.max:
		return LearnFull
	}
	m.rows[mac] = row{p, Learned, m.now}
	switch {
	case !ok:
		return LearnAdded
	case r.peer != p:
		return LearnMoved
	}
	return LearnKnown
}

func (m *tableModel) put(mac encap.MAC, p PeerID, o Origin) error {
	if r, ok := m.rows[mac]; ok && r.origin > o {
		return ErrOutranked
	}
	m.rows[mac] = row{p, o, m.now}
	return nil
}

func (m *tableModel) remove(mac encap.MAC, o Origin) bool {
	if r, ok := m.rows[mac]; !ok || r.origin != o {
		return false
	}
	delete(m.rows, mac)
	return true
}

func (m *tableModel) entries() map[encap.MAC]Entry {
	all := map[encap.MAC]Entry{}
	for mac, r := range m.rows {
		e := Entry{MAC: mac, Peer: r.peer, Origin: r.origin}
		if r.origin == Learned {
			e.Age = m.now - r.tick
		}
		all[mac] = e
	}
	return all
}

// TestTableModel compares the table with a map over random calls. The table is
// so small that Learn's own sweep sees all of it, and with that LearnFull is
// exact.
func TestTableModel(t *testing.T) { rapid.Check(t, tableProperty) }

// FuzzTable is TestTableModel with the calls that a fuzzer finds.
func FuzzTable(f *testing.F) {
	seedCalls(f)
	f.Fuzz(rapid.MakeFuzz(tableProperty))
}

func tableProperty(t *rapid.T) {
	c := NewClock()
	m := &tableModel{
		rows:   map[encap.MAC]row{},
		now:    1,
		ageing: rapid.SampledFrom([]uint32{0, 1, 3, 10}).Draw(t, "ageing"),
		max:    rapid.IntRange(0, minSlots/2).Draw(t, "max"),
	}
	tab := NewTable(m.max, m.ageing, c)
	if len(tab.slots) != roomSlots {
		t.Fatalf("%d slots", len(tab.slots))
	}
	// Fewer addresses than Put has slots for, crowded enough to collide.
	macs := rapid.Custom(func(t *rapid.T) encap.MAC {
		return macA + encap.MAC(rapid.IntRange(0, minSlots*3/4-1).Draw(t, "n"))
	})
	peers := rapid.SampledFrom([]PeerID{1, 2, 3, 300})
	origins := rapid.SampledFrom([]Origin{2, planeOrigin, Static})

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
		"learn many": func(t *rapid.T) {
			p := peers.Draw(t, "peer")
			for _, mac := range rapid.SliceOfN(macs, 1, 30).Draw(t, "macs") {
				same(t, "Learn", tab.Learn(mac, p), m.learn(mac, p))
			}
		},
		"forget": func(t *rapid.T) {
			mac := macs.Draw(t, "mac")
			same(t, "Forget", tab.Forget(mac), m.remove(mac, Learned))
		},
		"put": func(t *rapid.T) {
			mac, p, o := macs.Draw(t, "mac"), peers.Draw(t, "peer"), origins.Draw(t, "origin")
			if got, want := tab.Put(mac, p, o), m.put(mac, p, o); !errors.Is(got, want) {
				t.Fatalf("Put: %v, want %v", got, want)
			}
		},
		"delete": func(t *rapid.T) {
			mac := macs.Draw(t, "mac")
			o := rapid.SampledFrom([]Origin{Learned, 2, planeOrigin, Static}).Draw(t, "origin")
			same(t, "Delete", tab.Delete(mac, o), m.remove(mac, o))
		},
		"flush": func(t *rapid.T) {
			p := peers.Draw(t, "peer")
			learnedOnly := rapid.Bool().Draw(t, "learned only")
			match := func(e Entry) bool { return e.Peer == p && (e.Origin == Learned || !learnedOnly) }
			n := 0
			for mac, e := range m.entries() {
				if match(e) {
					delete(m.rows, mac)
					n++
				}
			}
			same(t, "Flush", tab.Flush(match), n)
		},
		"tick": func(t *rapid.T) {
			m.now += uint32(rapid.IntRange(0, 4).Draw(t, "seconds"))
			c.Set(m.now)
			m.age()
		},
		"sweep": func(t *rapid.T) {
			tab.Sweep(rapid.IntRange(0, 100).Draw(t, "slots"))
		},
		"sweep all": func(t *rapid.T) {
			sweepAll(tab)
			same(t, "Len", tab.Len(), len(m.rows))
			same(t, "LenLearned", tab.LenLearned(), m.learned())
		},
		"": func(t *rapid.T) {
			checkTable(t, tab)
			got := map[encap.MAC]Entry{}
			for e := range tab.All() {
				if _, twice := got[e.MAC]; twice {
					t.Fatalf("All yields %s twice", e.MAC)
				}
				got[e.MAC] = e
			}
			same(t, "All", got, m.entries())
			for i := range encap.MAC(minSlots) {
				p, ok := tab.Lookup(macA + i)
				r, want := m.rows[macA+i]
				if ok != want || p != r.peer {
					t.Fatalf("Lookup(%s) = %d, %t; want %d, %t", macA+i, p, ok, r.peer, want)
				}
			}
		},
	})
}
