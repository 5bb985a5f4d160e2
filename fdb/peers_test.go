package fdb

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(ss ...string) (all []netip.Prefix) {
	for _, s := range ss {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func mustSet(t rapid.TB, p *Peers, want []Peer, policy Policy) (removed []PeerID) {
	t.Helper()
	removed, err := p.Set(want, policy)
	if err != nil {
		t.Fatal(err)
	}
	return removed
}

func wantAdmit(t testing.TB, p *Peers, a string, want Admission) PeerID {
	t.Helper()
	id, got := p.Admit(addr(a))
	if got != want {
		t.Fatalf("Admit(%s): %s, want %s", a, got, want)
	}
	if known := got == AdmitKnown || got == AdmitAdded; known != (id != NoPeer) {
		t.Fatalf("Admit(%s): %s as %d", a, got, id)
	}
	return id
}

func floodAddrs(p *Peers) (all []string) {
	for _, f := range p.Flood() {
		all = append(all, f.Addr.String())
	}
	return all
}

func TestAdmit(t *testing.T) {
	listed := []Peer{{Addr: addr("192.0.2.2")}, {Addr: addr("2001:db8::2")}, {Addr: addr("::ffff:192.0.2.3")}}
	for _, c := range []struct {
		name   string
		policy Policy
		want   map[string]Admission
	}{
		{"peers", Policy{}, map[string]Admission{
			"192.0.2.2": AdmitKnown, "::ffff:192.0.2.2": AdmitKnown, "192.0.2.3": AdmitKnown,
			"2001:db8::2": AdmitKnown, "192.0.2.4": AdmitDenied, "2001:db8::4": AdmitDenied,
		}},
		{"any", Policy{Any: true}, map[string]Admission{
			"192.0.2.2": AdmitKnown, "192.0.2.4": AdmitAdded, "2001:db8::4": AdmitAdded,
			"0.0.0.0": AdmitDenied, "::": AdmitDenied, "239.1.1.1": AdmitDenied, "ff02::1": AdmitDenied,
			"::ffff:239.1.1.1": AdmitDenied,
			"192.0.2.1":        AdmitDenied, "::ffff:192.0.2.1": AdmitDenied, // our own
		}},
		{"prefixes", Policy{Prefixes: prefixes("198.51.100.77/24", "2001:db8:1::/48", "::ffff:203.0.113.0/124")},
			map[string]Admission{
				"192.0.2.2": AdmitKnown, "192.0.2.4": AdmitDenied,
				"198.51.100.1": AdmitAdded, "::ffff:198.51.100.2": AdmitAdded,
				"198.51.101.1": AdmitDenied, "2001:db8:1::9": AdmitAdded, "2001:db8:2::9": AdmitDenied,
				"203.0.113.15": AdmitAdded, "203.0.113.16": AdmitDenied,
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewPeers(addr("192.0.2.1"), 100, NewClock())
			mustSet(t, p, listed, c.policy)
			for a, want := range c.want {
				id := wantAdmit(t, p, a, want)
				if id == NoPeer {
					if _, ok := p.ID(addr(a)); ok {
						t.Errorf("%s: %s, but has an ID", a, want)
					}
					continue
				}
				if again := wantAdmit(t, p, a, AdmitKnown); again != id {
					t.Errorf("%s: ID %d, then %d", a, id, again)
				}
				if got, ok := p.ID(addr(a)); got != id || !ok {
					t.Errorf("ID(%s) = %d, %t; want %d", a, got, ok, id)
				}
				if got := p.Addr(id); got != addr(a).Unmap() {
					t.Errorf("Addr(%d) = %s, want %s", id, got, a)
				}
			}
			if id, got := p.Admit(netip.Addr{}); got != AdmitDenied {
				t.Errorf("the invalid address: %s as %d", got, id)
			}
		})
	}
}

func TestPeersEmpty(t *testing.T) {
	p := NewPeers(netip.Addr{}, 100, NewClock())
	wantAdmit(t, p, "192.0.2.2", AdmitDenied)
	for _, id := range []PeerID{NoPeer, 1, maxPeerID, maxPeerID + 1} {
		if a := p.Addr(id); a.IsValid() {
			t.Errorf("Addr(%d) = %s", id, a)
		}
	}
	if p.Len() != 0 || len(p.Flood()) != 0 {
		t.Error("not empty")
	}
}

func TestFloodList(t *testing.T) {
	p := NewPeers(addr("192.0.2.1"), 100, NewClock())
	mustSet(t, p, []Peer{
		{Addr: addr("192.0.2.4"), Flood: true}, {Addr: addr("192.0.2.1"), Flood: true}, {Addr: addr("192.0.2.3"), Flood: false},
		{Addr: addr("192.0.2.2"), Flood: false}, {Addr: addr("::ffff:192.0.2.2"), Flood: true},
	}, Policy{Any: true})
	wantAdmit(t, p, "192.0.2.9", AdmitAdded)
	old := p.Flood()
	want := []string{"192.0.2.4", "192.0.2.2"} // not ourselves, not the learned
	if d := cmp.Diff(want, floodAddrs(p)); d != "" {
		t.Errorf("Flood (-want +got):\n%s", d)
	}
	for _, f := range old {
		if id, ok := p.ID(f.Addr); !ok || id != f.ID {
			t.Errorf("%s floods as %d, is %d", f.Addr, f.ID, id)
		}
	}
	if p.Len() != 4 || p.LenLearned() != 1 {
		t.Errorf("%d peers, %d learned", p.Len(), p.LenLearned())
	}
	kept := slices.Clone(old)
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.3"), Flood: true}}, Policy{})
	if d := cmp.Diff([]string{"192.0.2.3"}, floodAddrs(p)); d != "" {
		t.Errorf("Flood (-want +got):\n%s", d)
	}
	if d := cmp.Diff(kept, old, compareAddrs); d != "" {
		t.Errorf("Set changed a published flood list (-before +after):\n%s", d)
	}
}

func TestSetDiff(t *testing.T) {
	c := NewClock()
	c.Set(50)
	p := NewPeers(addr("192.0.2.1"), 2, c)
	all := Policy{Prefixes: prefixes("192.0.2.0/24")}
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2"), Flood: true}, {Addr: addr("192.0.2.3"), Flood: true}, {Addr: addr("203.0.113.3"), Flood: true}}, all)
	two, _ := p.ID(addr("192.0.2.2"))
	three, _ := p.ID(addr("192.0.2.3"))
	other, _ := p.ID(addr("203.0.113.3"))
	nine := wantAdmit(t, p, "192.0.2.9", AdmitAdded)

	c.Set(60)
	removed := mustSet(t, p, []Peer{{Addr: addr("192.0.2.9"), Flood: true}, {Addr: addr("192.0.2.3"), Flood: false}}, all)
	if d := cmp.Diff([]PeerID{other}, removed); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
	c.Set(63)
	want := []PeerInfo{
		{ID: two, Addr: addr("192.0.2.2"), Learned: true, Idle: 3, Known: 3},
		{ID: three, Addr: addr("192.0.2.3"), Known: 13},
		{ID: nine, Addr: addr("192.0.2.9"), Flood: true, LastHeard: 50, Known: 3},
	}
	got := slices.Collect(p.All())
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Errorf("All (-want +got):\n%s", d)
	}
	if a := p.Addr(other); a != addr("203.0.113.3") {
		t.Errorf("a removed peer's address: %s", a)
	}
	wantAdmit(t, p, "203.0.113.3", AdmitDenied)

	// A narrower policy: the learned go.
	removed = mustSet(t, p, []Peer{{Addr: addr("192.0.2.9"), Flood: true}}, Policy{})
	slices.Sort(removed)
	if d := cmp.Diff([]PeerID{two, three}, removed); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
	if p.Len() != 1 || p.LenLearned() != 0 {
		t.Errorf("%d peers, %d learned", p.Len(), p.LenLearned())
	}
}

// TestSetAtTheBound: those learned already stay, those unlisted go.
func TestSetAtTheBound(t *testing.T) {
	p := NewPeers(netip.Addr{}, 1, NewClock())
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}}, Policy{Any: true})
	listed, _ := p.ID(addr("192.0.2.2"))
	learned := wantAdmit(t, p, "192.0.2.3", AdmitAdded)
	wantAdmit(t, p, "192.0.2.4", AdmitFull)
	if d := cmp.Diff([]PeerID{listed}, mustSet(t, p, nil, Policy{Any: true})); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
	if id := wantAdmit(t, p, "192.0.2.3", AdmitKnown); id != learned {
		t.Errorf("ID %d, was %d", id, learned)
	}
	wantAdmit(t, p, "192.0.2.4", AdmitFull)
}

