package daemon

import (
	"strings"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// The log has the first frozen MAC at once and of those that follow
// together, of each freeze once.
func TestFrozenIsTold(t *testing.T) {
	r, d := quick(t, twoNetworks)
	d.frozenLog.every = time.Hour
	freeze := func(network string, mac encap.MAC, count int) {
		t.Helper()
		ev := dataplane.Event{Kind: dataplane.MACsFrozen, Network: network, MAC: 0x020000000000 + mac, Count: count}
		if err := d.handleEvent(ev); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(want ...string) {
		t.Helper()
		got := strings.Count(r.log.String(), "move too often")
		if got != len(want) {
			t.Errorf("logged %d times, want %d:\n%s", got, len(want), r.log)
		}
		for _, w := range want {
			if !strings.Contains(r.log.String(), w) {
				t.Errorf("no line has %q:\n%s", w, r.log)
			}
		}
	}
	first, red := "network=blue mac=02:00:00:00:00:01 count=1", "network=red mac=02:00:00:00:00:04 count=16"
	freeze("blue", 1, 1)
	freeze("blue", 2, 1)
	freeze("blue", 3, 2)
	freeze("red", 4, 16)
	d.logFrozen()
	lines(first, red)
	d.frozenLog.every = 0
	d.logFrozen()
	d.logFrozen()
	lines(first, red, "network=blue mac=02:00:00:00:00:02 count=3")
}

// That the guard lost count of moves is said by the log, with the freeze, and by status.
func TestMovesSaturatedIsSaid(t *testing.T) {
	r, d := quick(t, twoNetworks)
	d.frozenLog.every = 0
	for _, saturated := range []bool{false, true} {
		if err := d.handleEvent(dataplane.Event{Kind: dataplane.MACsFrozen, Network: "blue", MAC: 0x020000000001, Count: 1, Saturated: saturated}); err != nil {
			t.Fatal(err)
		}
		const line = "more MACs move between hosts than are counted"
		if got := strings.Contains(r.log.String(), line); got != saturated {
			t.Errorf("saturated %t, and the log says so: %t", saturated, got)
		}
		warnings := strings.Join(d.warnTraffic(dataplane.Stats{Networks: []dataplane.NetworkStats{{Network: "blue", MovesSaturated: saturated}}}), "\n")
		if got := strings.Contains(warnings, "network blue: "+line); got != saturated {
			t.Errorf("saturated %t, and status says %q", saturated, warnings)
		}
	}
}
