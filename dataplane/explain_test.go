package dataplane_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// fate is what becomes of a frame, as the path shows and as Explain says.
type fate struct {
	Copies    map[netip.Addr]leaving
	Drops     map[dataplane.Drop]bool
	Delivered bool
	Answers   []string // to the device
	Learned   string   // what happened to the table and peers
}

// leaving is how one receiver's copy leaves.
type leaving struct {
	Port, SourcePort uint16
	Frames, Length   int
	DF               bool
	TOS, TTL         uint8
}

// watched is a path, or that of a tunnel, under test.
type watched struct {
	engine  *dataplane.Engine
	backend *netiotest.Backend
	tap     *netiotest.TAP
	packets bool
	out, in func() error
	u       *netiotest.Underlay
	at      netip.AddrPort // where datagrams go
}

// state is all that an explanation must not change.
func (w *watched) state(tb rapid.TB) any {
	entries, err := w.engine.FDB("")
	if err != nil {
		tb.Fatal(err)
	}
	return []any{w.stats(), entries}
}

// stats are the engine's without times: a second that goes by changes them.
func (w *watched) stats() dataplane.Stats {
	s := w.engine.Stats()
	for i := range s.Drops {
		s.Drops[i].Last = time.Time{}
	}
	for i := range s.Peers {
		s.Peers[i].LastHeard = time.Time{}
	}
	return s
}

// learning are the counters by which to see what Learn and Admit made of a frame.
func learning(s dataplane.Stats) map[string]int {
	n := s.Networks[0]
	m := map[string]int{
		"moved": int(n.LearnMoved), "full": int(n.LearnRefused), "quota": int(n.LearnQuota),
		"frozen": int(n.LearnFrozen), "entries": n.EntriesLearned, "peers": len(s.Peers),
	}
	return m
}

// path lets the frame go its way and returns what became of it.
func (w *watched) path(tb rapid.TB, p dataplane.Query, f netiotest.Frame) fate {
	before := w.stats()
	w.backend.Sent()
	w.tap.Written()
	run := w.out
	if p.From.IsValid() {
		run = w.in
		w.u.Deliver(w.at, netio.Datagram{From: p.From, TOS: p.TOS, Data: f.Data})
	} else {
		w.tap.Inject(f)
	}
	if err := run(); err != nil {
		tb.Fatal(err)
	}
	after := w.stats()
	got := fate{Copies: make(map[netip.Addr]leaving), Drops: make(map[dataplane.Drop]bool)}
	for _, s := range w.backend.Sent() {
		c := got.Copies[s.To.Addr()]
		c.Port, c.DF, c.TOS, c.TTL = s.To.Port(), s.DF, s.TOS, s.TTL
		if s.To.Port() != 0 {
			c.SourcePort = w.backend.SourcePort(s.Flow, s.DF)
		}
		for _, payload := range s.Payloads {
			c.Frames++
			c.Length = max(c.Length, len(payload)+encap.IPv4HeaderLen)
			if s.To.Port() != 0 {
				c.Length = max(c.Length, len(payload)+encap.IPv4HeaderLen+encap.UDPHeaderLen)
			}
		}
		got.Copies[s.To.Addr()] = c
	}
	old := make(map[dataplane.DropStats]bool)
	for _, d := range before.Drops {
		old[d] = true
	}
	for _, d := range after.Drops {
		if !old[d] {
			got.Drops[d.Reason] = true
		}
	}
	for _, f := range w.tap.Written() {
		if p.From.IsValid() {
			got.Delivered = true
		} else {
			got.Answers = append(got.Answers, answered(f.Data, w.packets))
		}
	}
	was, now := learning(before), learning(after)
	for _, k := range slices.Sorted(maps.Keys(now)) {
		if n := now[k] - was[k]; n != 0 {
			got.Learned += fmt.Sprintf("%s%+d ", k, n)
		}
	}
	return got
}