func TestSetErrorChangesNothing(t *testing.T) {
	p := NewPeers(netip.Addr{}, 10, NewClock())
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2"), Flood: true}}, Policy{})
	before := slices.Collect(p.All())
	for _, c := range []struct {
		want   []Peer
		policy Policy
	}{
		{[]Peer{{Addr: addr("192.0.2.3")}, {}}, Policy{}},
		{[]Peer{{Addr: addr("192.0.2.3")}, {Addr: addr("239.1.1.1")}}, Policy{}},
		{[]Peer{{Addr: addr("192.0.2.3")}, {Addr: addr("::")}}, Policy{}},
		{nil, Policy{Any: true, Prefixes: []netip.Prefix{{}}}},
		{nil, Policy{Any: true, Prefixes: prefixes("::ffff:0.0.0.0/90")}},
	} {
		if removed, err := p.Set(c.want, c.policy); !errors.Is(err, ErrInvalid) || removed != nil {
			t.Errorf("Set(%v, %v): removed %v, %v", c.want, c.policy, removed, err)
		}
	}
	p.nextID = maxPeerID // one ID left
	if _, err := p.Set([]Peer{{Addr: addr("192.0.2.3")}, {Addr: addr("192.0.2.4")}}, Policy{}); !errors.Is(err, ErrFull) {
		t.Errorf("Set without IDs: %v", err)
	}
	if d := cmp.Diff(before, slices.Collect(p.All()), compareAddrs); d != "" {
		t.Errorf("a Set that failed changed (-before +after):\n%s", d)
	}
	wantAdmit(t, p, "192.0.2.3", AdmitDenied)
	if d := cmp.Diff([]string{"192.0.2.2"}, floodAddrs(p)); d != "" {
		t.Errorf("Flood (-want +got):\n%s", d)
	}
}

