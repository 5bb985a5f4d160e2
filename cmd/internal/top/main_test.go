package top

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// begun is when the tests' first sample is taken: at the start of a span.
var begun = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// second is the n-th sample of a daemon under even load, a second apart.
func second(n int) *sample {
	k := uint64(n)
	return &sample{
		at: begun.Add(time.Duration(n) * time.Second),
		status: control.Status{
			Version: "v1.2.3", PID: 4242, Ready: true, Uptime: 3720 + k,
		},
		stats: dataplane.Stats{
			Networks: []dataplane.NetworkStats{
				{Network: "blue", Kind: dataplane.KindVXLAN, Entries: 120, EntriesMax: 65536,
					Traffic: dataplane.Traffic{TxPackets: 100_000 * k, TxBytes: 150_000_000 * k, RxPackets: 50_000 * k, RxBytes: 4_000_000 * k * k}},
				{Network: "green", Kind: dataplane.KindIPIP, Entries: 3},
				{Network: "red", Kind: dataplane.KindVXLAN, Entries: 900, EntriesMax: 1000,
					Traffic: dataplane.Traffic{TxPackets: 10 * k, TxBytes: 1000 * k}},
			},
			Peers: []dataplane.PeerStats{
				{Network: "blue", Peer: netip.MustParseAddr("192.0.2.2"), PathMTU: 1400, Traffic: dataplane.Traffic{TxPackets: 100_000 * k, TxBytes: 150_000_000 * k}},
				{Network: "blue", Peer: netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678"), Traffic: dataplane.Traffic{RxPackets: k, RxBytes: 64 * k}},
				{Network: "red", Peer: netip.MustParseAddr("192.0.2.3")},
			},
			Drops: []dataplane.DropStats{
				{Direction: dataplane.Inbound, Reason: dataplane.DropVXLANVNINotFound, Count: 7,
					LastPeer: netip.MustParseAddr("203.0.113.9"), Last: begun.Add(-time.Hour)},
				{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropTooBig, Count: 12 * k},
			},
			Wire: []dataplane.ConnStats{{Port: 4789, SocketDropped: 2 * k}, {Port: 8472}},
		},
	}
}

// table120 are the entries of a daemon's forwarding table.
func table120(network string, f func(*dataplane.FDBEntry)) error {
	for i := range 120 {
		e := dataplane.FDBEntry{Network: "blue", MAC: encap.MAC(0x02420a000000 + i), Peer: netip.MustParseAddr("192.0.2.2"), Origin: "learned", Age: uint32(i)}
		if i%10 == 0 {
			e.Origin, e.Age = "static", 0
		}
		e.Frozen = i == 7
		f(&e)
	}
	return nil
}

// after returns the screen after n samples.
func after(t testing.TB, n int, width, height int) *state {
	t.Helper()
	s := newState(time.Second, Networks, true, true)
	s.width, s.height = width, height
	for i := range n {
		s.observe(second(i))
	}
	s.turn(t)
	return s
}

// turn does for the FDB what the program does: it asks for the page.
func (s *state) turn(t testing.TB) {
	t.Helper()
	p, err := s.query("").Page(table120)
	if err != nil {
		t.Fatal(err)
	}
	s.page = p
	s.arrange()
}

// type_ presses keys, and asks for the pages they lead to.
func (s *state) type_(t testing.TB, keys ...string) then {
	t.Helper()
	last := draw
	for _, k := range keys {
		typed := ""
		if len(k) == 1 {
			typed = k
		}
		if last = s.press(k, typed); last == askPage {
			s.turn(t)
		}
	}
	return last
}

// first returns the first cells of the rows shown.
func (s *state) first(column int) (out []string) {
	for _, r := range s.visible() {
		out = append(out, r.cells[column].write(10, s.glyphs))
	}
	return out
}

// screen returns the lines without what makes them stand out, nor the spaces at
// their ends.
func (s *state) screen() string {
	var b strings.Builder
	for _, l := range s.lines() {
		fmt.Fprintln(&b, strings.TrimRight(plain(l), " "))
	}
	return b.String()
}
