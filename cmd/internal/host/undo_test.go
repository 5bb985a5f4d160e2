package host

import (
	"encoding/json"
	"net/netip"
	"testing"
)

// TestUndoKeys reads steps as journals hold them and finds each by the key of the step
// that the code makes, and by no other.
func TestUndoKeys(t *testing.T) {
	prefix, via := netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr("10.0.0.1")
	cases := []struct {
		line string
		step Step
	}{
		{`{"do":"remove bridge","link":"br0","index":7}`, Step{Do: removeBridge, Link: "br0"}},
		{`{"do":"remove bridge","link":"br1"}`, Step{Do: removeBridge, Link: "br1"}},
		{`{"do":"take down","link":"br0","index":7}`, Step{Do: takeDown, Link: "br0"}},
		{`{"do":"reset MTU","link":"br0","mtu":1500}`, Step{Do: resetMTU, Link: "br0", MTU: 9000}},
		{`{"do":"remove address","link":"br0","address":"10.1.0.0/24"}`, Step{Do: removeAddress, Link: "br0", Address: prefix}},
		{`{"do":"remove address","link":"br0","address":"10.2.0.0/24"}`, Step{Do: removeAddress, Link: "br0", Address: netip.MustParsePrefix("10.2.0.0/24")}},
		{`{"do":"remove address","link":"br1","address":"10.1.0.0/24"}`, Step{Do: removeAddress, Link: "br1", Address: prefix}},
		{`{"do":"release port","link":"eth1","bridge":"br0"}`, Step{Do: releasePort, Link: "eth1"}},
		{`{"do":"give back","link":"eth1"}`, Step{Do: restoreAddresses, Link: "eth1", Moved: new(movedAddresses)}},
		{`{"do":"remove route","link":"br0","route":{"Prefix":"10.1.0.0/24","Via":"10.0.0.1"}}`, Step{Do: removeRoute, Link: "tun0", Route: Route{Prefix: prefix, Via: via}}},
		{`{"do":"remove route","route":{"Prefix":"10.1.0.0/24","Via":""}}`, Step{Do: removeRoute, Route: Route{Prefix: prefix}}},
		{`{"do":"remove neighbours","link":"br0","network":"blue"}`, Step{Do: removeNeighbors, Link: "br0", Network: "blue"}},
		{`{"do":"remove neighbours","link":"br0","network":"red"}`, Step{Do: removeNeighbors, Link: "br0", Network: "red"}},
		{`{"do":"remove neighbours","link":"br0","network":"red","earlier":true}`, Step{Do: removeNeighbors, Link: "br0", Network: "red", Earlier: true}},
	}
	var u undoLog
	for _, c := range cases {
		var s Step
		if err := json.Unmarshal([]byte(c.line), &s); err != nil {
			t.Fatalf("%s: %v", c.line, err)
		}
		u.inherit([]Step{s})
	}
	if len(u.steps) != len(cases) {
		t.Errorf("%d steps on the list, want %d", len(u.steps), len(cases))
	}
	for i, c := range cases {
		if got := u.get(c.step.key()); got != &u.steps[i] {
			t.Errorf("%s is not found by the key of %+v", c.line, c.step)
		}
		u.keep(c.step)
		if u.steps[i].inherited {
			t.Errorf("%s is still a step of the daemon before", c.line)
		}
	}
	u.drop(func(s *Step) bool { return s.Link == "br0" })
	for i := range u.steps {
		if s := &u.steps[i]; u.get(s.key()) != s || s.Link == "br0" {
			t.Errorf("%v is not found after others were dropped", s)
		}
	}
}