// answered is what Explanation.Notified says of the frame.
func answered(b []byte, packets bool) string {
	if !packets {
		if eth, _ := encap.ParseEthernet(b); eth.EtherType() == encap.EtherTypeARP {
			return "the answer: " + eth.Src().String()
		}
	}
	return dataplane.QuotedICMP(b, packets)
}

// predicted is the fate that the explanation has.
func predicted(x dataplane.Explanation) fate {
	f := fate{Copies: make(map[netip.Addr]leaving), Drops: make(map[dataplane.Drop]bool)}
	for _, c := range x.Copies {
		if c.Reason != 0 {
			f.Drops[c.Reason] = true
			continue
		}
		l := leaving{c.Port, c.SourcePort, c.Frames, c.Length, c.DF, c.TOS, c.TTL}
		f.Copies[c.Peer] = l
	}
	if len(x.Copies) == 0 && x.Verdict == dataplane.OutcomeDropped {
		f.Drops[x.Reason] = true
	}
	f.Delivered = x.Verdict == dataplane.OutcomeDelivered
	if x.Notified != "" {
		f.Answers = []string{x.Notified}
	}
	for _, s := range x.Steps {
		for _, effect := range []struct{ step, says, counts string }{
			{"source", "its entry goes", "entries-1 "},
			{"learn", "is new: it is learned", "entries+1 "},
			{"learn", "it moves", "moved+1 "},
			{"learn", "(max_entries)", "full+1 "},
			{"learn", "(max_entries_per_peer)", "quota+1 "},
			{"learn", "(max_moves)", "frozen+1 "},
			{"admission", "it would become a peer", "peers+1 "},
		} {
			if s.Name == effect.step && strings.Contains(s.Detail, effect.says) {
				f.Learned += effect.counts
			}
		}
	}
	return f
}

// agree lets the frame go its way, after it was explained, and wants both to
// agree, and the explanation to have changed nothing.
func (w *watched) agree(tb rapid.TB, p dataplane.Query, f netiotest.Frame) dataplane.Explanation {
	before := w.state(tb)
	x, err := w.engine.Explain(p)
	if err != nil {
		tb.Fatal(err)
	}
	if d := cmp.Diff(before, w.state(tb), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		tb.Fatalf("explaining changed something: %s", d)
	}
	want, got := predicted(x), w.path(tb, p, f)
	for _, c := range x.Copies {
		if c.Way == "uplink" { // the backend in memory carries it as one datagram
			for _, f := range []fate{want, got} {
				l := f.Copies[c.Peer]
				l.Frames, l.Length = 0, 0
				f.Copies[c.Peer] = l
			}
		}
	}
	want.Learned, got.Learned = sortedWords(want.Learned), sortedWords(got.Learned)
	if strings.Contains(got.Learned, "quota") {
		// A move that the quota refuses takes the old entry with it.
		want.Learned, got.Learned = "quota", strings.TrimSpace(strings.Replace(got.Learned, "entries-1", "", 1))
		got.Learned = strings.TrimSuffix(got.Learned, "+1")
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		tb.Fatalf("the path does not as predicted:\n%s\nframe %x\nquery %+v\nexplanation %+v", d, f.Data, p, x)
	}
	return x
}

func sortedWords(s string) string {
	words := strings.Fields(s)
	slices.Sort(words)
	return strings.Join(words, " ")
}

var explainMACs = []encap.MAC{macA, macB, macC, macA + 0x100, macB + 0x100}