func TestAdmitWithoutIDs(t *testing.T) {
	p := NewPeers(netip.Addr{}, 10, NewClock())
	mustSet(t, p, nil, Policy{Any: true})
	gone := wantAdmit(t, p, "192.0.2.2", AdmitAdded)
	p.nextID = maxPeerID + 1
	wantAdmit(t, p, "192.0.2.3", AdmitFull)
	mustSet(t, p, nil, Policy{})
	p.Release([]PeerID{gone})
	mustSet(t, p, nil, Policy{Any: true})
	if id := wantAdmit(t, p, "192.0.2.4", AdmitAdded); id != gone {
		t.Errorf("ID %d, want the released %d", id, gone)
	}
	wantAdmit(t, p, "192.0.2.3", AdmitFull)
}

func TestExpire(t *testing.T) {
	c := NewClock()
	p := NewPeers(netip.Addr{}, 10, c)
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2"), Flood: true}}, Policy{Any: true})
	quiet := wantAdmit(t, p, "192.0.2.3", AdmitAdded)
	wantAdmit(t, p, "192.0.2.4", AdmitAdded)
	c.Set(200)
	wantAdmit(t, p, "192.0.2.4", AdmitKnown)
	c.Set(300)
	if removed := p.Expire(300); removed != nil {
		t.Errorf("expired %v a second early", removed)
	}
	c.Set(301)
	if removed := p.Expire(0); removed != nil {
		t.Errorf("expired %v, though never must", removed)
	}
	if d := cmp.Diff([]PeerID{quiet}, p.Expire(300)); d != "" {
		t.Errorf("expired (-want +got):\n%s", d)
	}
	if p.Len() != 2 || p.LenLearned() != 1 {
		t.Errorf("%d peers, %d learned", p.Len(), p.LenLearned())
	}
	if again := wantAdmit(t, p, "192.0.2.3", AdmitAdded); again == quiet {
		t.Error("an ID was used again before its release")
	}
	c.Set(10000)
	p.Expire(300)
	wantAdmit(t, p, "192.0.2.2", AdmitKnown) // the listed never expire
}

func TestRelease(t *testing.T) {
	p := NewPeers(netip.Addr{}, 10, NewClock())
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}, {Addr: addr("192.0.2.3")}, {Addr: addr("192.0.2.4")}}, Policy{})
	stays, _ := p.ID(addr("192.0.2.2"))
	three, _ := p.ID(addr("192.0.2.3"))
	four, _ := p.ID(addr("192.0.2.4"))
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}}, Policy{Any: true})
	if n := p.LenLearned(); n != 2 {
		t.Fatalf("%d learned", n)
	}
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}}, Policy{})
	p.Release([]PeerID{four, stays, NoPeer, maxPeerID, four, three})
	if p.Addr(stays) != addr("192.0.2.2") || p.Addr(three).IsValid() || p.Addr(four).IsValid() {
		t.Error("Release took the wrong ones")
	}
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}}, Policy{Any: true})
	var got []PeerID
	for _, a := range []string{"192.0.2.5", "192.0.2.6", "192.0.2.7"} {
		got = append(got, wantAdmit(t, p, a, AdmitAdded))
	}
	if d := cmp.Diff([]PeerID{four, three, 4}, got); d != "" {
		t.Errorf("IDs of new peers (-want +got):\n%s", d)
	}
}

func TestAdmitBusy(t *testing.T) {
	p := NewPeers(netip.Addr{}, 10, NewClock())
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}}, Policy{Prefixes: prefixes("192.0.2.0/24")})
	p.writer.take()
	wantAdmit(t, p, "192.0.2.2", AdmitKnown)
	wantAdmit(t, p, "192.0.2.3", AdmitBusy)
	wantAdmit(t, p, "203.0.113.1", AdmitDenied)
	p.writer.release()
	wantAdmit(t, p, "192.0.2.3", AdmitAdded)
}

