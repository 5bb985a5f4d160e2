package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// threeSites makes a (overtap), b and c (kernel), with packet sockets in their
// containers.
func threeSites(t *testing.T) (d *daemon, a, b, c *netlab.Site, ears map[*netlab.Site]*raw) {
	t.Helper()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	for _, s := range sites[1:] {
		kernel.end(t, s, blue(s, sites...), sites)
	}
	d = start(t, sites[0].Host, at(sites[0], blue(sites[0], sites...)))
	return d, sites[0], sites[1], sites[2], listen(t, sites)
}

// Each end learns where the other's containers are, and shows it.
func TestBothEndsLearn(t *testing.T) {
	t.Parallel()
	d, a, b, _, _ := threeSites(t)
	if out := d.verb("fdb", "show", "--json", "--mac", "02:42:00:00:00:99"); strings.TrimSpace(out) != "[]" {
		t.Errorf("no entry is shown as %q, want []", out)
	}
	for _, f := range flows(a, b) {
		f.pings(t)
	}

	seen := must[[]netlab.FDBEntry](t)(b.Host.KernelFDB(netlab.SiteVXLAN))
	want := netlab.FDBEntry{MAC: a.MAC, Peer: a.Underlay}
	if !slices.Contains(seen, want) {
		t.Errorf("the kernel's bridge fdb lacks %+v: %+v", want, seen)
	}

	e, ok := d.entry("blue", b.MAC)
	age := e.Age
	e.Age = 0
	if want := (dataplane.FDBEntry{
		Network: "blue", VNI: 100, MAC: b.MAC, Peer: b.Underlay, Port: 4789, Origin: "learned",
	}); !ok || e != want || age > 60 {
		t.Errorf("entry of the container behind the kernel: %+v aged %d s, want %+v", e, age, want)
	}
	var objects []map[string]any
	check(t, json.Unmarshal([]byte(d.verb("fdb", "show", "--json", "--mac", b.MAC.String())), &objects))
	keys := slices.Sorted(maps.Keys(objects[0]))
	if want := []string{"age_seconds", "mac", "network", "origin", "peer", "port", "vni"}; !slices.Equal(keys, want) {
		t.Errorf("keys of an entry: %v, want %v", keys, want)
	}
	if _, ok := d.entry("blue", a.MAC); ok {
		t.Error("the container of our own side is shown as an entry")
	}
	for _, p := range d.stats().Peers {
		if p.Peer == b.Underlay && (p.TxPackets == 0 || p.RxPackets == 0 || p.Learned || !p.Flood) {
			t.Errorf("peer b: %+v", p)
		}
	}
}