// drawNetwork draws the policies of a network with the peers B and C.
func drawNetwork(t *rapid.T) dataplane.Network {
	n := testNetwork(addrA)
	for _, a := range []netip.Addr{addrB, addrC} {
		if rapid.IntRange(0, 4).Draw(t, "listed") < 4 {
			n.Peers = append(n.Peers, dataplane.Peer{Address: a, Flood: rapid.IntRange(0, 3).Draw(t, "flood") < 3})
		}
	}
	n.Learning = rapid.IntRange(0, 4).Draw(t, "learning") < 4
	n.MaxEntries = rapid.SampledFrom([]int{1024, 2}).Draw(t, "max")
	n.MaxPerPeer = rapid.SampledFrom([]int{0, 1}).Draw(t, "perPeer")
	if n.MaxMoves = rapid.SampledFrom([]int{0, 2}).Draw(t, "moves"); n.MaxMoves != 0 {
		n.MoveWindow = time.Hour
	}
	n.DF = rapid.IntRange(0, 4).Draw(t, "df") < 4
	n.TOS = dataplane.TOS{Inherit: rapid.Bool().Draw(t, "inherit"), Value: 0x48}
	n.TTL = rapid.SampledFrom([]uint8{1, 64}).Draw(t, "ttl")
	n.VLANDrop = rapid.IntRange(0, 3).Draw(t, "vlanDrop") == 3
	n.Plain = rapid.IntRange(0, 3).Draw(t, "plain") == 3
	n.ClampMSS = rapid.Bool().Draw(t, "clamp")
	switch rapid.IntRange(0, 3).Draw(t, "admit") {
	case 0:
		n.Admit.Any = true
	case 1:
		n.Admit.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}
	if rapid.IntRange(0, 2).Draw(t, "group") == 0 {
		n.Group = netip.MustParseAddr("239.1.1.1")
	}
	if rapid.IntRange(0, 2).Draw(t, "static") == 0 {
		n.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: addrC}}
	}
	if rapid.IntRange(0, 2).Draw(t, "pinned") == 0 {
		i := slices.IndexFunc(n.Peers, func(p dataplane.Peer) bool { return p.Address == addrB })
		if i < 0 {
			i, n.Peers = len(n.Peers), append(n.Peers, dataplane.Peer{Address: addrB})
		}
		n.Peers[i].MACs = []encap.MAC{macB + 0x100}
	}
	if rapid.Bool().Draw(t, "stormy") {
		n.Storm = dataplane.Storm{Broadcast: 1e6, UnknownUnicast: 1e6, Multicast: 1e6}
		n.PeerStorm = dataplane.Storm{Broadcast: 1e6}
	}
	if n.Suppress = rapid.Bool().Draw(t, "suppress"); n.Suppress {
		n.Neighbors = []dataplane.Neighbor{{Address: inner(2), MAC: macB}, {Address: inner(3), MAC: macC}}
	}
	return n
}

// drawFrame draws a frame of every kind; single ones only where they are from
// the wire.
func drawFrame(t *rapid.T, tb testing.TB, single bool) netiotest.Frame {
	macs := slices.Concat(explainMACs, []encap.MAC{tapMAC(addrA)})
	src := rapid.SampledFrom(macs).Draw(t, "src")
	dst := rapid.SampledFrom(append(macs, encap.BroadcastMAC, encap.BroadcastMAC, groupMAC)).Draw(t, "dst")
	// Rapid draws small numbers more often: what goes through comes first.
	switch rapid.IntRange(0, 13).Draw(t, "kind") {
	case 13:
		return netiotest.Frame{Data: []byte("short")}
	case 12:
		return plainFrame(dst, rapid.SampledFrom([]encap.MAC{0, groupMAC}).Draw(t, "badSrc"), "never")
	case 11:
		return plainFrame(0x0180c200000e, src, "LLDP")
	case 3:
		return plainFrame(dst, src, strings.Repeat("x", rapid.SampledFrom([]int{1, 46, 1450, 1460}).Draw(t, "size")))
	case 2:
		return arp(encap.BroadcastMAC, src, encap.ARPRequest, src, inner(1), 0, inner(byte(rapid.IntRange(2, 4).Draw(t, "target"))))
	case 10:
		return tagged(plainFrame(dst, src, "tagged"), 5)
	}
	s := drawFlow(t)
	s.src, s.dst = src, dst
	if !single && rapid.IntRange(0, 2).Draw(t, "super") == 0 {
		size := rapid.SampledFrom([]int{500, 1000, 1440}).Draw(t, "segment")
		return s.gsoPacket(tb, pattern(size*rapid.IntRange(1, 30).Draw(t, "segments")), size)
	}
	return netiotest.Frame{Data: s.complete(tb, pattern(rapid.SampledFrom([]int{1, 1000, 1300, 1400, 1500}).Draw(t, "length")))}
}

