package fdb

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sync/errgroup"
)

func route(prefix string, id PeerID) Route {
	return Route{netip.MustParsePrefix(prefix), Target{ID: id, Addr: addr("192.0.2.2")}}
}

func TestRoutesLongestPrefixWins(t *testing.T) {
	r := NewRoutes()
	if _, ok := r.Lookup(addr("10.1.2.3")); ok {
		t.Error("an empty set knows a route")
	}
	if err := r.Set([]Route{route("10.0.0.0/8", 1), route("10.1.0.0/16", 2), route("10.1.2.3/32", 3)}); err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]PeerID{
		"10.2.0.1": 1, "10.1.2.2": 2, "10.1.2.3": 3, "10.1.2.4": 2, "11.0.0.1": NoPeer, "9.255.255.255": NoPeer, "2001:db8::1": NoPeer,
	} {
		if got, ok := r.Lookup(addr(a)); got.ID != want || ok != (want != NoPeer) {
			t.Errorf("%s is behind %d, %t; want %d", a, got.ID, ok, want)
		}
	}
	if err := r.Set([]Route{route("10.1.2.0/24", 4)}); err != nil || r.Len() != 1 {
		t.Fatalf("%d routes, %v", r.Len(), err)
	}
	if _, ok := r.Lookup(addr("10.2.0.1")); ok {
		t.Error("a route that was taken away leads on")
	}
}

// TestRoutesModel compares with a walk over the list.
func TestRoutesModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	address := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(4)), byte(random.IntN(256))})
	}
	for range 50 {
		var want []Route
		seen := make(map[netip.Prefix]bool)
		for range random.IntN(60) {
			p, _ := address().Prefix(random.IntN(33))
			if !seen[p] {
				want = append(want, Route{p, Target{ID: PeerID(1 + random.IntN(1000))}})
			}
			seen[p] = true
		}
		r := NewRoutes()
		if err := r.Set(want); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			a := address()
			best, bits := NoPeer, -1
			for _, w := range want {
				if w.Prefix.Contains(a) && w.Prefix.Bits() > bits {
					best, bits = w.To.ID, w.Prefix.Bits()
				}
			}
			if got, ok := r.Lookup(a); got.ID != best || ok != (bits >= 0) {
				t.Fatalf("%s is behind %d, %t; want %d of %v", a, got.ID, ok, best, want)
			}
		}
	}
}

func TestRoutesRefused(t *testing.T) {
	r := NewRoutes()
	if err := r.Set([]Route{route("10.1.0.0/16", 2)}); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]Route{
		"no prefix": {{}},
		"host bits": {{Prefix: netip.MustParsePrefix("10.1.2.3/24")}},
		"mapped":    {{Prefix: netip.MustParsePrefix("::ffff:10.1.0.0/112")}},
		"twice":     {route("10.2.0.0/16", 1), route("10.2.0.0/16", 3)},
	} {
		if err := r.Set(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, ok := r.Lookup(addr("10.1.2.3")); !ok || got.ID != 2 {
		t.Errorf("after refusals: %v, %t", got, ok)
	}
}

// TestRoutesConcurrent wants readers to see one set or the other, whole.
func TestRoutesConcurrent(t *testing.T) {
	r := NewRoutes()
	sets := [2][]Route{{route("10.0.0.0/8", 1), route("10.1.0.0/16", 2)}, {route("10.0.0.0/8", 3), route("10.1.0.0/16", 4)}}
	if err := r.Set(sets[0]); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 2 {
		g.Go(func() error {
			for range 20_000 {
				if got, ok := r.Lookup(addr("10.1.0.1")); !ok || got.ID != 2 && got.ID != 4 {
					t.Errorf("%v, %t", got, ok)
				}
			}
			return nil
		})
	}
	for i := range 2_000 {
		if err := r.Set(sets[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	_ = g.Wait()
}

func TestRoutesAllocateNothing(t *testing.T) {
	r := NewRoutes()
	if err := r.Set([]Route{route("10.0.0.0/8", 1), route("10.1.2.0/24", 2)}); err != nil {
		t.Fatal(err)
	}
	a := addr("10.1.2.3")
	if n := testing.AllocsPerRun(1000, func() { r.Lookup(a) }); n != 0 {
		t.Errorf("%v allocations a look-up", n)
	}
}

func BenchmarkRoutesLookup(b *testing.B) {
	r := NewRoutes()
	var want []Route
	for i := range 10_000 {
		want = append(want, Route{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Target{ID: 1}})
	}
	if err := r.Set(want); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Lookup(netip.AddrFrom4([4]byte{10, byte(i >> 8 & 31), byte(i), 7}))
	}
}
