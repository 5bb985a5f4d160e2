package dataplane_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"overtap/dataplane"
	"overtap/dataplane/dataplanetest"
	"overtap/encap"
)

func TestApplyDiff(t *testing.T) {
	h := bareHost(t, dataplanetest.NewUnderlay(t), addrA, 2)
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
	u := dataplanetest.NewUnderlay(t)
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
		t.Error("the TAP was opened anew")
	}
	a.knows(macB, addrB)
}

// TestApplyFails wants what runs to be as it was after any failure: counters,
// table, peers, policy and what is open. The edges check at the end that nothing
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
		{"port", func(h *host) { h.FailPort(8472, refuse) }, []dataplane.Network{changed, red, old}, refuse, `"old"`},
		{"group", func(h *host) { h.FailGroup(refuse) }, []dataplane.Network{changed, red, group}, refuse, `"grouped"`},
		{"group's TAP", func(h *host) { h.FailDevice("vx3", refuse) }, []dataplane.Network{changed, red, group}, refuse, `"grouped"`},
		{"no room", nil, []dataplane.Network{changed, red, full}, nil, `"full"`},
		{"TAP still there", nil, []dataplane.Network{red, taken}, unix.EBUSY, `"taken"`},
		{"removal beside a failure", func(h *host) { h.FailDevice("vx1", refuse) }, []dataplane.Network{red}, refuse, `"red"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := dataplanetest.NewUnderlay(t)
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
			a.FailPort(8472, nil)
			a.apply(blue, red, old)
		})
	}
}

var addrCmp = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// openFDs counts the epolls and eventfds that are open: all that engines and
// their edges in memory open. Go's runtime opens and closes files of its own.
func openFDs(tb testing.TB) (n int) {
	tb.Helper()
	const dir = "/proc/self/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, fd := range fds {
		if what, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.HasPrefix(what, "anon_inode:[event") {
			n++
		}
	}
	if n == 0 {
		tb.Fatalf("%s shows no epoll, not even the runtime's", dir)
	}
	return n
}

// TestImmutableKeys wants each key that a running network cannot change to be
// named, and nothing of the same Apply to happen.
func TestImmutableKeys(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, blue)
	for key, change := range map[string]func(*dataplane.Network){
		"vni":         func(n *dataplane.Network) { n.VNI++ },
		"port":        func(n *dataplane.Network) { n.Port++ },
		"tap":         func(n *dataplane.Network) { n.Device = "other" },
		"mac":         func(n *dataplane.Network) { n.MAC++ },
		"mtu":         func(n *dataplane.Network) { n.MTU++ },
		"offload":     func(n *dataplane.Network) { n.Plain = true },
		"ageing":      func(n *dataplane.Network) { n.Ageing = time.Second },
		"max_entries": func(n *dataplane.Network) { n.MaxEntries++ },
		"group":       func(n *dataplane.Network) { n.Group = netip.MustParseAddr("239.1.1.1") },
	} {
		n := blue
		n.Learning = false
		change(&n)
		red := renamed(blue, "red", "vx1", 200)
		diff, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{red, n}})
		if err == nil || !diff.Empty() || !strings.Contains(err.Error(), key+" ") || !strings.Contains(err.Error(), `"blue"`) {
			t.Errorf("%s: %+v, %v", key, diff, err)
		}
	}
	if got := a.apply(blue); !got.Empty() {
		t.Errorf("afterwards the same state differs by %+v", got)
	}
}

// TestChangeableKeys wants each other key to take effect at once.
func TestChangeableKeys(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
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
	a.from(u, stranger, plainFrame(macA, macC, "hello").Data)
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
	a.datagram(u, dataplane.Datagram{From: addrC, Data: reserved(helloBack.Data)})
	a.wantDrops(
		dataplane.DropStats{Network: "blue", Direction: dataplane.Outbound, Reason: dataplane.DropVLANTagged, Count: 1},
		dataplane.DropStats{Network: "blue", Direction: dataplane.Inbound, Reason: dataplane.DropVXLANInvalidHdr, Count: 1},
		denied)
}

// TestPeerGoes wants what was learned of a peer to go with it.
func TestPeerGoes(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
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
	u := dataplanetest.NewUnderlay(t)
	n := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, n)
	for range 3 {
		a.from(u, addrB, helloBack.Data)
	}
	a.knows(macB, addrB)
	eventually(t, "all is counted", func() bool { return a.Stats().Peers[0].RxPackets == 3 })
	n.Peers = nil
	a.apply(n)
	time.Sleep(3500 * time.Millisecond) // some beats, until IDs are free
	n.Peers = []dataplane.Peer{{Address: addrC}, {Address: addrB}}
	a.apply(n)
	for _, p := range a.Stats().Peers {
		if p.Traffic != (dataplane.Traffic{}) {
			t.Errorf("a new peer has counters: %+v", p)
		}
	}
}

func TestDesiredIsChecked(t *testing.T) {
	a := bareHost(t, dataplanetest.NewUnderlay(t), addrA, 1)
	v6 := netip.MustParseAddr("2001:db8::1")
	for want, change := range map[string]func(n *dataplane.Network){
		"name is empty":            func(n *dataplane.Network) { n.Name = "" },
		"TAP name":                 func(n *dataplane.Network) { n.Device = "" },
		"1 to 15 bytes":            func(n *dataplane.Network) { n.Device = "sixteen-letters-" },
		"VNI 16777216":             func(n *dataplane.Network) { n.VNI = 1 << 24 },
		"port 0":                   func(n *dataplane.Network) { n.Port = 0 },
		"MAC 00:00:00:00:00:00":    func(n *dataplane.Network) { n.MAC = 0 },
		"MAC 01:00:5e:01:02:03":    func(n *dataplane.Network) { n.MAC = groupMAC },
		"MTU 67":                   func(n *dataplane.Network) { n.MTU = 67 },
		"TTL 0":                    func(n *dataplane.Network) { n.TTL = 0 },
		"0 learned entries":        func(n *dataplane.Network) { n.MaxEntries = 0 },
		"whole seconds":            func(n *dataplane.Network) { n.Ageing = time.Millisecond },
		"ageing -1s":               func(n *dataplane.Network) { n.Ageing = -time.Second },
		"group 192.0.2.9":          func(n *dataplane.Network) { n.Group = netip.MustParseAddr("192.0.2.9") },
		"group ff02::1":            func(n *dataplane.Network) { n.Group = netip.MustParseAddr("ff02::1") },
		"peer 2001:db8::1":         func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: v6}} },
		"peer 239.1.1.1":           func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: netip.MustParseAddr("239.1.1.1")}} },
		"peer 0.0.0.0":             func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: netip.IPv4Unspecified()}} },
		"peer invalid IP":          func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{}} },
		"own underlay address":     func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: addrA}} },
		"entry for 00:00:00:00":    func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{Peer: addrB}} },
		"TAP's own":                func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{MAC: n.MAC, Peer: addrB}} },
		"stands twice":             func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{macB, addrB}, {macB, addrB}} },
		"family":                   func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{macB, v6}} },
		`TAP vx0 belongs to "red"`: nil,
	} {
		n := testNetwork(addrA, addrB)
		nets := []dataplane.Network{renamed(n, "red", "vx1", 200), n}
		if change == nil {
			continue
		}
		change(&nets[1])
		if _, err := a.Apply(dataplane.Desired{Networks: nets}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want an error with %q", err, want)
		}
	}
	n := testNetwork(addrA, addrB)
	twice := []dataplane.Network{n, n, renamed(n, "red", "vx1", testVNI)}
	twice[1].TTL = 0
	_, err := a.Apply(dataplane.Desired{Networks: twice})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"taken", "TAP vx0 belongs", "VNI 100 on port 4789 belongs", "TTL 0"} { // all at once
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q too", err, want)
		}
	}
	if len(a.Info().Networks) != 0 {
		t.Error("something was applied")
	}
}

// TestMappedPeerIsRefused: a peer by an IPv4-mapped address is of neither
// family, and no socket of an IPv6 underlay reaches it.
func TestMappedPeerIsRefused(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	a := bareHost(t, dataplanetest.NewUnderlay(t), v6, 1)
	n := testNetwork(v6, netip.MustParseAddr("::ffff:192.0.2.2"))
	if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{n}}); err == nil {
		t.Error("it was taken")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []dataplane.Options{{}, {Underlay: netip.MustParseAddr("::ffff:192.0.2.1")}} {
		if e, err := dataplane.New(o); err == nil {
			e.Close()
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestRemoveUnderTraffic removes and adds a network while both its ends are
// busy; the edges check that nothing closed is used.
func TestRemoveUnderTraffic(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	red := renamed(blue, "red", "vx1", 200)
	a := bareHost(t, u, addrA, 2)
	a.apply(blue, red)
	b := newHost(t, u, addrB, testNetwork(addrB, addrA))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	s := flowSpec{src: macA, dst: macB, udp: true}
	for _, f := range []func(){
		func() { a.TAP("vx0").Inject(hello, s.partial(t, pattern(100))) },
		func() { a.TAP("vx1").Inject(hello) },
		func() { b.TAP("vx0").Inject(helloBack) },
		func() { a.Stats(); a.Info() },
		func() {
			if _, err := a.FDB(""); err != nil {
				t.Error(err)
			}
			if _, err := a.Flush(dataplane.Match{MAC: macB}); err != nil {
				t.Error(err)
			}
		},
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					f()
					time.Sleep(20 * time.Microsecond)
				}
			}
		})
	}
	for i := range 50 {
		changed := red
		changed.TTL = uint8(1 + i)
		a.apply(changed)
		a.apply(changed, blue)
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	b.TAP("vx0").Written()
	b.TAP("vx0").Wait(0)
	a.TAP("vx0").Inject(plainFrame(macB, macA, "at last"))
	eventually(t, "the last frame arrives", func() bool {
		return slices.ContainsFunc(b.TAP("vx0").Written(), func(f dataplanetest.Frame) bool {
			return strings.HasSuffix(string(f.Data), "at last")
		})
	})
}

// TestNoLeaks adds and removes a network many times.
func TestNoLeaks(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	start := openFDs(t)
	u := dataplanetest.NewUnderlay(t)
	edges := u.Edges(addrA)
	e, err := dataplane.New(dataplane.Options{Underlay: addrA, Workers: 2, Edges: edges})
	if err != nil {
		t.Fatal(err)
	}
	blue := testNetwork(addrA, addrB)
	red := renamed(blue, "red", "vx1", 200)
	red.Group = netip.MustParseAddr("239.1.1.1")
	red.Port = 8472
	idle := openFDs(t)
	for i := range 200 {
		for _, nets := range [][]dataplane.Network{{blue}, {blue, red}, {red}, nil} {
			if _, err := e.Apply(dataplane.Desired{Networks: nets}); err != nil {
				t.Fatal(err)
			}
		}
		if got := openFDs(t); got != idle {
			t.Fatalf("after %d rounds %d file descriptors are open, %d were before", i+1, got, idle)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if got := openFDs(t); got != start {
		t.Errorf("%d file descriptors are open, %d were before", got, start)
	}
}

func TestClose(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	u := dataplanetest.NewUnderlay(t)
	edges := u.Edges(addrA)
	e, err := dataplane.New(dataplane.Options{Underlay: addrA, Edges: edges})
	if err != nil {
		t.Fatal(err)
	}
	n := testNetwork(addrA, addrB)
	if _, err := e.Apply(dataplane.Desired{Networks: []dataplane.Network{n}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := e.Apply(dataplane.Desired{}); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("Apply after Close: %v", err)
	}
	// The eyes may still look; the edges check that nothing closed is asked.
	e.Stats()
	e.Info()
	if _, err := e.FDB(""); err != nil {
		t.Error(err)
	}
	if _, err := e.Flush(dataplane.Match{}); err != nil {
		t.Error(err)
	}
}

func TestFlushMatches(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB, addrC)
	blue.FDB = []dataplane.StaticEntry{{MAC: groupMAC, Peer: addrB}}
	red := renamed(blue, "red", "vx1", 200)
	a := newHost(t, u, addrA, blue, red)
	fill := func() {
		for _, from := range []netip.Addr{addrB, addrC} {
			for i := range 3 {
				mac := macB + encap.MAC(i)<<8 + encap.MAC(from.As4()[3])
				for _, vni := range []encap.VNI{testVNI, 200} {
					a.datagram(u, dataplane.Datagram{From: from, Data: vxlan(vni, plainFrame(macA, mac, "x").Data)})
				}
			}
		}
		eventually(t, "12 are learned", func() bool {
			s := a.Stats().Networks
			return s[0].EntriesLearned+s[1].EntriesLearned == 12
		})
	}
	first := macB + encap.MAC(addrB.As4()[3])
	for _, c := range []struct {
		m    dataplane.Match
		want int
	}{
		{dataplane.Match{}, 12},
		{dataplane.Match{Network: "red"}, 6},
		{dataplane.Match{Peer: addrC}, 6},
		{dataplane.Match{Network: "blue", Peer: addrC}, 3},
		{dataplane.Match{MAC: first}, 2},
		{dataplane.Match{MAC: first, Peer: addrC}, 0},
		{dataplane.Match{MAC: groupMAC}, 0},
		{dataplane.Match{Peer: stranger}, 0},
	} {
		fill()
		if got, err := a.Flush(c.m); got != c.want || err != nil {
			t.Errorf("Flush(%+v) = %d, %v, want %d", c.m, got, err, c.want)
		}
		entries, err := a.FDB("")
		if err != nil || len(entries) != 14-c.want {
			t.Errorf("%d entries are left, %v, want %d", len(entries), err, 14-c.want)
		}
	}
	if _, err := a.Flush(dataplane.Match{Network: "green"}); err == nil {
		t.Error("a network that is not there was flushed")
	}
	if _, err := a.FDB("green"); err == nil {
		t.Error("a network that is not there has a table")
	}
}

func TestFDBOrder(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	blue.FDB = []dataplane.StaticEntry{{macC, addrC}, {macB, addrB}}
	a := newHost(t, u, addrA, renamed(blue, "red", "vx1", 200), blue)
	got, err := a.FDB("")
	if err != nil {
		t.Fatal(err)
	}
	row := func(network string, vni encap.VNI, mac encap.MAC, peer netip.Addr) dataplane.FDBEntry {
		return dataplane.FDBEntry{Network: network, VNI: vni, MAC: mac, Peer: peer, Port: testPort, Origin: "static"}
	}
	want := []dataplane.FDBEntry{
		row("blue", 100, macB, addrB), row("blue", 100, macC, addrC),
		row("red", 200, macB, addrB), row("red", 200, macC, addrC),
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestInfo(t *testing.T) {
	a := bareHost(t, dataplanetest.NewUnderlay(t), addrA, 3)
	blue := testNetwork(addrA, addrB)
	plain := renamed(blue, "plain", "vx1", 200)
	plain.Plain = true
	a.apply(blue, plain)
	i := a.Info()
	if i.Workers != 3 || i.Underlay != addrA || i.SegmentationRefused || len(i.Sources) == 0 || len(i.Networks) != 2 {
		t.Fatalf("%+v", i)
	}
	n := i.Networks[0]
	want := dataplane.NetworkInfo{
		Network: "blue", VNI: testVNI, Port: testPort, Device: "vx0", MAC: tapMAC(addrA), MTU: testMTU, Queues: 3,
		Offloads: n.Offloads, TableBytes: n.TableBytes,
	}
	if !reflect.DeepEqual(n, want) || len(n.Offloads) == 0 || n.TableBytes < 16*blue.MaxEntries {
		t.Errorf("%+v, want %+v", n, want)
	}
	if len(i.Networks[1].Offloads) != 0 {
		t.Errorf("a plain TAP has offloads %q", i.Networks[1].Offloads)
	}
}

// TestSocketDrops wants what the kernel dropped at a full buffer to show.
func TestSocketDrops(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB))
	a.SetBuffer(0)
	for range 3 {
		a.from(u, addrB, helloBack.Data)
	}
	want := []dataplane.WireStats{{Port: testPort, SocketDropped: 3}}
	if got := a.Stats().Wire; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestStatsAreOrdered wants lists of the same order each time, and none of them
// nil: their JSON is an array.
func TestStatsAreOrdered(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	a := bareHost(t, u, addrA, 1)
	if s := a.Stats(); s.Networks == nil || s.Peers == nil || s.Drops == nil || s.Wire == nil {
		t.Errorf("%+v", s)
	}
	var nets []dataplane.Network
	for i := range 9 {
		n := renamed(testNetwork(addrA, addrC, addrB), fmt.Sprint("n", 9-i), fmt.Sprint("vx", i), encap.VNI(i))
		n.Port = uint16(5000 - i)
		nets = append(nets, n)
	}
	a.apply(nets...)
	s := a.Stats()
	if !slices.IsSortedFunc(s.Networks, func(a, b dataplane.NetworkStats) int { return strings.Compare(a.Network, b.Network) }) ||
		!slices.IsSortedFunc(s.Wire, func(a, b dataplane.WireStats) int { return int(a.Port) - int(b.Port) }) ||
		!slices.IsSortedFunc(s.Peers, func(a, b dataplane.PeerStats) int {
			return strings.Compare(a.Network+a.Peer.String(), b.Network+b.Peer.String())
		}) || len(s.Networks) != 9 || len(s.Wire) != 9 || len(s.Peers) != 18 {
		t.Errorf("%+v", s)
	}
}
