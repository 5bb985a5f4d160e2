package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux"
)

var multicast = map[bool]netip.Addr{ // by v6
	false: netip.MustParseAddr("239.1.1.1"), true: netip.MustParseAddr("ff05::100"),
}

// wireAt opens edges at the site and its wire of port 4789, and that of the
// group if there is one.
func wireAt(t *testing.T, s *netlab.Site, sources int, group netip.Addr) (e *linux.Backend, port, joined netio.Conn) {
	t.Helper()
	return wireWith(t, s, sources, group, netio.Offloads{})
}

// wireWith is wireAt with some offloads switched off.
func wireWith(t *testing.T, s *netlab.Site, sources int, group netip.Addr, off netio.Offloads) (e *linux.Backend, port, joined netio.Conn) {
	t.Helper()
	err := s.Host.Do(func() (err error) {
		o := linux.Options{Underlay: s.Underlay, SourcePorts: sources, NoTunnelGSO: true, Offloads: off, Workers: 1}
		if e, err = linux.New(o); err != nil {
			return err
		}
		t.Cleanup(func() { e.Close() })
		wires, err := e.OpenUDP(testPort, 1)
		if err != nil {
			return err
		}
		port = wires[0]
		t.Cleanup(func() { port.Close() })
		if group.IsValid() {
			if joined, err = e.OpenGroup(group, testPort); err != nil {
				return err
			}
			t.Cleanup(func() { joined.Close() })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return e, port, joined
}

// wirePair is a wire at each of two sites, the first with so many source ports.
func wirePair(t *testing.T, sources int) (e *linux.Backend, from, to netio.Conn, peer netip.AddrPort) {
	t.Helper()
	sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	e, from, _ = wireAt(t, sites[0], sources, netip.Addr{})
	_, to, _ = wireAt(t, sites[1], 1, netip.Addr{})
	return e, from, to, netip.AddrPortFrom(sites[1].Underlay, testPort)
}

// arrivals reads payloads until there are n and none comes any more.
func arrivals(t *testing.T, w netio.Conn, n int) (all [][]byte) {
	t.Helper()
	batch := make([]netio.Datagram, dataplane.InDatagrams)
	quiet := 0
	for deadline := time.Now().Add(5 * time.Second); quiet < 20 && time.Now().Before(deadline); {
		got, err := w.ReadBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range batch[:got] {
			size := d.SegSize
			if size == 0 {
				size = max(len(d.Data), 1)
			}
			for p := range slices.Chunk(d.Data, size) {
				all = append(all, bytes.Clone(p))
			}
		}
		if got == 0 {
			time.Sleep(2 * time.Millisecond)
			if len(all) >= n {
				quiet++
			}
		}
	}
	return all
}

// numbered is a send whose payload is the flow's index, its number and so many
// parts of one byte each behind.
func numbered(to netip.AddrPort, flow uint32, index, number, parts int) netio.Send {
	head := binary.BigEndian.AppendUint16([]byte{byte(index)}, uint16(number))
	s := netio.Send{To: to, Flow: flow, TTL: 64, DF: true, Parts: [][]byte{head}}
	for range parts {
		s.Parts = append(s.Parts, head[:1])
	}
	return s
}

// TestFlowsKeepTheirOrder sends more in one batch than fits into one sendmmsg,
// by the number of messages and by that of their parts, in two flows that leave
// by a socket each.
func TestFlowsKeepTheirOrder(t *testing.T) {
	_, from, to, peer := wirePair(t, 2)
	flows := []uint32{1, 1 << 31}
	for name, parts := range map[string]func(number int) int{
		"messages": func(int) int { return 0 },
		// Behind one that does not fit any more stand some that would.
		"parts": func(n int) int { return []int{linux.MaxIovecs - 10, linux.MaxIovecs - 10, 500, 0, 1, 0}[n%6] },
	} {
		t.Run(name, func(t *testing.T) {
			const each = 3 * linux.SendBatch
			var sends []netio.Send
			for n := range each {
				for i, flow := range flows {
					sends = append(sends, numbered(peer, flow, i, n, parts(n)))
				}
			}
			if refused := from.WriteBatch(sends); refused != 0 {
				t.Fatalf("%d refused", refused)
			}
			next := make([]int, len(flows))
			for _, p := range arrivals(t, to, len(sends)) {
				i, n := p[0], int(binary.BigEndian.Uint16(p[1:]))
				if n != next[i] {
					t.Fatalf("flow %d: number %d, want %d", i, n, next[i])
				}
				if len(p) != 3+parts(n) {
					t.Errorf("flow %d, number %d: %d bytes", i, n, len(p))
				}
				next[i]++
			}
			if next[0] != each || next[1] != each {
				t.Errorf("%v arrived, want %d each", next, each)
			}
		})
	}
}

// TestRefusedOfARun sends a run whose payloads but the last do not fit the path, as
// one and, where the route is known to refuse that, payload by payload: what left
// and what did not are distinguished.
func TestRefusedOfARun(t *testing.T) {
	for _, noted := range []bool{false, true} {
		t.Run(fmt.Sprintf("noted=%t", noted), func(t *testing.T) {
			e, from, to, peer := wirePair(t, 1)
			if noted {
				linux.Hooks{Backend: e}.NoteRefusal(peer.Addr(), unix.EIO)
			}
			long, short := pattern(2000), pattern(500)
			run := netio.Send{
				To: peer, TTL: 64, DF: true, SegSize: len(long),
				// Cuts need not stand between all parts.
				Parts: [][]byte{long, long[:900], long[900:], long, short},
			}
			fits := run
			fits.SegSize, fits.Parts = len(short), [][]byte{short, short, short[:7]}
			single := numbered(peer, 0, 1, 1, 0)
			sends := []netio.Send{single, run, fits, single}
			if refused := from.WriteBatch(sends); refused != 1 {
				t.Errorf("%d sends refused, want 1", refused)
			}
			for i, want := range []struct {
				errno   unix.Errno
				refused int
			}{{}, {unix.EMSGSIZE, 3}, {}, {}} {
				if s := sends[i]; s.Errno != want.errno || s.Refused != want.refused {
					t.Errorf("send %d: %d refused by %v, want %d by %v", i, s.Refused, s.Errno, want.refused, want.errno)
				}
			}
			want := [][]byte{single.Parts[0], short, short, short, short[:7], single.Parts[0]}
			if got := arrivals(t, to, len(want)); !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%d payloads arrived, want %d, in order", len(got), len(want))
			}
			if got := len(e.RunsRefused()); got != map[bool]int{true: 1}[noted] {
				t.Errorf("the route refuses runs: %+v", e.RunsRefused())
			}
		})
	}
}

// datagrams reads what comes until it stands for n payloads, and returns of each
// datagram how many payloads it is.
func datagrams(t *testing.T, w netio.Conn, n int) (payloads []int) {
	t.Helper()
	batch := make([]netio.Datagram, dataplane.InDatagrams)
	for deadline := time.Now().Add(5 * time.Second); n > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d payloads did not come; so far %v", n, payloads)
		}
		got, err := w.ReadBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range batch[:got] {
			count := 1
			if d.SegSize != 0 {
				count = (len(d.Data) + d.SegSize - 1) / d.SegSize
			}
			payloads = append(payloads, count)
			n -= count
		}
	}
	return payloads
}