// TestLateAdmission: what changed before Admit got the lock counts.
func TestLateAdmission(t *testing.T) {
	p := NewPeers(netip.Addr{}, 10, NewClock())
	mustSet(t, p, nil, Policy{Any: true})
	first, _ := p.admit(addr("192.0.2.2"))
	if id, v := p.admit(addr("192.0.2.2")); id != first || v != AdmitKnown {
		t.Errorf("admitted twice: %s as %d, then %d", v, first, id)
	}
	mustSet(t, p, nil, Policy{})
	if id, v := p.admit(addr("192.0.2.3")); id != NoPeer || v != AdmitDenied {
		t.Errorf("admitted by a policy that is no more: %s as %d", v, id)
	}
}

func TestManyPeers(t *testing.T) {
	p := NewPeers(netip.Addr{}, 20000, NewClock())
	mustSet(t, p, nil, Policy{Any: true})
	ids := map[PeerID]netip.Addr{}
	for _, first := range []string{"198.18.0.0", "2001:db8::"} {
		a := addr(first)
		for range 10000 {
			a = a.Next()
			id := wantAdmit(t, p, a.String(), AdmitAdded)
			if was, twice := ids[id]; twice {
				t.Fatalf("%s and %s both are %d", was, a, id)
			}
			ids[id] = a
		}
	}
	for id, a := range ids {
		if got, ok := p.ID(a); !ok || got != id || p.Addr(id) != a {
			t.Fatalf("%s: ID %d, %t, want %d; whose address is %s", a, got, ok, id, p.Addr(id))
		}
	}
	wantAdmit(t, p, "192.0.2.1", AdmitFull)
	if x := p.index.Load(); 2*x.used > len(x.slots) {
		t.Errorf("%d peers in %d slots", x.used, len(x.slots))
	}
}

func TestPeersAllocate(t *testing.T) {
	c := NewClock()
	p := NewPeers(netip.Addr{}, 1, c)
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2"), Flood: true}, {Addr: addr("2001:db8::2"), Flood: true}}, Policy{Prefixes: prefixes("192.0.2.0/24")})
	learned := wantAdmit(t, p, "192.0.2.3", AdmitAdded)
	now := uint32(1)
	for name, a := range map[string]netip.Addr{
		"listed": addr("192.0.2.2"), "listed, v6": addr("2001:db8::2"), "mapped": addr("::ffff:192.0.2.2"),
		"learned": addr("192.0.2.3"), "denied": addr("203.0.113.1"), "full": addr("192.0.2.4"),
	} {
		if n := testing.AllocsPerRun(100, func() { now++; c.Set(now); p.Admit(a) }); n != 0 {
			t.Errorf("Admit, %s: %v allocations", name, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { p.Flood(); p.Addr(learned) }); n != 0 {
		t.Errorf("Flood, Addr: %v allocations", n)
	}
}

// When a peer was heard last is known of listed ones too, and of what another
// engine heard.
func TestHeard(t *testing.T) {
	c := NewClock()
	c.Set(100)
	p := NewPeers(addr("192.0.2.1"), 2, c)
	mustSet(t, p, []Peer{{Addr: addr("192.0.2.2")}, {Addr: addr("192.0.2.3")}}, Policy{Prefixes: prefixes("203.0.113.0/24")})
	two, _ := p.ID(addr("192.0.2.2"))
	check := func(what string, heard, known uint32) {
		t.Helper()
		info, ok := p.Peer(two)
		if !ok || info.LastHeard != heard || info.Known != known {
			t.Errorf("%s: %+v, want heard in second %d, known for %d s", what, info, heard, known)
		}
	}
	c.Set(110)
	check("never heard", 0, 10)
	p.Restore(addr("192.0.2.2"), 110) // which is second 0 of this clock
	check("heard by another engine, at what means never", 1<<32-1, 10)
	p.Restore(addr("192.0.2.2"), 4000)
	check("older", 1<<32-1, 10)
	p.Restore(addr("192.0.2.2"), 7)
	check("newer", 103, 10)
	wantAdmit(t, p, "192.0.2.2", AdmitKnown)
	c.Set(113)
	check("heard", 110, 13)
	if _, admission := p.Restore(addr("203.0.113.9"), 5); admission != AdmitAdded {
		t.Errorf("a learned peer of another engine: %v", admission)
	}
	if _, admission := p.Restore(addr("198.51.100.9"), 5); admission != AdmitDenied {
		t.Errorf("an unlisted sender: %v", admission)
	}
	if n := testing.AllocsPerRun(100, func() {
		c.Set(c.Now() + 1)
		p.Admit(addr("192.0.2.2"))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
