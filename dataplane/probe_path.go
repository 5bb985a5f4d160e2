package dataplane

import "overtap/encap"

const (
	// searchStep is how close in bytes the search for a path MTU comes.
	searchStep = 8
	// probeTries padded probes that are lost in a row, while others are answered,
	// were too long.
	probeTries = 2
	// searchAgain is after how many rounds it is looked whether the path takes
	// more by now.
	researchRoutes = 16
)

// pathSearch finds the longest packet that reaches a peer, by probes padded to a
// length that it is asked for, one a round. Lengths are in bytes of the outer
// packet.
type pathSearch struct {
	full, least encap.UnderlayMTU // of a frame of full size; of a probe without padding

	good     encap.UnderlayMTU // the longest that arrived; 0 = none
	bad      encap.UnderlayMTU // the shortest that does not; 0 = none
	hint     encap.UnderlayMTU // what the kernel says that the path takes, to be tried; 0 = nothing
	lost     int               // in a row, of one length
	rounds   int               // since the search ended
	verified encap.UnderlayMTU // what the last search that ended found; 0 = none did
}

// resize begins again when a frame of full size has another length by now.
func (s *pathSearch) resize(full, least encap.UnderlayMTU) {
	if s.full != full || s.least != least {
		*s = pathSearch{full: full, least: least}
	}
}

// settled reports whether the search has come to its end.
func (s *pathSearch) settled() bool {
	if s.bad == 0 {
		return s.good == s.full
	}
	return s.good != 0 && s.bad-s.good <= searchStep
}

// next is the length to try in this round.
func (s *pathSearch) next() encap.UnderlayMTU {
	if s.settled() && s.bad != 0 {
		if s.rounds++; s.rounds == researchRoutes {
			s.rounds, s.bad = 0, 0
		}
	}
	return s.length()
}

func (s *pathSearch) length() encap.UnderlayMTU {
	switch {
	case s.hint != 0:
		return s.hint
	case s.bad == 0:
		return s.full
	case s.settled():
		return s.good
	}
	return max((max(s.good, s.least)+s.bad)/2, s.least)
}

// arrived notes that a probe of that length was answered.
func (s *pathSearch) arrived(length encap.UnderlayMTU) {
	s.lost, s.hint = 0, 0
	s.good = max(s.good, length)
	if s.bad != 0 && s.good >= s.bad {
		s.bad = 0 // the path takes more than it did
	}
	s.settle()
}

// missed notes that a probe of that length was not answered although one without
// padding was.
func (s *pathSearch) missed(length encap.UnderlayMTU) {
	if s.lost++; s.lost < probeTries {
		return
	}
	s.tooLong(length)
}

// setLimit notes that the kernel knows the path to take no longer packets.
func (s *pathSearch) setLimit(limit encap.UnderlayMTU) {
	if limit < s.least || limit >= s.full {
		return
	}
	s.tooLong(limit + 1)
	s.hint = limit
}

func (s *pathSearch) tooLong(length encap.UnderlayMTU) {
	s.lost, s.hint = 0, 0
	if length <= s.good {
		s.good, s.verified = 0, 0
	}
	if s.bad == 0 || length < s.bad {
		s.bad = length
	}
	s.settle()
}

func (s *pathSearch) settle() {
	if s.settled() {
		s.verified = s.good
	}
}
