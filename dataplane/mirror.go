package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"overtap/encap"
)

// Point is a place on the path where frames can be seen.
type Point uint8

// The points, in the order of doc.go's paths. A frame that is not moved on is
// seen at the point where it came in, and at PointDropped.
const (
	PointTapIn   Point = iota // read from the TAP or TUN, as the kernel hands it over
	PointWireOut              // taken by a socket or the uplink, once for each peer
	PointWireIn               // received for a network, before anything is checked
	PointTapOut               // taken by the TAP or TUN
	PointDropped              // where the drop is counted
	pointCount
)

var pointNames = [pointCount]string{
	PointTapIn: "tap-in", PointWireOut: "wire-out", PointWireIn: "wire-in", PointTapOut: "tap-out", PointDropped: "dropped",
}

// String returns the point's name, as on the command line.
func (p Point) String() string {
	if p >= pointCount {
		return fmt.Sprintf("point(%d)", uint8(p))
	}
	return pointNames[p]
}

// MarshalText returns the point's name.
func (p Point) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a point's name.
func (p *Point) UnmarshalText(b []byte) error {
	i := slices.Index(pointNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("unknown point %q: want one of %s", b, strings.Join(pointNames[:], ", "))
	}
	*p = Point(i)
	return nil
}

// PointSet is a set of points; its zero value stands for all of them.
type PointSet uint8

// With returns the set with p.
func (s PointSet) With(p Point) PointSet { return s | 1<<p }

// Has reports whether p is in the set.
func (s PointSet) Has(p Point) bool { return s == 0 || s>>p&1 != 0 }

// MirrorSpec says what of the path a mirror shows. It is looked at on the path, so
// it holds what is cheap to decide; everything else is for who reads.
type MirrorSpec struct {
	Network string // of this network or tunnel alone; "" = all, and what belongs to none
	Points  PointSet
	// SnapLen is how many bytes of each frame are kept; 0 = all.
	SnapLen int
}

// Record is a frame as it was seen at a point.
type Record struct {
	Time      time.Time // when its batch was read
	Network   string    // "" = it belongs to none
	Kind      Kind
	VNI       encap.VNI // of VXLAN: the network's, or that of no network; 0 = none was found
	Point     Point
	Direction Direction
	Drop      Drop       // of PointDropped
	Peer      netip.Addr // to or from; invalid where there is none, several, or it is not known yet
	// Segments is how many frames a GSO packet stands for, of SegmentSize bytes
	// of payload each, the last possibly less. Else they are 0; a GSO packet whose
	// sender did not say its size has 1 and 0.
	Segments, SegmentSize int
	// Unfinished: the transport checksum is left to a device that comes later.
	Unfinished bool
	// Answer: the engine itself made it for a sender on the TAP's side, by
	// suppression or as an ICMP error.
	Answer bool
	// Outer are the headers before the frame on the wire, at PointWireOut,
	// PointWireIn, and PointDropped of what came in; nil elsewhere. The VXLAN
	// header is what was sent or received; outer IP and UDP headers are
	// reconstructed from what a socket knows: TTL, identification and fragment bits
	// of what came in, and the UDP checksum over IPv4, are not.
	Outer []byte
	// Frame is the inner Ethernet frame, or packet of a tunnel, as far as it was
	// kept; of what belongs to no network all that stands behind Outer.
	Frame  []byte
	Length int // of the whole frame
}

// maxMirrors bounds how many may be open at once: each costs its own copy.
const maxMirrors = 4

// mirrors are those that are open; the threads read it.
type mirrors []*Mirror

// Mirror shows frames on the path, as a switch's port mirroring does, without
// slowing the path: what its reader does not take in time is lost and counted. It
// belongs to one goroutine, and must be closed.
type Mirror struct {
	engine *Engine
	spec   MirrorSpec
	rings  []*ring // by thread

	read  []int  // of each ring, by the last Read
	lost  uint64 // as far as it was reported
	outer []byte // of the last Read
}

