package fdb

import (
	"math"
	"testing"

	"overtap/encap"
)

// guards are no limits, and those of a network by default but that nothing in
// these benchmarks reaches them.
var guards = []struct {
	name   string
	limits Limits
}{
	{"free", Limits{}},
	{"limits", Limits{PerPeer: 1 << 20, Moves: math.MaxUint16, Window: 1}},
}

// BenchmarkGuard is what limits cost each kind of frame that they look at, and
// those that they do not.
func BenchmarkGuard(b *testing.B) {
	const size = 10_000
	for _, g := range guards {
		guarded := func(b *testing.B) (*Table, []encap.MAC) {
			t, macs := benchTable(b, size)
			t.SetLimits(g.limits)
			return t, macs
		}
		b.Run("lookup/"+g.name, func(b *testing.B) {
			t, macs := guarded(b)
			for i := 0; b.Loop(); i++ {
				sink, _ = t.Lookup(macs[i%size])
			}
		})
		b.Run("known/"+g.name, func(b *testing.B) {
			t, macs := guarded(b)
			for i := 0; b.Loop(); i++ {
				t.Learn(macs[i%size], PeerID(i%size%1000+1))
			}
		})
		b.Run("new and gone/"+g.name, func(b *testing.B) {
			t, _ := guarded(b)
			t.max++
			for m := encap.MAC(1 << 40); b.Loop(); m += 2 {
				t.Learn(m, 1)
				t.delete(m, Learned)
			}
		})
		b.Run("move/"+g.name, func(b *testing.B) {
			t, macs := guarded(b)
			for i := 0; b.Loop(); i++ {
				if i%size == 0 { // the next window
					t.clock.Set(t.clock.Now() + 1)
				}
				t.Learn(macs[i%size], PeerID(i/size%2+2000))
			}
		})
	}
	b.Run("refused/quota", func(b *testing.B) {
		t, _ := benchTable(b, size)
		t.SetLimits(Limits{PerPeer: 1})
		for m := encap.MAC(1 << 40); b.Loop(); m += 2 {
			if v := t.Learn(m, 1); v != LearnQuota {
				b.Fatal(v)
			}
		}
	})
	b.Run("refused/full", func(b *testing.B) {
		t, _ := benchTable(b, size)
		for m := encap.MAC(1 << 40); b.Loop(); m += 2 {
			if v := t.Learn(m, 1); v != LearnFull {
				b.Fatal(v)
			}
		}
	})
	b.Run("refused/frozen", func(b *testing.B) {
		t, macs := benchTable(b, size)
		t.SetLimits(Limits{Moves: 2, Window: 100})
		for t.Frozen() == 0 {
			t.Learn(macs[0], 2000)
			t.Learn(macs[0], 2001)
		}
		at, _ := t.Lookup(macs[0])
		for b.Loop() {
			if v := t.Learn(macs[0], at+1); v != LearnFrozen {
				b.Fatal(v)
			}
		}
	})
}