// run is one of four payloads.
func run(to netip.AddrPort) netio.Send {
	p := pattern(500)
	return netio.Send{To: to, TTL: 64, DF: true, SegSize: len(p), Parts: [][]byte{p, p, p, p}}
}

// TestRunsAreTriedAgain has the kernel refuse UDP_SEGMENT for a time. A run is
// tried again a minute after the refusal, then after twice as long each time, up to
// an hour; meanwhile its payloads go one by one, and nothing is lost at any time.
func TestRunsAreTriedAgain(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{V6: v6})
			if err != nil {
				t.Fatal(err)
			}
			e, from, _ := wireAt(t, sites[0], 1, netip.Addr{})
			_, to, _ := wireAt(t, sites[1], 1, netip.Addr{})
			peer := netip.AddrPortFrom(sites[1].Underlay, testPort)
			now := time.Now()
			linux.Hooks{Backend: e}.SetTime(func() time.Time { return now })
			send := func(want ...int) {
				t.Helper()
				if s := []netio.Send{run(peer)}; from.WriteBatch(s) != 0 {
					t.Fatalf("refused: %v", s[0].Errno)
				}
				if got := datagrams(t, to, 4); !slices.Equal(got, want) {
					t.Errorf("four payloads came as datagrams of %v, want %v", got, want)
				}
			}
			suspended := func(want time.Duration) {
				t.Helper()
				got := e.RunsRefused()
				if want == 0 {
					if len(got) != 0 || !e.TakesRuns(peer.Addr()) {
						t.Errorf("refused: %+v, want nothing", got)
					}
					return
				}
				if len(got) != 1 || got[0].Peer != peer.Addr() || got[0].Errno == 0 || got[0].Until != now.Add(want) {
					t.Fatalf("refused: %+v, want for %v", got, want)
				}
				if e.TakesRuns(peer.Addr()) {
					t.Error("the peer is said to take runs")
				}
			}
			refuse := func(on bool) {
				if err := (linux.Hooks{Backend: e}).RefuseRuns(on); err != nil {
					t.Fatal(err)
				}
			}

			if v6 {
				// No sending socket over IPv6 is without checksum by SO_NO_CHECK:
				// the refusal is noted as the kernel's answer would be.
				linux.Hooks{Backend: e}.NoteRefusal(peer.Addr(), unix.EIO)
				suspended(time.Minute)
				send(1, 1, 1, 1)
				now = now.Add(time.Minute)
				send(4)
				suspended(0)
				return
			}
			send(4)
			refuse(true)
			for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
				send(1, 1, 1, 1)
				suspended(want * time.Minute)
				send(1, 1, 1, 1) // not tried meanwhile
				suspended(want * time.Minute)
				now = now.Add(want * time.Minute)
			}
			send(1, 1, 1, 1)
			refuse(false)
			now = now.Add(time.Hour - time.Nanosecond)
			send(1, 1, 1, 1)
			now = now.Add(time.Nanosecond)
			send(4)
			suspended(0)
			send(4)

			// A refusal that is never asked about is forgotten in the end.
			linux.Hooks{Backend: e}.NoteRefusal(peer.Addr(), unix.EIO)
			now = now.Add(2 * time.Minute)
			e.Tick()
			if len(e.RunsRefused()) != 1 {
				t.Error("forgotten too early")
			}
			now = now.Add(time.Nanosecond)
			e.Tick()
			suspended(0)
		})
	}
}