// Mirror opens one. What the path sees from now on, it shows.
func (e *Engine) Mirror(s MirrorSpec) (*Mirror, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, ErrClosed
	}
	if s.Network != "" {
		if err := e.snapshot.Load().has(s.Network); err != nil {
			return nil, err
		}
	}
	if s.SnapLen < 0 || s.Points>>pointCount != 0 {
		return nil, errors.New("a mirror of nothing: want a snap length of 0 or more, and points that there are")
	}
	var open mirrors
	if now := e.mirrors.Load(); now != nil {
		open = *now
	}
	if len(open) == maxMirrors {
		return nil, fmt.Errorf("%d captures and traces run already, which is the most: end one first", maxMirrors)
	}
	m := &Mirror{engine: e, spec: s, read: make([]int, 2*e.workers)}
	for range 2 * e.workers {
		m.rings = append(m.rings, newRing(ringBytes(2*e.workers)))
	}
	next := append(slices.Clone(open), m)
	e.mirrors.Store(&next)
	return m, nil
}

// has is an error when no network or tunnel is named so.
func (c *snapshot) has(name string) error {
	var known []string
	for _, m := range c.members {
		if m.base().name == name {
			return nil
		}
		known = append(known, m.base().name)
	}
	if len(known) == 0 {
		return fmt.Errorf("there is no network %q: there is none at all", name)
	}
	return fmt.Errorf("there is no network %q: name one of %s", name, strings.Join(known, ", "))
}

// Close ends the mirror. Threads may still write to its rings until the end of
// their batch; there is no reader any more.
func (m *Mirror) Close() {
	e := m.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	open := e.mirrors.Load()
	if open == nil {
		return
	}
	rest := slices.DeleteFunc(slices.Clone(*open), func(o *Mirror) bool { return o == m })
	if len(rest) == 0 {
		e.mirrors.Store(nil)
		return
	}
	e.mirrors.Store(&rest)
}

// mirrorReads are taken from a ring by one Read at most.
const mirrorReads = 1024

// Read appends to records what was seen since the last call, as far as it takes it
// at once, in the order of time, and returns how many frames were lost meanwhile.
// It does not wait. The bytes of the records are valid until the next call.
func (m *Mirror) Read(records []Record) (_ []Record, lost uint64) {
	m.outer = m.outer[:0]
	first, filled := len(records), 0
	for i, r := range m.rings {
		r.free(m.read[i])
		m.read[i] = r.waiting(mirrorReads)
		for k := range m.read[i] {
			s := r.slot(k)
			records = append(records, m.record(s, r.bytes(s)))
		}
		if m.read[i] > 0 {
			filled++
		}
		lost += r.lost.Load()
	}
	if filled > 1 {
		slices.SortStableFunc(records[first:], func(a, b Record) int { return a.Time.Compare(b.Time) })
	}
	lost, m.lost = lost-m.lost, lost
	return records, lost
}

// record is what a sighting shows.
func (m *Mirror) record(s *sighting, data []byte) Record {
	r := Record{
		Time: time.Unix(0, s.at), Kind: KindVXLAN, Point: s.point, Direction: s.way, Drop: s.drop,
		Peer: s.peer, Segments: int(s.segs), SegmentSize: int(s.segSize),
		Unfinished: s.has&hasUnfinished != 0, Answer: s.has&hasReply != 0,
		Frame: data, Length: int(s.length),
	}
	if s.has&hasIPIP != 0 {
		r.Kind = KindIPIP
	}
	if s.of != nil {
		r.Network, r.VNI = s.of.name, s.of.vni
	}
	if s.has&hasHeader != 0 {
		if h, err := encap.ParseVXLAN(data); err == nil {
			r.VNI = h.VNI
		}
		r.Frame, r.Length = data[encap.VXLANHeaderLen:], r.Length-encap.VXLANHeaderLen
	}
	if s.point == PointWireOut || s.point == PointWireIn || s.point == PointDropped && s.way == Inbound {
		r.Outer = m.outerHeaders(s, data, &r)
	}
	return r
}

// armed is where the threads find the open mirrors; nil while there is none.
type armed = atomic.Pointer[mirrors]
