package dataplane_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
)

// read returns the next changes as text.
func read(t *testing.T, w *dataplane.FDBWatch, want int) (got []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d changes", want), func() bool {
		changes, lost := w.Read()
		if lost != 0 {
			t.Errorf("%d lost", lost)
		}
		for _, c := range changes {
			got = append(got, fmt.Sprintf("%s %s %s %v", c.Network, c.Event, c.MAC, c.To))
		}
		return len(got) >= want
	})
	return got
}

// A watch reports a network that comes later from its first entry on, and of no
// other than it was asked for.
func TestWatchFDBFollows(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a := newHost(t, u, addrA, testNetwork(addrA, addrB))
	watch := func(name string) *dataplane.FDBWatch {
		t.Helper()
		w, err := a.WatchFDB(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	all, blue := watch(""), watch("blue")
	if _, err := a.WatchFDB("red"); err == nil {
		t.Error("a network that is not there is watched")
	}
	red := renamed(testNetwork(addrA, addrB), "red", "vx1", 200)
	red.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: addrB}}
	a.apply(testNetwork(addrA, addrB), red)
	a.datagram(u, netio.Datagram{From: addrB, Data: vxlan(200, plainFrame(macA, macB, "x").Data)})
	eventually(t, "learned", func() bool { return a.Stats().Networks[1].EntriesLearned == 1 })
	want := []string{
		fmt.Sprintf("red add %s %v", macC, addrB),
		fmt.Sprintf("red learn %s %v", macB, addrB),
	}
	if got := read(t, all, 2); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if changes, _ := blue.Read(); len(changes) != 0 {
		t.Errorf("of another network: %+v", changes)
	}

	// It goes, and comes again.
	a.apply(testNetwork(addrA, addrB))
	a.apply(testNetwork(addrA, addrB), red)
	if got := read(t, all, 1); !slices.Equal(got, want[:1]) {
		t.Errorf("%q, want %q", got, want[:1])
	}

	// One that cannot be opened is not followed.
	green := renamed(red, "green", "vx2", 300)
	green.FDB = append(green.FDB, dataplane.StaticEntry{MAC: macC, Peer: netip.Addr{}})
	if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{testNetwork(addrA, addrB), red, green}}); err == nil {
		t.Error("a wrong network was taken")
	}
	if changes, _ := all.Read(); len(changes) != 0 {
		t.Errorf("of a network that never was: %+v", changes)
	}
}
