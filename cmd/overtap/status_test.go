package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// STATE says which networks the problems are of.
func TestStatusState(t *testing.T) {
	var all []control.NetworkStatus
	for _, n := range []control.NetworkStatus{{}, {Problem: true}, {Problem: true, NetworkInfo: dataplane.NetworkInfo{Lost: true}}} {
		n.Kind = dataplane.KindVXLAN
		all = append(all, n)
	}
	var got []string
	for _, r := range networkTable(all).rows {
		got = append(got, r[5].text)
	}
	if want := []string{"up", "problem", "lost"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A daemon that waits for the underlay has no MTU, workers or uplink to show.
func TestStatusWaiting(t *testing.T) {
	var b strings.Builder
	err := printStatus(&b, control.Status{
		Version: "v1.2.3", PID: 7, Problems: []string{"waiting for the underlay"}, Config: "a.toml",
		Underlay: control.Underlay{Address: netip.MustParseAddr("192.0.2.9")},
	}, palette(false))
	const want = `overtap v1.2.3, pid 7: not ready, up 0s
          waiting for the underlay
config    a.toml
underlay  192.0.2.9
`
	if err != nil || b.String() != want {
		t.Errorf("%v, got:\n%s", err, &b)
	}
}
