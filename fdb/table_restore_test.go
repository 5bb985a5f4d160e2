package fdb

import (
	"testing"

	"overtap/encap"
)

// Restored entries are as old as they are said to be, give way to what is known
// better, and keep to the bounds.
func TestRestore(t *testing.T) {
	const a, b, c, d encap.MAC = 0x02_00_00_00_00_0a, 0x02_00_00_00_00_0b, 0x02_00_00_00_00_0c, 0x02_00_00_00_00_0d
	clock := NewClock()
	table := NewTable(3, 300, clock)
	table.SetLimits(Limits{PerPeer: 2, Moves: 5, Window: 180})
	if !table.Restore(a, 1, 200, false) {
		t.Fatal("not taken")
	}
	entry := func(m encap.MAC) (Entry, bool) {
		for e := range table.All() {
			if e.MAC == m {
				return e, true
			}
		}
		return Entry{}, false
	}
	if e, ok := entry(a); !ok || e.Age != 200 || e.Peer != 1 || e.Origin != Learned {
		t.Errorf("%+v, %v", e, ok)
	}
	for name, r := range map[string]bool{
		"aged out":        table.Restore(b, 1, 300, false),
		"older than ours": table.Restore(a, 2, 250, false),
		"as old as ours":  table.Restore(a, 2, 200, false),
	} {
		if r {
			t.Errorf("taken: %s", name)
		}
	}
	if !table.Restore(a, 2, 100, false) {
		t.Error("a newer one is not taken")
	}
	if p, ok := table.Lookup(a); !ok || p != 2 {
		t.Errorf("behind %d, %v", p, ok)
	}
	if err := table.Put(d, 1, Static); err != nil {
		t.Fatal(err)
	}
	if table.Restore(d, 2, 0, false) {
		t.Error("a static entry gave way")
	}
	if !table.Restore(b, 1, 0, false) || !table.Restore(c, 1, 0, false) {
		t.Error("not taken")
	}
	if table.Restore(0x02_00_00_00_00_0e, 2, 0, false) {
		t.Error("taken beyond the bound")
	}
	if n := table.LenLearned(); n != 3 {
		t.Errorf("%d learned", n)
	}
	clock.Set(1 + 201)
	if _, ok := table.Lookup(a); ok {
		t.Error("it does not age out when it should")
	}
}

// A frozen entry is frozen again, unfreezes after a window, and is reported once only.
func TestRestoreFrozen(t *testing.T) {
	const m encap.MAC = 0x02_00_00_00_00_0a
	clock := NewClock()
	table := NewTable(16, 300, clock)
	table.SetLimits(Limits{Moves: 5, Window: 180})
	if !table.Restore(m, 1, 5, true) || table.Frozen() != 1 {
		t.Fatalf("%d are frozen", table.Frozen())
	}
	if macs := table.TakeFrozen(); len(macs) != 0 {
		t.Errorf("alarm of %v", macs)
	}
	if v := table.Learn(m, 2); v != LearnFrozen {
		t.Errorf("another peer: %v", v)
	}
	clock.Set(1 + 181)
	table.Sweep(table.SweepSlots())
	if table.Frozen() != 0 {
		t.Error("it does not thaw")
	}
	if v := table.Learn(m, 2); v != LearnMoved {
		t.Errorf("another peer after the window: %v", v)
	}

	plain := NewTable(16, 300, clock)
	if !plain.Restore(m, 1, 5, true) || plain.Frozen() != 0 {
		t.Errorf("a table that freezes nothing: %d are frozen", plain.Frozen())
	}
}
