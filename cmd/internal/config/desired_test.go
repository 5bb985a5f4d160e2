package config

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"overtap/dataplane"
	"overtap/encap"
)

const full = `
[underlay]
address = "192.0.2.1"

[engine]
offload = false

[[vxlan]]
name = "blue"
vni = 100
tap = "vx-blue"
mac = "02:42:c0:00:02:01"
mtu = 1400
addresses = ["2001:db8:1::1/64"]
admit = ["192.0.2.0/24"]
group = "239.1.1.1"
tos = 8
ttl = 7
df = false
learning = false
suppress = true
ageing = "60s"
max_entries = 10
vlan = "drop"
reserved = "drop"
probe = "1500ms"

  [[vxlan.fdb]]
  mac  = "02:42:0a:00:01:05"
  peer = "192.0.2.4"

  [[vxlan.fdb]]
  mac  = "02:42:0a:00:01:04"
  peer = "192.0.2.2"

  [[vxlan.fdb]]
  mac  = "02:42:0a:00:01:06"
  peer = "192.0.2.4"

  [[vxlan.neighbor]]
  address = "10.0.1.4"
  mac     = "02:42:0a:00:01:04"

  [[vxlan.neighbor]]
  address = "2001:db8:1::4"
  mac     = "02:42:0a:00:01:04"

  [[vxlan.peer]]
  address = "192.0.2.2"

  [[vxlan.peer]]
  address = "192.0.2.3"
  flood = false

[[vxlan]]
name = "red"
vni = 101
port = 8472
mac = "02:42:c0:00:02:02"
`

func TestDesired(t *testing.T) {
	cfg := mustParse(t, full)
	got, err := cfg.Desired(1500)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := dataplane.Desired{Networks: []dataplane.Network{{
		Name: "blue", VNI: 100, Port: 4789,
		Device: "vx-blue", MAC: mustMAC(t, "02:42:c0:00:02:01"), MTU: 1400, Plain: true,
		Probe:  1500 * time.Millisecond,
		Ageing: time.Minute, MaxEntries: 10, MaxMoves: 5, MoveWindow: 180 * time.Second,
		Admit:    dataplane.Admit{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		VLANDrop: true, ReservedDrop: true,
		Group: addr("239.1.1.1"), TTL: 7, TOS: dataplane.TOS{Value: 8},
		Peers: []dataplane.Peer{
			{Address: addr("192.0.2.2"), Flood: true},
			{Address: addr("192.0.2.3")},
		},
		FDB: []dataplane.StaticEntry{
			{MAC: mustMAC(t, "02:42:0a:00:01:05"), Peer: addr("192.0.2.4")},
			{MAC: mustMAC(t, "02:42:0a:00:01:04"), Peer: addr("192.0.2.2")},
			{MAC: mustMAC(t, "02:42:0a:00:01:06"), Peer: addr("192.0.2.4")},
		},
		Suppress: true,
		Neighbors: []dataplane.Neighbor{
			{Address: addr("10.0.1.4"), MAC: mustMAC(t, "02:42:0a:00:01:04")},
			{Address: addr("2001:db8:1::4"), MAC: mustMAC(t, "02:42:0a:00:01:04")},
		},
	}, {
		Name: "red", VNI: 101, Port: 8472,
		Device: "red", MAC: mustMAC(t, "02:42:c0:00:02:02"), MTU: 1450, Plain: true,
		Probe:    10 * time.Second,
		Learning: true, Ageing: 300 * time.Second, MaxEntries: 65536, MaxMoves: 5, MoveWindow: 180 * time.Second,
		TTL: 64, TOS: dataplane.TOS{Inherit: true}, DF: true,
	}}}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Errorf("state differs (-want +got):\n%s", d)
	}

	// The engine may keep and change what it is given.
	got.Networks[0].Peers[0].Flood = false
	got.Networks[0].FDB[0].MAC = 0
	got.Networks[0].Neighbors[0].MAC = 0
	got.Networks[0].Admit.Prefixes[0] = netip.Prefix{}
	again, err := cfg.Desired(1500)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, again, compare); d != "" {
		t.Errorf("the result shares memory with the configuration (-want +got):\n%s", d)
	}
}

func TestDesiredOffload(t *testing.T) {
	d, err := mustParse(t, least).Desired(1500)
	if err != nil {
		t.Fatal(err)
	}
	if d.Networks[0].Plain {
		t.Error("plain TAP although offload is on by default")
	}
}

