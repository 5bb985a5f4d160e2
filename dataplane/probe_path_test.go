package dataplane

import (
	"testing"

	"overtap/encap"
)

// walk runs rounds against a path that takes packets of at most mtu bytes and
// loses every lose-th that it would take; it returns how many rounds the search took.
func walk(s *pathSearch, mtu encap.UnderlayMTU, lose, most int) int {
	for round := 1; round <= most; round++ {
		length := s.next()
		if length <= mtu && (lose == 0 || round%lose != 0) {
			s.arrived(length)
		} else {
			s.missed(length)
		}
		if s.settled() {
			return round
		}
	}
	return most + 1
}

// The search finds what the path takes, to searchStep bytes, and never says more.
func TestPathSearch(t *testing.T) {
	for mtu := encap.UnderlayMTU(96); mtu <= 1500; mtu++ {
		s := pathSearch{full: 1500, least: 96}
		rounds := walk(&s, mtu, 0, 40)
		if rounds > 24 || s.verified > mtu || mtu-s.verified >= searchStep && mtu-96 >= searchStep {
			t.Fatalf("a path of %d: %d after %d rounds: %+v", mtu, s.verified, rounds, s)
		}
	}
	// A lost probe now and then delays it only.
	s := pathSearch{full: 1500, least: 96}
	if rounds := walk(&s, 1400, 3, 60); rounds > 40 || s.verified > 1400 || s.verified < 1390 {
		t.Errorf("with loss %d after %d rounds", s.verified, rounds)
	}
}

// What the kernel knows is tried first and found exactly; when the path widens it
// is seen some rounds later, and when it narrows at once.
func TestPathSearchTold(t *testing.T) {
	s := pathSearch{full: 1500, least: 96}
	s.setLimit(1400)
	if got := s.next(); got != 1400 || s.verified != 0 {
		t.Errorf("tries %d, verified %d", got, s.verified)
	}
	s.arrived(1400)
	if s.verified != 1400 {
		t.Errorf("verified %d", s.verified)
	}
	rounds := 0
	for ; s.verified != 1500 && rounds < 40; rounds++ {
		s.arrived(s.next())
	}
	if rounds != researchRoutes {
		t.Errorf("a wider path after %d rounds: %+v", rounds, s)
	}
	s.missed(s.next())
	if s.verified != 1500 {
		t.Error("one loss is no narrow path")
	}
	s.missed(s.next())
	if s.verified != 0 || s.next() >= 1500 {
		t.Errorf("after %d losses: %+v", probeTries, s)
	}
	walk(&s, 1300, 0, 40)
	if s.verified > 1300 || s.verified < 1290 {
		t.Errorf("a narrower path: %d", s.verified)
	}
	// Nonsense of the kernel is passed over.
	before := s
	s.setLimit(95)
	s.setLimit(1500)
	s.setLimit(0)
	if s != before {
		t.Errorf("%+v became %+v", before, s)
	}
	s.resize(1600, 96)
	if s != (pathSearch{full: 1600, least: 96}) {
		t.Errorf("after a change of the MTU: %+v", s)
	}
}
