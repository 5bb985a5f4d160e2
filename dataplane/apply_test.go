package dataplane_test

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

func TestApplyDiff(t *testing.T) {
	h := bareHost(t, netiotest.NewUnderlay(t), addrA, 2)
	blue := testNetwork(addrA, addrB)
	red := renamed(blue, "red", "vx1", 200)
	old := renamed(blue, "old", "vx2", 100)
	old.Port = 8472
	noLearning := blue
	noLearning.Learning = false
	for _, step := range []struct {
		nets []dataplane.Network
		want dataplane.Diff
	}{
		{nil, dataplane.Diff{}},
		{[]dataplane.Network{red, blue}, dataplane.Diff{Added: []string{"blue", "red"}}},
		{[]dataplane.Network{blue, red}, dataplane.Diff{}},
		{[]dataplane.Network{noLearning, red}, dataplane.Diff{Changed: []string{"blue"}}},
		{[]dataplane.Network{noLearning, red}, dataplane.Diff{}},
		{[]dataplane.Network{old, blue}, dataplane.Diff{
			Added: []string{"old"}, Changed: []string{"blue"}, Removed: []string{"red"}}},
		{[]dataplane.Network{red}, dataplane.Diff{Added: []string{"red"}, Removed: []string{"blue", "old"}}},
		{nil, dataplane.Diff{Removed: []string{"red"}}},
	} {
		got := h.apply(step.nets...)
		if !reflect.DeepEqual(got, step.want) {
			t.Errorf("diff %+v, want %+v", got, step.want)
		}
		if got.Empty() != (len(got.Added)+len(got.Removed)+len(got.Changed) == 0) {
			t.Errorf("Empty() = %t of %+v", got.Empty(), got)
		}
		var names []string
		for _, n := range h.Info().Networks {
			names = append(names, n.Network)
		}
		var want []string
		for _, n := range step.nets {
			want = append(want, n.Name)
		}
		slices.Sort(names)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			t.Errorf("networks %q, want %q", names, want)
		}
	}
}

// TestApplyAgainTouchesNothing wants what was learned and counted to outlive an
// Apply, of the same state as of another.
func TestApplyAgainTouchesNothing(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, n)
	tap := a.TAP("vx0")
	a.from(u, addrB, helloBack.Data)
	a.knows(macB, addrB)
	before := a.blue()
	a.apply(n)
	n.TTL = 3
	a.apply(n, renamed(n, "red", "vx1", 200))
	if got := a.blue(); got != before {
		t.Errorf("counters %+v, were %+v", got, before)
	}
	if a.TAP("vx0") != tap {
		t.Error("the TAP was opened again")
	}
	a.knows(macB, addrB)
}

