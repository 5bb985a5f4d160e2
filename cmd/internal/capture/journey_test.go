package capture

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

const macA, macB encap.MAC = 0x02420a000001, 0x02420a000002

// udp is a frame from station a to b, or back.
func udp(back bool, port uint16) []byte {
	src, dst, from, to := macA, macB, byte(1), byte(2)
	if back {
		src, dst, from, to = dst, src, to, from
	}
	b := make([]byte, 50)
	dst.Put(b)
	src.Put(b[6:])
	b[12] = 8
	copy(b[14:], []byte{0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to})
	binary.BigEndian.PutUint16(b[34:], port)
	binary.BigEndian.PutUint16(b[36:], 53)
	b[39] = 16
	return b
}

func record(p dataplane.Point, way dataplane.Direction, frame []byte, peer string) dataplane.Record {
	r := dataplane.Record{Time: time.Unix(1, 0), Network: "blue", Kind: dataplane.KindVXLAN, Point: p, Direction: way, Frame: frame, Length: len(frame)}
	if peer != "" {
		r.Peer = netip.MustParseAddr(peer)
	}
	return r
}

func super(r dataplane.Record, segments int) dataplane.Record {
	r.Segments, r.SegmentSize = segments, 1000
	return r
}

func dropped(r dataplane.Record, d dataplane.Drop) dataplane.Record {
	r.Point, r.Drop = dataplane.PointDropped, d
	return r
}

func TestJourneys(t *testing.T) {
	const out, in = dataplane.Outbound, dataplane.Inbound
	a, c, back := udp(false, 1000), udp(false, 2000), udp(true, 3000)
	read := func(f []byte) dataplane.Record { return record(dataplane.PointTapIn, out, f, "") }
	sent := func(f []byte, to string) dataplane.Record {
		return record(dataplane.PointWireOut, out, f, "192.0.2."+to)
	}
	came := record(dataplane.PointWireIn, in, back, "192.0.2.2")
	wrote := record(dataplane.PointTapOut, in, back, "192.0.2.2")
	answer := record(dataplane.PointTapOut, in, back, "")
	answer.Answer = true
	for name, c := range map[string]struct {
		records []dataplane.Record
		want    string // of each, its stages
	}{
		"unicast":        {[]dataplane.Record{read(a), sent(a, "2")}, "wire-out to 192.0.2.2"},
		"two flows":      {[]dataplane.Record{read(a), read(c), sent(c, "3"), sent(a, "2")}, "wire-out to 192.0.2.2; wire-out to 192.0.2.3"},
		"one flow twice": {[]dataplane.Record{read(a), read(a), sent(a, "2"), dropped(sent(a, "2"), dataplane.DropWireFull)}, "wire-out to 192.0.2.2; dropped, to 192.0.2.2: wire_full: the socket's send buffer is full"},
		"flood":          {[]dataplane.Record{read(a), sent(a, "2"), sent(a, "3")}, "wire-out to 192.0.2.2, wire-out to 192.0.2.3"},
		"GSO packet": {[]dataplane.Record{super(read(a), 3), sent(a, "2"), sent(a, "2"), dropped(sent(a, "2"), dataplane.DropWireFull)},
			"wire-out to 192.0.2.2, 2 of 3 frames, dropped, to 192.0.2.2: wire_full: the socket's send buffer is full, 1 of 3 frames"},
		"whole GSO packet": {[]dataplane.Record{super(read(a), 3), super(sent(a, "2"), 3)}, "wire-out to 192.0.2.2, 3 of 3 frames"},
		"dropped":          {[]dataplane.Record{read(a), dropped(read(a), dataplane.DropTooBig)}, "dropped: too_big: larger than the network's MTU or the path's"},
		"joined":           {[]dataplane.Record{came, came, super(wrote, 2)}, "tap-out, in a GSO packet of 2; tap-out, in a GSO packet of 2"},
		"in":               {[]dataplane.Record{came, wrote}, "tap-out"},
		"unlisted sender":  {[]dataplane.Record{came, dropped(came, dataplane.DropPeerNotAdmitted)}, "dropped: peer_not_admitted: the sender is neither a listed peer nor in an admitted prefix"},
		"answered":         {[]dataplane.Record{read(a), answer}, "answered by overtap: IP 10.0.0.2.3000 > 10.0.0.1.53: UDP, length 8"},
		"not seen again":   {[]dataplane.Record{read(a)}, "not seen again"},
		"seen late":        {[]dataplane.Record{sent(a, "2")}, "wire-out to 192.0.2.2"},
	} {
		j := Journeys{Show: func() bool { return true }}
		now := time.Now()
		for i := range c.records {
			j.Add(&c.records[i], now)
		}
		var got []string
		for _, one := range j.Ended(now.Add(1)) {
			_, stages, _ := strings.Cut(one.String(), "\n    ")
			got = append(got, strings.ReplaceAll(stages, "\n    ", ", "))
		}
		if g := strings.Join(got, "; "); g != c.want {
			t.Errorf("%s: %s\nwant %s", name, g, c.want)
		}
	}
}

// What is not to be shown still takes what belongs to it.
func TestJourneysPassedOver(t *testing.T) {
	shown := false
	j := Journeys{Show: func() bool { shown = !shown; return shown }}
	a, now := udp(false, 1), time.Now()
	for range 4 {
		r := record(dataplane.PointTapIn, dataplane.Outbound, a, "")
		j.Add(&r, now)
	}
	for range 4 {
		r := record(dataplane.PointWireOut, dataplane.Outbound, a, "192.0.2.2")
		j.Add(&r, now)
	}
	if e := j.Ended(now); len(e) != 0 {
		t.Errorf("%d ended too early", len(e))
	}
	e := j.Ended(now.Add(1))
	if len(e) != 2 || len(e[0].Stages) != 1 || len(e[1].Stages) != 1 {
		t.Errorf("%v", e)
	}
	for range 2 * maxJourneys {
		r := record(dataplane.PointTapIn, dataplane.Outbound, a, "")
		j.Add(&r, now)
	}
	if j.Ended(now); len(j.under) != maxJourneys {
		t.Errorf("%d are under way", len(j.under))
	}
}