// The verbs change the table of the running daemon, static entries outrank what
// is learned, and what was learned moves at once.
func TestForwardingTableVerbs(t *testing.T) {
	t.Parallel()
	const station encap.MAC = 0x0242_0000_0077
	d, a, b, c, ears := threeSites(t)
	n := 0
	// speak sends a frame with the station's address from a site to a.
	speak := func(from *netlab.Site, arrives int) {
		t.Helper()
		n++
		frame := ethernet(a.MAC, station, nil, etherTest, marked(60, "%d", n))
		ears[from].send(frame)
		if got := ears[a].arrivals(arrives, same(frame)); len(got) != arrives {
			t.Errorf("from %s: %d frames arrived, want %d", from.Host.Name(), len(got), arrives)
		}
	}
	// called sends a frame to the station from a, and looks who gets it.
	called := func(want ...*netlab.Site) {
		t.Helper()
		n++
		frame := ethernet(station, a.MAC, nil, etherTest, marked(60, "%d", n))
		ears[a].send(frame)
		for _, s := range []*netlab.Site{b, c} {
			copies := 0
			if slices.Contains(want, s) {
				copies = 1
			}
			if got := ears[s].arrivals(copies, same(frame)); len(got) != copies {
				t.Errorf("to the station: %d frames came to %s, want %d", len(got), s.Host.Name(), copies)
			}
		}
	}
	is := func(origin string, peer netip.Addr) {
		t.Helper()
		if e, _ := d.entry("blue", station); e.Origin != origin || e.Peer != peer {
			t.Errorf("entry %+v, want %s by %v", e, origin, peer)
		}
	}
	refuses := func(want string, args ...string) {
		t.Helper()
		if _, err := d.try(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error with %q", args, err, want)
		}
	}

	called(b, c) // unknown
	speak(b, 1)
	is("learned", b.Underlay)
	called(b)
	speak(c, 1) // it moved
	is("learned", c.Underlay)
	called(c)
	if got := d.stats().Networks[0].LearnMoved; got != 1 {
		t.Errorf("%d moves counted, want 1", got)
	}

	d.verb("fdb", "add", "--network", "blue", station.String(), b.Underlay.String())
	is("static", b.Underlay)
	speak(b, 1)
	speak(c, 0)
	is("static", b.Underlay)
	called(b)
	if got := d.drops("blue", dataplane.Inbound, dataplane.DropVXLANEntryExists); got != 1 {
		t.Errorf("%d counted as vxlan_entry_exists, want 1", got)
	}
	if out := d.verb("fdb", "flush", "--mac", station.String()); !strings.HasPrefix(out, "0 ") {
		t.Errorf("flushing a static entry: %q", out)
	}
	is("static", b.Underlay)

	d.verb("fdb", "del", station.String())
	is("", netip.Addr{})
	called(b, c)
	speak(c, 1)
	is("learned", c.Underlay)
	if out := d.verb("fdb", "flush", "--mac", station.String()); out != "1 entry flushed\n" {
		t.Errorf("flush: %q", out)
	}
	is("", netip.Addr{})
	speak(c, 1)
	d.verb("fdb", "flush", "--network", "blue", "--peer", c.Underlay.String())
	is("", netip.Addr{})
	speak(c, 1)
	d.verb("fdb", "del", "--network", "blue", station.String())
	is("", netip.Addr{})

	refuses("no entry", "fdb", "del", station.String())
	refuses(`no network "green"`, "fdb", "show", "--network", "green")
	refuses("own underlay address", "fdb", "add", station.String(), a.Underlay.String())
	for _, f := range flows(a, b) {
		f.ping(t, netlab.PingOptions{})
	}
}

// Entries of the configuration stand from the start, and only there.
func TestConfiguredEntries(t *testing.T) {
	t.Parallel()
	const station encap.MAC = 0x0242_0000_0077
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	a, b, c := sites[0], sites[1], sites[2]
	for _, s := range sites[1:] {
		kernel.end(t, s, blue(s, sites...), sites)
	}
	n := blue(a, a, b)
	conf := at(a, n)
	conf.last = fmt.Sprintf("[[vxlan.fdb]]\nmac = %q\npeer = %q\n", station, c.Underlay)
	d := start(t, a.Host, conf)
	ears := listen(t, sites)

	// Named by the entry alone, c gets what is for the station, but no flood.
	toStation := ethernet(station, a.MAC, nil, etherTest, marked(60, "to the station"))
	toAll := ethernet(encap.BroadcastMAC, a.MAC, nil, etherTest, marked(60, "to all"))
	ears[a].send(toStation, toAll)
	for s, want := range map[*netlab.Site][]byte{b: toAll, c: toStation} {
		got := ears[s].arrivals(1, func(f seen) bool { return f.src() == a.MAC && f.etherType() == etherTest })
		if len(got) != 1 || !same(want)(got[0]) {
			t.Errorf("%d frames came to %s, want 1 and the right one", len(got), s.Host.Name())
		}
	}
	if _, err := d.try("fdb", "del", station.String()); err == nil || !strings.Contains(err.Error(), "belongs to the configuration") {
		t.Errorf("deleting a configured entry: %v", err)
	}
}