func TestDesiredMTU(t *testing.T) {
	const (
		v4 = "[underlay]\naddress = \"192.0.2.1\"\n"
		v6 = "[underlay]\naddress = \"2001:db8::1\"\n"
		n  = "[[vxlan]]\nname = \"blue\"\nvni = 1\n"
		a6 = "addresses = [\"2001:db8:1::1/64\"]\n"
	)
	tests := []struct {
		name     string
		text     string
		underlay encap.UnderlayMTU
		want     encap.OverlayMTU
		err      string
	}{
		{"derived over IPv4", v4 + n, 1500, 1450, ""},
		{"derived over IPv6", v6 + n, 1500, 1430, ""},
		{"derived when 0", v4 + n + "mtu = 0\n", 9000, 8950, ""},
		{"derived from a loopback", v4 + n, 65536, 65485, ""},
		{"the least", v4 + n, 118, 68, ""},
		{"as given", v4 + n + "mtu = 1000\n", 1500, 1000, ""},
		{"as given, just fitting", v6 + n + "mtu = 1430\n", 1500, 1430, ""},
		{"IPv6 inside, just fitting", v4 + n + a6, 1330, 1280, ""},
		{"too large over IPv4", v4 + n + "mtu = 1451\n", 1500, 0,
			`test.toml:6: vxlan[0].mtu (network "blue"): 1451: the underlay's MTU of 1500 leaves room for 1450; want at most that, or 0 to derive it`},
		{"too large over IPv6", v6 + n + "mtu = 1431\n", 1500, 0,
			`test.toml:6: vxlan[0].mtu (network "blue"): 1431: the underlay's MTU of 1500 leaves room for 1430; want at most that, or 0 to derive it`},
		{"underlay too small", v4 + n, 117, 0,
			`test.toml:3: vxlan[0].mtu (network "blue"): not set: no MTU fits the underlay MTU 117: want at least 118, 50 of which are VXLAN's overhead`},
		{"underlay too small for IPv6 inside", v4 + n + a6, 1329, 0,
			`test.toml:3: vxlan[0].mtu (network "blue"): not set: the underlay's MTU of 1329 leaves room for 1279, too small for the IPv6 address in addresses; want an underlay of at least 1330 (RFC 8200 section 5)`},
		{"two networks", v4 + n + "mtu = 1500\n[[vxlan]]\nname = \"red\"\nvni = 2\nmtu = 1451\n", 1500, 0,
			"test.toml:6: vxlan[0].mtu (network \"blue\"): 1500: the underlay's MTU of 1500 leaves room for 1450; want at most that, or 0 to derive it\n" +
				"test.toml:10: vxlan[1].mtu (network \"red\"): 1451: the underlay's MTU of 1500 leaves room for 1450; want at most that, or 0 to derive it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, err := mustParse(t, test.text).Desired(test.underlay)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Fatalf("want error\n%s\ngot\n%v", test.err, err)
				}
				checkErrors(t, err, []byte(test.text))
				if len(d.Networks) != 0 {
					t.Errorf("networks came with the error: %+v", d)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := d.Networks[0].MTU; got != test.want {
				t.Errorf("MTU %d, want %d", got, test.want)
			}
		})
	}
}

// TestEveryFieldHasAKey wants each field of what the engine takes to be set by some key:
// it differs from the default in one of the configurations of these tests.
func TestEveryFieldHasAKey(t *testing.T) {
	const tunnel = `
[[ipip]]
name = "tun0"
mtu = 1400
admit = "any"
check_source = true
ttl = 7
tos = 8
df = false
mss_clamp = true
  [[ipip.route]]
  prefix = "172.246.0.0/24"
  peer = "192.0.2.9"
`
	defaults := mustParse(t, least+"[[ipip]]\nname = \"tun1\"\n")
	missing := func(of reflect.Type, defaults reflect.Value, set ...reflect.Value) {
		for i := range of.NumField() {
			if !slices.ContainsFunc(set, func(v reflect.Value) bool {
				return !reflect.DeepEqual(v.Field(i).Interface(), defaults.Field(i).Interface())
			}) {
				t.Errorf("no key sets %s.%s, or none that is tested", of.Name(), of.Field(i).Name)
			}
		}
	}
	a, b := mustParse(t, everyKey).VXLAN[0].Network, mustParse(t, full).VXLAN[0].Network
	missing(reflect.TypeFor[dataplane.Network](), reflect.ValueOf(defaults.VXLAN[0].Network), reflect.ValueOf(a), reflect.ValueOf(b))
	missing(reflect.TypeFor[dataplane.Tunnel](), reflect.ValueOf(defaults.IPIP[0].Tunnel), reflect.ValueOf(mustParse(t, "[engine]\noffload = false\n"+least+tunnel).IPIP[0].Tunnel))
}