// What Explain says of a frame, the path does, in any state that frames and
// configuration bring about.
func TestExplainAgreesWithPath(t *testing.T) {
	outcomes := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		n := drawNetwork(rt)
		r := newPaths(t, n)
		defer r.Close()
		r.backend.TakeUnsegmented(rapid.Bool().Draw(rt, "whole"))
		w := &watched{
			engine: r.Engine, backend: r.backend, tap: r.tap, u: r.u, out: r.Outbound, in: r.Inbound,
			at: netip.AddrPortFrom(addrA, testPort),
		}
		for range rapid.IntRange(20, 60).Draw(rt, "frames") {
			switch rapid.IntRange(0, 8).Draw(rt, "first") {
			case 0:
				r.backend.SetPathMTU(rapid.SampledFrom([]netip.Addr{addrB, addrC}).Draw(rt, "path"),
					rapid.SampledFrom([]encap.UnderlayMTU{0, 1300, 1450}).Draw(rt, "pmtu"))
			case 1:
				some := rapid.SliceOfN(rapid.Bool(), 3, 3).Draw(rt, "drained")
				r.DrainStorms([3]bool(some))
			}
			p := dataplane.Query{Network: n.Name}
			if rapid.Bool().Draw(rt, "inbound") {
				p.From = rapid.SampledFrom([]netip.Addr{addrB, addrC, addrA, unlisted, netip.MustParseAddr("192.0.2.77")}).Draw(rt, "from")
				p.TOS = uint8(rapid.IntRange(0, 3).Draw(rt, "ecn"))
				vni := testVNI
				if rapid.IntRange(0, 9).Draw(rt, "otherVNI") == 9 {
					vni++
				}
				p.VNI = &vni
				f := drawFrame(rt, t, true)
				p.Frame = f.Data
				f.Data = vxlan(vni, f.Data)
				x := w.agree(rt, p, f)
				outcomes["in "+string(x.Verdict)+" "+x.Reason.String()]++
				continue
			}
			f := drawFrame(rt, t, false)
			p.Frame, p.SegSize = f.Data, int(f.VNet.GSOSize)
			x := w.agree(rt, p, f)
			outcomes["out "+string(x.Verdict)+" "+x.Reason.String()]++
		}
	})
	for _, want := range []string{
		"out sent drop(0)", "out answered drop(0)", "in delivered drop(0)", "out dropped too_big", "out dropped vxlan_no_remote",
		"out dropped mac_invalid_source", "out dropped bridge_control", "out dropped vlan_tagged", "out dropped too_short",
		"out dropped storm_broadcast", "out dropped storm_unknown_unicast",
		"in dropped peer_not_admitted", "in dropped vxlan_vni_not_found", "in dropped local_mac", "in dropped vxlan_entry_exists",
		"in dropped mac_not_admitted", "in dropped ip_tunnel_ecn", "in dropped too_big",
	} {
		if outcomes[want] == 0 {
			t.Errorf("never: %s (%v)", want, outcomes)
		}
	}
}

