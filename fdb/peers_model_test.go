package fdb

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestPeersModel drives Peers by random calls beside plain maps.
func TestPeersModel(t *testing.T) { rapid.Check(t, peersProperty) }

// FuzzPeers is TestPeersModel with the calls that a fuzzer finds.
func FuzzPeers(f *testing.F) {
	seedCalls(f)
	f.Fuzz(rapid.MakeFuzz(peersProperty))
}

func peersProperty(t *rapid.T) {
	type known struct {
		id      PeerID
		learned bool
		flood   bool
		since   uint32
		heard   uint32 // 0 = never
	}
	var (
		c       = NewClock()
		now     = uint32(1)
		self    = addr("192.0.2.0")
		bound   = rapid.IntRange(0, 6).Draw(t, "bound")
		p       = NewPeers(self, bound, c)
		peers   = map[netip.Addr]*known{}
		retired = map[PeerID]netip.Addr{}
		free    []PeerID
		next    = PeerID(1)
		policy  Policy
	)
	pool := []netip.Addr{self}
	for range 15 { // .0 to .7 and .8 to .15 fall under different prefixes
		pool = append(pool, pool[len(pool)-1].Next())
	}
	pool = append(pool, addr("2001:db8::1"), addr("2001:db8::2"))
	addrs := rapid.SampledFrom(pool)

	admits := func(a netip.Addr) bool {
		return a != self && (policy.Any || slices.ContainsFunc(policy.Prefixes,
			func(x netip.Prefix) bool { return x.Contains(a) }))
	}
	learned := func() (n int) {
		for _, k := range peers {
			if k.learned {
				n++
			}
		}
		return n
	}
	newID := func() (id PeerID) {
		if len(free) > 0 {
			id, free = free[0], free[1:]
			return id
		}
		next++
		return next - 1
	}
	retire := func(a netip.Addr) {
		retired[peers[a].id] = a
		delete(peers, a)
	}

	t.Repeat(map[string]func(*rapid.T){
		"admit": func(t *rapid.T) {
			a := addrs.Draw(t, "address")
			id, got := p.Admit(a)
			k := peers[a]
			switch {
			case k != nil:
				k.heard = now
				if got != AdmitKnown || id != k.id {
					t.Fatalf("%s: %s as %d, want known as %d", a, got, id, k.id)
				}
			case !admits(a):
				if got != AdmitDenied || id != NoPeer {
					t.Fatalf("%s: %s as %d, want denied", a, got, id)
				}
			case learned() >= bound:
				if got != AdmitFull || id != NoPeer {
					t.Fatalf("%s: %s as %d, want full", a, got, id)
				}
			default:
				want := newID()
				if got != AdmitAdded || id != want {
					t.Fatalf("%s: %s as %d, want added as %d", a, got, id, want)
				}
				peers[a] = &known{id: id, learned: true, since: now, heard: now}
			}
		},
		"set": func(t *rapid.T) {
			want := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Peer {
				return Peer{Addr: addrs.Draw(t, "address"), Flood: rapid.Bool().Draw(t, "flood")}
			}), 0, 8).Draw(t, "want")
			policy = rapid.SampledFrom([]Policy{
				{}, {Any: true}, {Prefixes: prefixes("192.0.2.0/29")},
				{Prefixes: prefixes("192.0.2.8/29", "2001:db8::/64")},
			}).Draw(t, "policy")
			removed := mustSet(t, p, want, policy)

			listed := map[netip.Addr]bool{}
			for _, w := range want {
				if w.Addr != self {
					listed[w.Addr] = listed[w.Addr] || w.Flood
				}
			}
			for a, k := range peers {
				flood, ok := listed[a]
				gone := slices.Contains(removed, k.id)
				if wasLearned := k.learned; !ok {
					switch {
					case !admits(a) && !gone:
						t.Fatalf("%s stays, neither listed nor admitted", a)
					case admits(a) && gone && (wasLearned || p.LenLearned() < bound):
						t.Fatalf("%s was removed, though admitted", a)
					case !wasLearned:
						k.since = now
					}
					k.learned, k.flood = true, false
				} else {
					if gone {
						t.Fatalf("%s was removed, though listed", a)
					}
					if k.learned {
						k.since = now
					}
					k.learned, k.flood = false, flood
				}
				if gone {
					retire(a)
				}
			}
			for _, w := range want {
				if peers[w.Addr] == nil && w.Addr != self {
					peers[w.Addr] = &known{id: newID(), flood: listed[w.Addr], since: now}
				}
			}
		},
		"expire": func(t *rapid.T) {
			idle := uint32(rapid.IntRange(0, 10).Draw(t, "idle"))
			var want []PeerID
			for a, k := range peers {
				if k.learned && idle != 0 && now-max(k.since, k.heard) >= idle {
					want = append(want, k.id)
					retire(a)
				}
			}
			got := p.Expire(idle)
			slices.Sort(got)
			slices.Sort(want)
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("expired (-model +peers):\n%s", d)
			}
		},
		"release": func(t *rapid.T) {
			if len(retired) == 0 {
				return // a script may ask for this again and again, and Skip ends one
			}
			ids := slices.Sorted(maps.Keys(retired))
			ids = ids[:rapid.IntRange(1, len(ids)).Draw(t, "n")]
			p.Release(ids)
			free = append(free, ids...)
			for _, id := range ids {
				delete(retired, id)
			}
		},
		"tick": func(t *rapid.T) {
			now += uint32(rapid.IntRange(1, 5).Draw(t, "seconds"))
			c.Set(now)
		},
		"": func(t *rapid.T) {
			var want []PeerInfo
			flood := 0
			for a, k := range peers {
				info := PeerInfo{ID: k.id, Addr: a, Flood: k.flood, Learned: k.learned, Known: now - k.since}
				info.LastHeard = k.heard
				if k.learned {
					info.Idle = now - max(k.since, k.heard)
				}
				if k.flood {
					flood++
				}
				want = append(want, info)
			}
			slices.SortFunc(want, func(a, b PeerInfo) int { return int(a.ID) - int(b.ID) })
			if d := cmp.Diff(want, slices.Collect(p.All()), compareAddrs); d != "" {
				t.Fatalf("All (-model +peers):\n%s", d)
			}
			if p.Len() != len(peers) || p.LenLearned() != learned() {
				t.Fatalf("%d peers, %d learned; want %d, %d", p.Len(), p.LenLearned(), len(peers), learned())
			}
			for _, a := range pool {
				id, ok := p.ID(a)
				k := peers[a]
				if ok != (k != nil) || ok && (id != k.id || p.Addr(id) != a) {
					t.Fatalf("ID(%s) = %d, %t", a, id, ok)
				}
			}
			for id, a := range retired {
				if p.Addr(id) != a {
					t.Fatalf("Addr(%d) = %s, want the removed peer's %s", id, p.Addr(id), a)
				}
			}
			for _, id := range free {
				if p.Addr(id).IsValid() {
					t.Fatalf("Addr(%d) = %s, though released", id, p.Addr(id))
				}
			}
			for _, f := range p.Flood() {
				if k := peers[f.Addr]; k == nil || !k.flood || k.id != f.ID {
					t.Fatalf("%s floods as %d", f.Addr, f.ID)
				}
			}
			if len(p.Flood()) != flood {
				t.Fatalf("%d flood, want %d", len(p.Flood()), flood)
			}
		},
	})
}
