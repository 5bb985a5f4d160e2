package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const beforeChange = `
[underlay]
address = "192.0.2.1"

[[vxlan]]
name = "blue"
vni = 100
ageing = "300s"
addresses = ["198.51.100.1/24"]
  [[vxlan.peer]]
  address = "192.0.2.2"
  [[vxlan.peer]]
  address = "192.0.2.3"
  [[vxlan.fdb]]
  mac = "02:42:0a:00:01:04"
  peer = "192.0.2.2"

[[vxlan]]
name = "red"
vni = 101

[[ipip]]
name = "tun0"
  [[ipip.route]]
  prefix = "172.246.0.0/24"
  peer = "192.0.2.9"
`

const afterChange = `
[underlay]
address = "192.0.2.1"
[engine]
workers = 2
[[ipip]]
name = "tun0"
  [[ipip.route]]
  prefix = "172.246.0.0/24"
  peer = "192.0.2.8"
[[vxlan]]
name = "green"
vni = 102
[[vxlan]]
name = "blue"
vni = 100
ageing = "5m"
probe = "1s"
addresses = ["198.51.100.1/24", "2001:db8:1::1/64"]
  [[vxlan.peer]]
  address = "192.0.2.3"
  flood = false
  [[vxlan.peer]]
  address = "192.0.2.4"
  [[vxlan.fdb]]
  mac = "02:42:0A:00:01:04"
  peer = "192.0.2.2"
`

// What changed is named from what to what, however the elements are ordered and
// the values written.
func TestChanges(t *testing.T) {
	was, next := mustParse(t, beforeChange), mustParse(t, afterChange)
	got := was.Changes(next)
	want := []Change{
		{Key: "engine.workers", Line: 5, To: "2"},
		{Network: "tun0", Key: "route[172.246.0.0/24].peer", Line: 10, From: `"192.0.2.9"`, To: `"192.0.2.8"`},
		{Network: "green", Line: 11, To: `{name = "green", vni = 102}`},
		{Network: "blue", Key: "probe", Line: 18, To: `"1s"`},
		{Network: "blue", Key: "addresses", Line: 19, From: `["198.51.100.1/24"]`, To: `["198.51.100.1/24", "2001:db8:1::1/64"]`},
		{Network: "blue", Key: "peer[192.0.2.3].flood", Line: 22, To: "false"},
		{Network: "blue", Key: "peer[192.0.2.4]", Line: 23, To: `{address = "192.0.2.4"}`},
		{Network: "red", From: `{name = "red", vni = 101}`}, // those that are gone come last
		{Network: "blue", Key: "peer[192.0.2.2]", From: `{address = "192.0.2.2"}`},
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Change{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if all := next.Changes(mustParse(t, afterChange)); len(all) != 0 {
		t.Errorf("the same file: %+v", all)
	}
	for i := range got {
		if got[i].Key != "probe" {
			continue
		}
		if e := got[i].At("f.toml", "no"); e.Error() != `f.toml:18: vxlan[1].probe (network "blue"): "1s": no` {
			t.Errorf("as a mistake: %v", e)
		}
		if s := got[i].String(); s != `probe: not set → "1s"` {
			t.Errorf("as a line: %s", s)
		}
	}
}
