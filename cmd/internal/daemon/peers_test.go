package daemon

import (
	"strings"
	"testing"

	"overtap/dataplane"
)

// Peers that are lost, never heard or back are logged once each, those of a
// network that change alike in one line; status names them while it lasts.
func TestPeersAreLogged(t *testing.T) {
	r, d := quick(t, twoNetworks+`
  [[vxlan.peer]]
  address = "192.0.2.3"
  [[vxlan.peer]]
  address = "192.0.2.4"
`)
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		t.Fatal(err)
	}
	logged := ""
	step := func(what string, fares map[string]dataplane.PeerState, want ...string) {
		t.Helper()
		for peer, state := range fares {
			r.engine.fare(peer, state)
		}
		for range 3 { // what does not change is not said again
			d.lookAtPeers()
		}
		text := strings.TrimPrefix(r.log.String(), logged)
		logged = r.log.String()
		if n := strings.Count(text, "\n"); n != len(want) {
			t.Errorf("%s: %d lines, want %d:\n%s", what, n, len(want), text)
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no line has %q:\n%s", what, w, text)
			}
		}
	}
	const a, b, c = "192.0.2.2", "192.0.2.3", "192.0.2.4"
	type fares = map[string]dataplane.PeerState
	step("new", fares{a: dataplane.PeerNew, b: dataplane.PeerNew, c: dataplane.PeerNew})
	step("one is there", fares{a: dataplane.PeerAlive})
	step("nothing of two", fares{b: dataplane.PeerNever, c: dataplane.PeerNever},
		`level=WARN msg="nothing was ever heard of peers: they, or the path from them, are down" network=red count=2 peers="192.0.2.3 192.0.2.4"`)
	if text := strings.Join(d.warnTraffic(r.engine.Stats()), "\n"); !strings.Contains(text,
		"network red: nothing was ever heard of peers: 192.0.2.3, 192.0.2.4: ") || !strings.Contains(text, "drops UDP port 4789") {
		t.Errorf("status: %s", text)
	}
	step("a kernel device speaks", fares{b: dataplane.PeerHeard},
		`level=INFO msg="peers were heard for the first time" network=red count=1 peers=192.0.2.3`)
	step("it has nothing to say", fares{b: dataplane.PeerSilent})
	step("one goes", fares{a: dataplane.PeerLost},
		`level=WARN msg="peers do not answer probes any more: they or the path to them are down" network=blue count=1 peers=192.0.2.2`)
	step("the sockets are opened again", fares{a: dataplane.PeerNew})
	step("it is silent still", fares{a: dataplane.PeerNever})
	step("it is back", fares{a: dataplane.PeerAlive},
		`level=INFO msg="peers answer again" network=blue count=1 peers=192.0.2.2`)
	step("it goes again", fares{a: dataplane.PeerLost}, `network=blue count=1 peers=192.0.2.2`)
	// One that is taken out of the configuration is not back.
	d.base.Networks = nil
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		t.Fatal(err)
	}
	step("no peer is left", nil)
}