// drawPacket draws a packet of every kind for a tunnel.
func drawPacket(t *rapid.T, tb testing.TB, single bool) netiotest.Frame {
	s := drawFlow(t)
	s.src, s.dst, s.tags, s.v6 = macA, macB, 0, rapid.IntRange(0, 9).Draw(t, "ipv6") == 9
	var f netiotest.Frame
	if !single && rapid.IntRange(0, 2).Draw(t, "super") == 0 {
		size := rapid.SampledFrom([]int{500, 1000, 1440}).Draw(t, "segment")
		f = s.gsoPacket(tb, pattern(size*rapid.IntRange(1, 30).Draw(t, "segments")), size)
	} else {
		f.Data = s.complete(tb, pattern(rapid.SampledFrom([]int{1, 1300, 1400, 1500}).Draw(t, "length")))
	}
	f = packet(f)
	if s.v6 {
		return f
	}
	addr := rapid.SampledFrom([]netip.Addr{{}, {}, {}, addrA, addrB, unlisted, netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("10.9.9.9")})
	for at, name := range map[int]string{12: "innerSrc", 16: "innerDst"} {
		if a := addr.Draw(t, name); a.IsValid() {
			copy(f.Data[at:], a.AsSlice())
		}
	}
	switch rapid.IntRange(0, 12).Draw(t, "broken") {
	case 9:
		f.Data[8] = 0 // TTL
	case 10:
		f.Data[0] = 0x41
	case 11:
		f = netiotest.Frame{Data: f.Data[:10]}
	}
	return f
}

// The same for IP-in-IP.
func TestExplainAgreesWithTunnelPath(t *testing.T) {
	outcomes := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		c := testTunnel()
		c.DF = rapid.Bool().Draw(rt, "df")
		c.CheckSource = rapid.Bool().Draw(rt, "checkSource")
		c.TOS = dataplane.TOS{Inherit: rapid.Bool().Draw(rt, "inherit"), Value: 0x48}
		c.Plain = rapid.IntRange(0, 3).Draw(rt, "plain") == 0
		switch rapid.IntRange(0, 3).Draw(rt, "admit") {
		case 0:
			c.Admit.Any = true
		case 1:
			c.Admit.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		r := newTunnelPaths(t, c)
		r.backend.TakeUnsegmented(rapid.Bool().Draw(rt, "whole"))
		w := &watched{
			engine: r.Engine, backend: r.backend, tap: r.backend.TAP(c.Device), u: r.u, out: r.Outbound, in: r.Inbound,
			at: netip.AddrPortFrom(addrA, 0), packets: true,
		}
		for range rapid.IntRange(20, 40).Draw(rt, "packets") {
			if rapid.IntRange(0, 8).Draw(rt, "first") == 0 {
				r.backend.SetPathMTU(rapid.SampledFrom([]netip.Addr{addrB, addrC}).Draw(rt, "path"),
					rapid.SampledFrom([]encap.UnderlayMTU{0, 1300, 1450}).Draw(rt, "pmtu"))
			}
			p := dataplane.Query{Network: c.Name, Packet: true}
			way := "out "
			if rapid.Bool().Draw(rt, "inbound") {
				way = "in "
				p.From = rapid.SampledFrom([]netip.Addr{addrB, addrC, unlisted, netip.MustParseAddr("192.0.2.77")}).Draw(rt, "from")
				p.TOS = uint8(rapid.IntRange(0, 3).Draw(rt, "ecn"))
			}
			f := drawPacket(rt, t, p.From.IsValid())
			p.Frame, p.SegSize = f.Data, int(f.VNet.GSOSize)
			x := w.agree(rt, p, f)
			outcomes[way+string(x.Verdict)+" "+x.Reason.String()]++
		}
	})
	for _, want := range []string{
		"out sent drop(0)", "in delivered drop(0)", "out dropped too_big", "out dropped no_route", "out dropped loop",
		"out dropped ttl_zero", "out dropped unhandled_proto", "out dropped ip_inhdr", "out dropped too_short",
		"in dropped peer_not_admitted", "in dropped loop", "in dropped source_not_admitted", "in dropped ip_tunnel_ecn",
		"in dropped unhandled_proto", "in dropped too_big",
	} {
		if outcomes[want] == 0 {
			t.Errorf("never: %s (%v)", want, outcomes)
		}
	}
}

