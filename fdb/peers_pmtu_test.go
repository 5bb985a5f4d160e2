package fdb

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestPathMTU(t *testing.T) {
	clock := NewClock()
	p := NewPeers(netip.Addr{}, 10, clock)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if _, err := p.Set([]Peer{{Addr: a}, {Addr: b}}, Policy{}); err != nil {
		t.Fatal(err)
	}
	idA, _ := p.ID(a)
	idB, _ := p.ID(b)
	want := func(narrow bool, all ...PathMTU) {
		t.Helper()
		if got := p.PathMTUs(); !slices.Equal(got, all) {
			t.Errorf("path MTUs %+v, want %+v", got, all)
		}
		if p.Narrow() != narrow {
			t.Errorf("Narrow is %t", !narrow)
		}
	}
	want(false)
	p.SetPathMTU(idA, 0)
	if p.Narrow() {
		t.Error("no limit makes it narrow")
	}
	p.SetPathMTU(idA, 1400)
	clock.Set(8)
	p.SetPathMTU(idB, 1300)
	p.SetPathMTU(77, 1200)
	want(true, PathMTU{idA, a, 1400, 7}, PathMTU{idB, b, 1300, 0})
	if p.PathMTU(idA) != 1400 || p.PathMTU(idB) != 1300 || p.PathMTU(77) != 0 || p.PathMTU(NoPeer) != 0 {
		t.Errorf("path MTUs %d, %d", p.PathMTU(idA), p.PathMTU(idB))
	}
	for i := range p.All() {
		if (i.Addr == a && i.PathMTU != 1400) || (i.Addr == b && i.PathMTU != 1300) {
			t.Errorf("peer %+v", i)
		}
	}
	// A peer that goes takes its own along; its ID begins again.
	if _, err := p.Set([]Peer{{Addr: b}}, Policy{}); err != nil {
		t.Fatal(err)
	}
	want(true, PathMTU{idB, b, 1300, 0})
	p.Release([]PeerID{idA})
	if _, err := p.Set([]Peer{{Addr: a}, {Addr: b}}, Policy{}); err != nil {
		t.Fatal(err)
	}
	if id, _ := p.ID(a); id != idA || p.PathMTU(id) != 0 {
		t.Errorf("a new peer %d has path MTU %d", id, p.PathMTU(id))
	}
	p.SetPathMTU(idB, 0)
	want(false)
}

// TestPathMTURace sets and clears path MTUs while they are listed: one that is
// set is never forgotten.
func TestPathMTURace(t *testing.T) {
	p := NewPeers(netip.Addr{}, 10, NewClock())
	a := netip.MustParseAddr("192.0.2.1")
	if _, err := p.Set([]Peer{{Addr: a}}, Policy{}); err != nil {
		t.Fatal(err)
	}
	id, _ := p.ID(a)
	stop := make(chan struct{})
	var lister sync.WaitGroup
	lister.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				p.PathMTUs()
			}
		}
	})
	for deadline := time.Now().Add(100 * time.Millisecond); time.Now().Before(deadline); {
		p.SetPathMTU(id, 1400)
		for range 300 { // as long as a list takes
			if !p.Narrow() {
				t.Fatal("a path MTU is set and not seen")
			}
		}
		p.SetPathMTU(id, 0)
	}
	close(stop)
	lister.Wait()
}