// TestApplyFails wants what runs to be as it was after any failure: counters,
// table, peers, policy and what is open. The backend checks at the end that nothing
// is left open.
func TestApplyFails(t *testing.T) {
	refuse := errors.New("not today")
	blue := testNetwork(addrA, addrB)
	changed := blue
	changed.Peers = []dataplane.Peer{{Address: addrC, Flood: true}}
	changed.TTL = 9
	changed.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: addrC}}
	red, old := renamed(blue, "red", "vx1", 200), renamed(blue, "old", "vx2", 300)
	old.Port = 8472
	group := renamed(blue, "grouped", "vx3", 400)
	group.Group = netip.MustParseAddr("239.1.1.1")
	full := renamed(blue, "full", "vx4", 500)
	full.MaxEntries = 1
	for i := range 1000 {
		full.FDB = append(full.FDB, dataplane.StaticEntry{MAC: macC + encap.MAC(i), Peer: addrB})
	}
	taken := renamed(blue, "taken", "vx0", 600)
	for _, c := range []struct {
		name    string
		prepare func(h *host)
		nets    []dataplane.Network
		is      error
		names   string
	}{
		{"second TAP", func(h *host) { h.FailDevice("vx2", refuse) }, []dataplane.Network{changed, red, old}, refuse, `"old"`},
		{"port", func(h *host) { h.FailUDP(8472, refuse) }, []dataplane.Network{changed, red, old}, refuse, `"old"`},
		{"group", func(h *host) { h.FailGroup(refuse) }, []dataplane.Network{changed, red, group}, refuse, `"grouped"`},
		{"group's TAP", func(h *host) { h.FailDevice("vx3", refuse) }, []dataplane.Network{changed, red, group}, refuse, `"grouped"`},
		{"no room", nil, []dataplane.Network{changed, red, full}, nil, `"full"`},
		{"TAP still there", nil, []dataplane.Network{red, taken}, unix.EBUSY, `"taken"`},
		{"removal beside a failure", func(h *host) { h.FailDevice("vx1", refuse) }, []dataplane.Network{red}, refuse, `"red"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := netiotest.NewUnderlay(t)
			a := newHost(t, u, addrA, blue)
			b := newHost(t, u, addrB, testNetwork(addrB, addrA))
			b.TAP("vx0").Inject(helloBack)
			wantFrames(t, a.TAP("vx0"), helloBack)
			a.knows(macB, addrB)
			stats, info := a.Stats(), a.Info()
			fds := openFDs(t)
			if c.prepare != nil {
				c.prepare(a)
			}
			for range 3 {
				diff, err := a.Apply(dataplane.Desired{Networks: c.nets})
				if err == nil || !diff.Empty() || !strings.Contains(err.Error(), c.names) || (c.is != nil && !errors.Is(err, c.is)) {
					t.Fatalf("%+v, %v; want an error of network %s", diff, err, c.names)
				}
			}
			if d := cmp.Diff(stats, a.Stats(), addrCmp); d != "" {
				t.Errorf("counters changed: %s", d)
			}
			if d := cmp.Diff(info, a.Info(), addrCmp); d != "" {
				t.Errorf("networks changed: %s", d)
			}
			if got := openFDs(t); got != fds {
				t.Errorf("%d file descriptors are open, %d were before", got, fds)
			}
			a.Record()
			a.TAP("vx0").Inject(hello)
			wantFrames(t, b.TAP("vx0"), hello)
			if s := a.Sent(); len(s) != 1 || s[0].TTL != blue.TTL {
				t.Errorf("sent %+v", s)
			}
			// When the cause is gone, the same succeeds.
			a.FailDevice("vx1", nil)
			a.FailDevice("vx2", nil)
			a.FailUDP(8472, nil)
			a.apply(blue, red, old)
		})
	}
}

var addrCmp = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// TestChangeableKeys wants each other key to take effect at once.
func TestChangeableKeys(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, n)
	a.Record()
	tap := a.TAP("vx0")

	n.TTL, n.TOS, n.DF = 5, dataplane.TOS{Value: 0x40}, false
	n.Peers = []dataplane.Peer{{Address: addrC, Flood: true}}
	a.apply(n)
	tap.Inject(hello)
	eventually(t, "it is sent", func() bool { return a.blue().TxPackets == 1 })
	s := a.Sent()[0]
	if s.TTL != 5 || s.TOS != 0x40 || s.DF || s.To.Addr() != addrC {
		t.Errorf("sent %+v", s)
	}
	a.from(u, addrB, helloBack.Data) // no peer any more
	denied := dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropPeerNotAdmitted, Count: 1}
	a.wantDrops(denied)

	n.Admit.Any, n.Learning = true, false
	n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: addrB}}
	a.apply(n)
	a.from(u, unlisted, plainFrame(macA, macC, "hello").Data)
	tap.Wait(1)
	tap.Inject(hello)
	eventually(t, "it is sent", func() bool { return a.blue().TxPackets == 2 })
	if s := a.Sent()[0]; s.To.Addr() != addrB {
		t.Errorf("sent to %s, not where the static entry says", s.To)
	}
	if got := a.blue(); got.EntriesLearned != 0 {
		t.Errorf("learned although learning is off: %+v", got)
	}

	n.VLANDrop, n.ReservedDrop = true, true
	n.FDB = nil
	a.apply(n)
	if entries, err := a.FDB("blue"); err != nil || len(entries) != 0 {
		t.Errorf("table %+v, %v", entries, err)
	}
	tap.Inject(tagged(hello, 5))
	a.datagram(u, netio.Datagram{From: addrC, Data: reserved(helloBack.Data)})
	a.wantDrops(
		dataplane.DropStats{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropVLANTagged, Count: 1},
		dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropVXLANInvalidHdr, Count: 1},
		denied)
}

// TestPeerGoes wants what was learned of a peer to go with it.
func TestPeerGoes(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB, addrC)
	a := newHost(t, u, addrA, n)
	a.from(u, addrB, helloBack.Data)
	a.from(u, addrC, plainFrame(macA, macC, "hello").Data)
	a.knows(macB, addrB)
	a.knows(macC, addrC)
	n.Peers = n.Peers[1:]
	a.apply(n)
	entries, err := a.FDB("")
	if err != nil || len(entries) != 1 || entries[0].MAC != macC {
		t.Errorf("table %+v, %v", entries, err)
	}
	if p := a.Stats().Peers; len(p) != 1 || p[0].Peer != addrC {
		t.Errorf("peers %+v", p)
	}
	a.Record()
	a.TAP("vx0").Inject(hello)
	eventually(t, "it is flooded", func() bool { return a.blue().Flooded == 1 })
	if s := a.Sent(); len(s) != 1 || s[0].To.Addr() != addrC {
		t.Errorf("sent %+v", s)
	}
}

// TestPeerComesBack wants a peer that comes back, by its old ID or another's, to
// begin with counters of its own.
func TestPeerComesBack(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, n)
	for range 3 {
		a.from(u, addrB, helloBack.Data)
	}
	a.knows(macB, addrB)
	eventually(t, "all is counted", func() bool { return a.Stats().Peers[0].RxPackets == 3 })
	n.Peers = nil
	a.apply(n)
	time.Sleep(3500 * time.Millisecond) // some ticks, until IDs are free
	n.Peers = []dataplane.Peer{{Address: addrC}, {Address: addrB}}
	a.apply(n)
	for _, p := range a.Stats().Peers {
		if p.Traffic != (dataplane.Traffic{}) {
			t.Errorf("a new peer has counters: %+v", p)
		}
	}
}