// TestSocketOffloadsOff wants no run to be sent without UDP_SEGMENT, and none to be
// received without UDP_GRO.
func TestSocketOffloadsOff(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to netio.Offloads
		want     []int
	}{
		{name: "both on", want: []int{4}},
		{name: "udp_segment off", from: netio.Offloads{NoUDPSegment: true}, want: []int{1, 1, 1, 1}},
		{name: "udp_gro off", to: netio.Offloads{NoUDPGRO: true}, want: []int{1, 1, 1, 1}},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, v6=%t", c.name, v6), func(t *testing.T) {
				sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{V6: v6})
				if err != nil {
					t.Fatal(err)
				}
				e, from, _ := wireWith(t, sites[0], 1, netip.Addr{}, c.from)
				_, to, _ := wireWith(t, sites[1], 1, netip.Addr{}, c.to)
				peer := netip.AddrPortFrom(sites[1].Underlay, testPort)
				for _, df := range []bool{true, false} {
					s := []netio.Send{run(peer)}
					if s[0].DF = df; from.WriteBatch(s) != 0 {
						t.Fatalf("refused: %v", s[0].Errno)
					}
					if got := datagrams(t, to, 4); !slices.Equal(got, c.want) {
						t.Errorf("four payloads came as datagrams of %v, want %v", got, c.want)
					}
				}
				if got := e.TakesRuns(peer.Addr()); got == c.from.NoUDPSegment {
					t.Errorf("the peer takes runs: %t", got)
				}
				if refused := e.RunsRefused(); len(refused) > 0 {
					t.Errorf("refused: %+v", refused)
				}
			})
		}
	}
}

// TestPortIsTaken wants a second engine on the same address and port to be
// refused, also where each of them shares the port among its own workers.
func TestPortIsTaken(t *testing.T) {
	sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		site          *netlab.Site
		first, second int // workers
	}{{sites[0], 2, 2}, {sites[1], 1, 2}} {
		t.Run(fmt.Sprintf("%d and %d workers", c.first, c.second), func(t *testing.T) {
			overtapAt(t, c.site, c.first, siteNetwork(c.site))
			err := c.site.Host.Do(func() error {
				e, err := newEngine(linux.Options{Underlay: c.site.Underlay, Workers: c.second, NoTunnelGSO: true})
				if err != nil {
					return err
				}
				defer e.Close()
				n := renamed(siteNetwork(c.site), "red", "vx1", 101)
				n.MAC++
				_, err = e.Apply(dataplane.Desired{Networks: []dataplane.Network{n}})
				return err
			})
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("error %v, want EADDRINUSE", err)
			}
		})
	}
}

// TestGroupSendsNothingBack wants what is sent to a group to reach its other
// members and not the sender, who has joined it too.
func TestGroupSendsNothingBack(t *testing.T) {
	for v6, group := range multicast {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{V6: v6})
			if err != nil {
				t.Fatal(err)
			}
			_, from, own := wireAt(t, sites[0], 1, group)
			_, _, other := wireAt(t, sites[1], 1, group)
			to := netip.AddrPortFrom(group, testPort)
			for _, df := range []bool{true, false} {
				s := []netio.Send{numbered(to, 0, 0, 1, 0)}
				s[0].DF = df
				if from.WriteBatch(s) != 0 {
					t.Fatalf("refused: %v", s[0].Errno)
				}
			}
			if got := arrivals(t, other, 2); len(got) != 2 {
				t.Errorf("%d reached the other member, want 2", len(got))
			}
			if got := arrivals(t, own, 0); len(got) != 0 {
				t.Errorf("%d came back", len(got))
			}
		})
	}
}
