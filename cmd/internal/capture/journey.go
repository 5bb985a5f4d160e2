package capture

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"overtap/cmd/internal/filter"
	"overtap/dataplane"
)

// maxJourneys may be under way at once; the oldest end for more.
const maxJourneys = 4096

// Stage is a point that a frame came to, by itself or with others of its flow.
type Stage struct {
	Point   dataplane.Point `json:"point"`
	Peer    string          `json:"peer,omitempty"`
	Dropped string          `json:"dropped,omitempty"` // the reason
	Frames  int             `json:"frames"`            // of it: its segments
	// Joined is how many frames the GSO packet stands for in which it came there;
	// 0 = it came by itself.
	Joined int    `json:"joined,omitempty"`
	Answer string `json:"answer,omitempty"` // what overtap said, in place of the frame
	why    string
}

// Journey is a frame with all the points where it was seen.
type Journey struct {
	Time      time.Time           `json:"time"`
	Network   string              `json:"network"`
	Point     dataplane.Point     `json:"point"` // the first
	Direction dataplane.Direction `json:"direction"`
	Peer      string              `json:"peer,omitempty"` // it came from
	Segments  int                 `json:"segments,omitempty"`
	Length    int                 `json:"length"`
	Summary   string              `json:"summary"`
	Stages    []*Stage            `json:"then"`

	flow  filter.Flow
	units int                // frames that it stands for
	left  map[netip.Addr]int // of them, that were not seen again, by peer
	begun time.Time          // when it was read
	shown bool
}

// Journeys puts the records of frames together: what the path does with the frames
// of a flow it does in their order, so the first that was not seen again is the
// one that is.
type Journeys struct {
	// Show reports whether a journey that begins must be shown.
	Show  func() bool
	under []*Journey // under way, in the order in which they began
}

// Add takes in a record that was read at the time now.
func (j *Journeys) Add(r *dataplane.Record, now time.Time) {
	switch r.Point {
	case dataplane.PointTapIn, dataplane.PointWireIn:
		j.begin(r, now)
		return
	}
	if r.Answer {
		j.answer(r, now)
		return
	}
	flow, units := filter.FlowOf(r), max(r.Segments, 1)
	all := units
	key := r.Peer
	if r.Direction == dataplane.Inbound {
		key = netip.Addr{}
	}
	for _, one := range j.under {
		if one.flow != flow || one.Direction != r.Direction || one.Network != r.Network {
			continue
		}
		left, seen := one.left[key]
		if !seen {
			left = one.units
		}
		if left == 0 {
			continue
		}
		n := min(left, units)
		one.left[key] = left - n
		one.arrive(r, n, all)
		if units -= n; units == 0 {
			return
		}
	}
	if units == all {
		// It is seen here first: the filter, or a loss, kept the rest.
		one := j.begin(r, now)
		one.left[key] = 0
		one.arrive(r, all, all)
	}
}

func (j *Journeys) begin(r *dataplane.Record, now time.Time) *Journey {
	one := &Journey{
		Time: r.Time, Network: r.Network, Point: r.Point, Direction: r.Direction, Segments: r.Segments, Length: r.Length,
		Stages: []*Stage{}, flow: filter.FlowOf(r), units: max(r.Segments, 1), left: make(map[netip.Addr]int), begun: now,
	}
	if one.shown = j.Show(); one.shown {
		one.Summary = Summary(r)
	}
	if r.Direction == dataplane.Inbound && r.Peer.IsValid() {
		one.Peer = r.Peer.String()
	}
	j.under = append(j.under, one)
	return one
}

// answer gives what the engine said to the frame that asked for it.
func (j *Journeys) answer(r *dataplane.Record, now time.Time) {
	asker := filter.FlowOf(r)
	for _, one := range j.under {
		tunnel := r.Kind == dataplane.KindIPIP && one.flow.SrcAddr == asker.DstAddr
		if one.Network == r.Network && (tunnel || one.flow.Src == asker.Dst && one.flow.Src != 0) && !one.answered() {
			one.Stages = append(one.Stages, &Stage{Point: r.Point, Frames: 1, Answer: Summary(r)})
			return
		}
	}
	one := j.begin(r, now)
	one.Stages = append(one.Stages, &Stage{Point: r.Point, Frames: 1, Answer: one.Summary})
}

func (o *Journey) answered() bool {
	for _, s := range o.Stages {
		if s.Answer != "" {
			return true
		}
	}
	return false
}

// arrive notes that n of its frames came to a point, in a record of all.
func (o *Journey) arrive(r *dataplane.Record, n, all int) {
	s := Stage{Point: r.Point}
	if r.Peer.IsValid() {
		s.Peer = r.Peer.String()
	}
	if r.Point == dataplane.PointDropped {
		s.Dropped, s.why = r.Drop.String(), r.Drop.Text()
	}
	if r.Segments > 0 && all > o.units {
		s.Joined = all
	}
	for _, was := range o.Stages {
		if was.Point == s.Point && was.Peer == s.Peer && was.Dropped == s.Dropped && was.Answer == "" && was.Joined == s.Joined {
			was.Frames += n
			return
		}
	}
	s.Frames = n
	o.Stages = append(o.Stages, &s)
}

// Ended returns the journeys to show that began before, oldest first, and forgets
// them.
func (j *Journeys) Ended(before time.Time) (ended []*Journey) {
	n := 0
	for n < len(j.under) && (j.under[n].begun.Before(before) || len(j.under)-n > maxJourneys) {
		if j.under[n].shown {
			ended = append(ended, j.under[n])
		}
		n++
	}
	j.under = append(j.under[:0], j.under[n:]...)
	return ended
}

// String returns the journey in lines.
func (o *Journey) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", o.Time.Format(timeForm), name(o.Network, o.Point, o.Direction))
	if o.Peer != "" {
		fmt.Fprintf(&b, " < %s", o.Peer)
	}
	b.WriteString(" " + o.Summary)
	if o.Segments > 0 {
		fmt.Fprintf(&b, " [GSO packet of %d]", o.Segments)
	}
	if len(o.Stages) == 0 {
		b.WriteString("\n    not seen again")
	}
	for _, s := range o.Stages {
		b.WriteString("\n    " + s.line(o))
	}
	return b.String()
}

func (s *Stage) line(o *Journey) string {
	var text string
	switch {
	case s.Answer != "":
		return "answered by overtap: " + s.Answer
	case s.Dropped != "":
		text = fmt.Sprintf("dropped: %s: %s", s.Dropped, s.why)
		if o.Direction == dataplane.Outbound && s.Peer != "" {
			text = fmt.Sprintf("dropped, to %s: %s: %s", s.Peer, s.Dropped, s.why)
		}
	case s.Point == dataplane.PointWireOut:
		text = "wire-out to " + s.Peer
	default:
		text = s.Point.String()
	}
	switch {
	case s.Joined > 0:
		text += fmt.Sprintf(", in a GSO packet of %d", s.Joined)
	case o.units > 1:
		text += fmt.Sprintf(", %d of %d frames", s.Frames, o.units)
	}
	return text
}