// A step names the lengths and the MTU that it compares, both as of IP packets, and
// what admits a sender.
func TestExplainNamesLengths(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: addrB}, {MAC: macC, Peer: addrC}}
	n.Peers = append(n.Peers, dataplane.Peer{Address: addrC})
	h := newHost(t, netiotest.NewUnderlay(t), addrA, n)
	s := flowSpec{src: macA, dst: macB}
	frame := func(size int) []byte {
		return plainFrame(macB, macA, strings.Repeat("x", size)).Data
	}
	for name, c := range map[string]struct {
		query dataplane.Query
		want  string
	}{
		"as long as may be": {dataplane.Query{Frame: frame(1450)}, "1450 bytes: within the network's MTU of 1450"},
		"too long":          {dataplane.Query{Frame: frame(1500)}, "1500 bytes: larger than the network's MTU of 1450"},
		"too long in":       {dataplane.Query{Frame: frame(1500), From: addrB}, "1500 bytes: larger than the network's MTU of 1450"},
		"segments": {dataplane.Query{Frame: s.complete(t, pattern(4000)), SegSize: 1000},
			"4 segments, the longest of 1040 bytes: within the network's MTU of 1450"},
		"long segments": {dataplane.Query{Frame: s.complete(t, pattern(4000)), SegSize: 2000},
			"2 segments, the longest of 2040 bytes: larger than the network's MTU of 1450"},
		"ARP":    {dataplane.Query{Frame: arp(encap.BroadcastMAC, macA, encap.ARPRequest, macA, inner(1), 0, inner(2)).Data}, ", ARP"},
		"listed": {dataplane.Query{Frame: frame(10), From: addrB}, "is a listed peer"},
		"static": {dataplane.Query{Frame: frame(10), From: addrC}, "is the peer of a static entry"},
	} {
		c.query.Network = n.Name
		x, err := h.Explain(c.query)
		if err != nil || !slices.ContainsFunc(x.Steps, func(s dataplane.Step) bool { return strings.HasSuffix(s.Detail, c.want) }) {
			t.Errorf("%s: %v, %+v; want %s", name, err, x.Steps, c.want)
		}
	}
}

// What cannot be explained is an error that says why.
func TestExplainRefuses(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	h := newHost(t, u, addrA, testNetwork(addrA, addrB))
	vni := testVNI
	for name, c := range map[string]struct {
		query dataplane.Query
		want  string
	}{
		"unknown":    {dataplane.Query{Network: "green"}, `no network is named "green"`},
		"too long":   {dataplane.Query{Network: "blue", Size: 1 << 20}, "a frame of 1048576 bytes"},
		"segments":   {dataplane.Query{Network: "blue", SegSize: -1}, "segments of -1 bytes"},
		"a run":      {dataplane.Query{Network: "blue", SegSize: 100, From: addrB}, "segments of a frame from the wire"},
		"a VNI":      {dataplane.Query{Network: "blue", VNI: &vni}, "want the peer that it is from"},
		"a packet":   {dataplane.Query{Network: "blue", Packet: true}, "carries Ethernet frames"},
		"no network": {dataplane.Query{}, `no network is named ""`},
	} {
		if _, err := h.Explain(c.query); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
	x, err := h.Explain(dataplane.Query{Network: "blue", From: addrB, Port: 8472, Frame: hello.Data})
	if err != nil || x.Verdict != dataplane.OutcomeDropped || len(x.Steps) != 1 || !strings.Contains(x.Steps[0].Detail, "no network listens on port 8472") {
		t.Errorf("a port where nobody listens: %+v, %v", x, err)
	}
	if err := h.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Explain(dataplane.Query{Network: "blue"}); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("of a closed engine: %v", err)
	}
}
