package fdb

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"overtap/encap"
)

// image is all of a table that an operation may change.
func image(t *Table) any {
	var entries []Entry
	for e := range t.All() {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return int(a.MAC) - int(b.MAC) })
	var movers [][8]uint64
	if t.guard.trackers != nil {
		for i := range t.guard.trackers {
			r, local := &t.guard.trackers[i], uint64(0)
			if r.mac.Load() == 0 {
				continue
			}
			if r.local {
				local = 1
			}
			movers = append(movers, [8]uint64{r.mac.Load(), uint64(r.heard.Load()), uint64(r.first), uint64(r.last), uint64(r.until), uint64(r.by), uint64(r.moves), local})
		}
	}
	return []any{entries, movers, t.Len(), t.LenLearned(), t.Frozen(), slices.Clone(t.guard.owned), slices.Clone(t.guard.held), slices.Clone(t.guard.places), t.saturated.Load(), t.cursor}
}

// What the table would do it does, and the question changes nothing.
func TestTableWould(t *testing.T) {
	seen := make(map[Verdict]int)
	rapid.Check(t, func(rt *rapid.T) {
		clock := NewClock()
		ageing := rapid.SampledFrom([]uint32{0, 10}).Draw(rt, "ageing")
		table := NewTable(rapid.SampledFrom([]int{8, 60}).Draw(rt, "max"), ageing, clock)
		table.SetLimits(Limits{
			PerPeer: rapid.SampledFrom([]int{0, 3}).Draw(rt, "perPeer"),
			Moves:   rapid.SampledFrom([]int{0, 1, 2, 3}).Draw(rt, "moves"), Window: 20,
		})
		mac := rapid.Map(rapid.IntRange(1, 24), func(i int) encap.MAC { return encap.MAC(0x020000000000 + i) })
		peer := rapid.Map(rapid.IntRange(1, 4), func(i int) PeerID { return PeerID(i) })
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			m, p := mac.Draw(rt, "mac"), peer.Draw(rt, "peer")
			switch rapid.IntRange(0, 12).Draw(rt, "do") {
			case 0:
				_ = table.Put(m, p, Static)
			case 1:
				table.Delete(m, Static)
			case 2:
				clock.Set(clock.Now() + uint32(rapid.IntRange(1, 12).Draw(rt, "seconds")))
			case 3:
				table.Sweep(table.SweepSlots())
			case 4, 5, 6:
				before := image(table)
				will := table.WouldForget(m)
				if d := cmp.Diff(before, image(table)); d != "" {
					rt.Fatalf("the question changed the table: %s", d)
				}
				if did := table.Forget(m); did != will {
					rt.Fatalf("Forget(%s) = %t, would be %t", m, did, will)
				}
			default:
				before := image(table)
				entry, known := table.Entry(m)
				will := table.WouldLearn(m, p)
				if d := cmp.Diff(before, image(table)); d != "" {
					rt.Fatalf("the question changed the table: %s", d)
				}
				if id, ok := table.Lookup(m); ok != known || known && id != entry.Peer {
					rt.Fatalf("Entry(%s) = %+v, %t; Lookup says %d, %t", m, entry, known, id, ok)
				}
				_, ours := table.sweepable(p, clock.Now())
				did := table.Learn(m, p)
				seen[did]++
				// How many of p's go, sweepable knows to within one or two.
				if did != will && (ours == 0 || (did != LearnQuota && will != LearnQuota)) {
					rt.Fatalf("Learn(%s, %d) = %s, would be %s", m, p, did, will)
				}
			}
		}
	})
	for v := range verdicts {
		if v != LearnBusy && seen[v] == 0 && !testing.Short() { // rapid draws too little when short
			t.Errorf("%s never came", v)
		}
	}
}

func TestPeersWould(t *testing.T) {
	seen := make(map[Admission]int)
	rapid.Check(t, func(rt *rapid.T) {
		self := netip.MustParseAddr("192.0.2.1")
		p := NewPeers(self, 3, NewClock())
		policy := Policy{Any: rapid.Bool().Draw(rt, "any")}
		wide, narrow := netip.MustParsePrefix("192.0.2.0/28"), netip.MustParsePrefix("192.0.2.0/30")
		policy.Prefixes = rapid.SampledFrom([][]netip.Prefix{nil, {wide}, {narrow, wide}}).Draw(rt, "prefixes")
		if _, err := p.Set([]Peer{{Addr: netip.MustParseAddr("192.0.2.20"), Flood: true}}, policy); err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			a := netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(0, 22).Draw(rt, "address"))})
			have := p.Len()
			_, will := p.WouldAdmit(a)
			if p.Len() != have {
				rt.Fatal("the question admitted a peer")
			}
			prefix, by := p.AdmittedBy(a)
			switch inside := slices.ContainsFunc(policy.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }); {
			case by != (inside || policy.Any):
				rt.Fatalf("AdmittedBy(%s) = %t", a, by)
			case inside != prefix.IsValid() || inside && !prefix.Contains(a):
				rt.Fatalf("%s is admitted by %s", a, prefix)
			case inside && narrow.Contains(a) && len(policy.Prefixes) == 2 && prefix != narrow:
				rt.Fatalf("%s is admitted by %s, want the longest", a, prefix)
			}
			id, did := p.Admit(a)
			seen[did]++
			if did != will {
				rt.Fatalf("Admit(%s) = %s, would be %s", a, did, will)
			}
			if info, ok := p.Peer(id); ok != (did <= AdmitAdded) || ok && info.Addr != a {
				rt.Fatalf("Peer(%d) = %+v, %t", id, info, ok)
			}
			if again, _ := p.WouldAdmit(a); again != id {
				rt.Fatalf("%s is peer %d, would be %d", a, id, again)
			}
		}
	})
	for a := range admissions {
		if a != AdmitBusy && seen[a] == 0 && !testing.Short() {
			t.Errorf("%s never came", a)
		}
	}
}

func TestRoute(t *testing.T) {
	r := NewRoutes()
	wide := Route{Prefix: netip.MustParsePrefix("198.51.100.0/24"), To: Target{ID: 1, Addr: netip.MustParseAddr("192.0.2.2")}}
	narrow := Route{Prefix: netip.MustParsePrefix("198.51.100.128/25"), To: Target{ID: 2, Addr: netip.MustParseAddr("192.0.2.3")}}
	if err := r.Set([]Route{wide, narrow}); err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]Route{"198.51.100.1": wide, "198.51.100.200": narrow, "203.0.113.1": {}} {
		addr := netip.MustParseAddr(a)
		got, ok := r.Route(addr)
		if to, found := r.Lookup(addr); found != ok || to != got.To || got.To != want.To || ok && got.Prefix != want.Prefix {
			t.Errorf("Route(%s) = %+v, %t; want %+v", a, got, ok, want)
		}
	}
}
