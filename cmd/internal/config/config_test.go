package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.IgnoreUnexported(VXLAN{}, Config{}),
	cmpopts.IgnoreFields(Config{}, "Warnings"),
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func mustMAC(t *testing.T, s string) encap.MAC {
	t.Helper()
	m, err := encap.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const least = `
[underlay]
address = "192.0.2.1"

[[vxlan]]
name = "blue"
vni = 100
`

func TestDefaults(t *testing.T) {
	want := &Config{
		Underlay: Underlay{Address: netip.MustParseAddr("192.0.2.1")},
		Control:  Control{Socket: "/run/overtap/control.sock", Metrics: "127.0.0.1:9472", MetricsDefault: true},
		Engine:   Engine{Workers: 0, SourcePorts: 32, Offload: true, TunnelGSO: true, Confine: true},
		Log:      Log{Level: slog.LevelInfo, Format: LogText},
		VXLAN: []VXLAN{{
			Network: dataplane.Network{
				Name: "blue", VNI: 100, Port: 4789, Device: "blue", MAC: mustMAC(t, "aa:a4:0e:20:d1:34"),
				Learning: true, Ageing: 300 * time.Second, MaxEntries: 65536, MaxMoves: 5, MoveWindow: 180 * time.Second,
				TTL: 64, TOS: dataplane.TOS{Inherit: true}, DF: true, Probe: 10 * time.Second,
			},
		}},
	}
	if d := cmp.Diff(want, mustParse(t, least), compare); d != "" {
		t.Errorf("defaults differ (-want +got):\n%s", d)
	}
}

const everyKey = `
[underlay]
address = "2001:db8::1"
device  = "eth0.100"

[control]
socket  = "/tmp/o.sock"
metrics = "[::1]:80"

[engine]
workers = 256
source_ports = 1
offload = false
tunnel_gso = false
confine = false

[offload]
tap_gso = "off"
tap_uso = "auto"
udp_segment = "off"
udp_gro = "auto"
join_udp = "off"

[log]
level = "warn"
format = "json"

[[vxlan]]
name = "a-network_with.a-long-name"
vni = 0xffffff
port = 8472
tap = "vx-blue"
mac = "02:42:C0:00:02:01"
mtu = 1280
bridge = "br-blue"
ports = ["eth1", "eth2"]
ports_take_addresses = true
addresses = ["198.51.100.1/24", "2001:db8:1::1/64"]
learning = false
ageing = "0s"
max_entries = 16777216
max_entries_per_peer = 1000
max_moves = 0
move_window = "2m"
storm_broadcast = 1
storm_unknown_unicast = 2
storm_multicast = 3
peer_storm_broadcast = 4
peer_storm_multicast = 100000000
admit = ["2001:db8::/64", "2001:db8:2::/48"]
suppress = false
group = "ff05::100"
ttl = 255
tos = 0
df = false
mss_clamp = true
vlan = "drop"
reserved = "drop"
bridge_control = "pass"
udp6zerocsumrx = true
probe = "0s"

  [[vxlan.peer]]
  address = "2001:db8::2"

  [[vxlan.peer]]
  address = "2001:db8::3"
  flood = false
  udp6zerocsumrx = false
  macs = ["02:42:0a:00:01:05"]

  [[vxlan.fdb]]
  mac  = "02:42:0a:00:01:04"
  peer = "2001:db8::3"

  [[vxlan.fdb]]
  mac  = "01:80:c2:00:00:02"
  peer = "2001:db8::3"

  [[vxlan.fdb]]
  mac  = "01:00:5e:01:01:01"
  peer = "2001:db8::4"

  [[vxlan.route]]
  prefix = "172.246.0.0/24"
  via    = "172.246.0.0"

  [[vxlan.route]]
  prefix = "2001:db8:9::/64"
  via    = "fe80::2"

[[route]]
prefix = "172.248.0.0/24"
via    = "192.0.2.2"

[[vxlan]]
name = "red"
vni = 0
admit = "any"
bridge = ""
group = ""
tos = 0xb8
`

func TestEveryKey(t *testing.T) {
	got := mustParse(t, everyKey)
	addr := netip.MustParseAddr
	want := &Config{
		Underlay: Underlay{Address: addr("2001:db8::1"), Device: "eth0.100"},
		Control:  Control{Socket: "/tmp/o.sock", Metrics: "[::1]:80"},
		Engine:   Engine{Workers: 256, SourcePorts: 1},
		Offload:  netio.Offloads{NoTAPGSO: true, NoUDPSegment: true, NoJoinUDP: true},
		Log:      Log{Level: slog.LevelWarn, Format: LogJSON},
		VXLAN: []VXLAN{{
			Network: dataplane.Network{
				Name: "a-network_with.a-long-name", VNI: encap.MaxVNI, Port: 8472, Plain: true,
				Device: "vx-blue", MAC: mustMAC(t, "02:42:c0:00:02:01"), MTU: 1280,
				MaxEntries: 1 << 24, MaxPerPeer: 1000, MoveWindow: 2 * time.Minute, ClampMSS: true,
				Storm:     dataplane.Storm{Broadcast: 1, UnknownUnicast: 2, Multicast: 3},
				PeerStorm: dataplane.Storm{Broadcast: 4, Multicast: 100_000_000},
				Admit:     dataplane.Admit{Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("2001:db8:2::/48")}},
				Group:     addr("ff05::100"), TTL: 255, VLANDrop: true, ReservedDrop: true, BridgeControl: true,
				ZeroChecksum: netio.ZeroChecksum{Accept: true, Except: []netip.Addr{addr("2001:db8::3")}},
				Peers:        []dataplane.Peer{{Address: addr("2001:db8::2"), Flood: true}, {Address: addr("2001:db8::3"), MACs: []encap.MAC{mustMAC(t, "02:42:0a:00:01:05")}}},
				FDB: []dataplane.StaticEntry{
					{MAC: mustMAC(t, "02:42:0a:00:01:04"), Peer: addr("2001:db8::3")},
					{MAC: mustMAC(t, "01:80:c2:00:00:02"), Peer: addr("2001:db8::3")},
					{MAC: mustMAC(t, "01:00:5e:01:01:01"), Peer: addr("2001:db8::4")},
				},
			},
			Bridge: "br-blue", Ports: []string{"eth1", "eth2"}, PortsTake: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")},
			Routes: []Route{
				{Prefix: netip.MustParsePrefix("172.246.0.0/24"), Via: addr("172.246.0.0")},
				{Prefix: netip.MustParsePrefix("2001:db8:9::/64"), Via: addr("fe80::2")},
			},
		}, {
			Network: dataplane.Network{
				Name: "red", VNI: 0, Port: 4789, Device: "red", Plain: true, MAC: defaultMAC("red", addr("2001:db8::1")),
				Learning: true, Ageing: 300 * time.Second, MaxEntries: 65536, MaxMoves: 5, MoveWindow: 180 * time.Second,
				Admit: dataplane.Admit{Any: true}, TTL: 64, TOS: dataplane.TOS{Value: 0xb8}, DF: true, Probe: 10 * time.Second,
			},
		}},
		Routes: []Route{{Prefix: netip.MustParsePrefix("172.248.0.0/24"), Via: addr("192.0.2.2")}},
	}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Errorf("configuration differs (-want +got):\n%s", d)
	}
}

// Each key of [offload] switches one off, and engine.offload = false all of them.
func TestOffloads(t *testing.T) {
	all := netio.Offloads{NoTAPGSO: true, NoTAPUSO: true, NoUDPSegment: true, NoUDPGRO: true, NoJoinUDP: true}
	for text, want := range map[string]netio.Offloads{
		"":                            {},
		"[engine]\noffload = false\n": all,
		"[engine]\noffload = false\n[offload]\ntap_gso = \"auto\"\n": all,
		"[offload]\ntap_gso = \"off\"\n":                             {NoTAPGSO: true},
		"[offload]\ntap_uso = \"off\"\n":                             {NoTAPUSO: true},
		"[offload]\nudp_segment = \"off\"\n":                         {NoUDPSegment: true},
		"[offload]\nudp_gro = \"off\"\n":                             {NoUDPGRO: true},
		"[offload]\njoin_udp = \"off\"\nudp_gro = \"auto\"\n":        {NoJoinUDP: true},
	} {
		if got := mustParse(t, least+text).Offloads(); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

// TestAccepted holds what is unusual but right.
func TestAccepted(t *testing.T) {
	for name, text := range map[string]string{
		"no networks":                 "[underlay]\naddress = \"192.0.2.1\"\n",
		"metrics off":                 least + "[control]\nmetrics = \"\"\n",
		"metrics on all addresses":    least + "[control]\nmetrics = \":9472\"\n",
		"metrics on a name":           least + "[control]\nmetrics = \"localhost:9472\"\n",
		"one VNI on two ports":        least + "[[vxlan]]\nname = \"red\"\nvni = 100\nport = 8472\n",
		"one bridge for two networks": least + "bridge = \"br0\"\n[[vxlan]]\nname = \"red\"\nvni = 101\nbridge = \"br0\"\n",
		"a /32 of the network itself": least + "addresses = [\"198.51.100.0/32\"]\n",
		"a static broadcast entry":    least + "[[vxlan.fdb]]\nmac = \"ff:ff:ff:ff:ff:ff\"\npeer = \"192.0.2.2\"\n",
		"a group with a listed peer":  least + "group = \"239.1.1.1\"\n[[vxlan.peer]]\naddress = \"192.0.2.2\"\n",
		"a group with a static entry": least + "group = \"239.1.1.1\"\n[[vxlan.fdb]]\nmac = \"02:00:00:00:00:01\"\npeer = \"192.0.2.2\"\n",
		"a group open to a prefix":    least + "group = \"239.1.1.1\"\nadmit = [\"192.0.2.0/24\"]\n",
		"ageing in minutes":           least + "ageing = \"1h30m\"\n",
		"empty arrays of tables":      least + "peer = []\nfdb = []\nneighbor = []\nroute = []\n",
		"ports that take nothing":     least + "ports_take_addresses = false\n",
		"a /32 and a route to itself": least + "addresses = [\"172.245.0.0/32\"]\n[[vxlan.route]]\nprefix = \"172.246.0.0/24\"\nvia = \"172.246.0.0\"\n",
		"a port of another's bridge":  least + "bridge = \"br0\"\nports = [\"eth1\"]\n[[vxlan]]\nname = \"red\"\nvni = 101\nbridge = \"br0\"\nports = [\"eth2\"]\n",
		"inline tables":               "underlay.address = \"192.0.2.1\"\nvxlan = [{ name = \"blue\", vni = 1, peer = [{ address = \"192.0.2.2\" }] }]\n",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := mustParse(t, text)
			if _, err := cfg.Desired(1500); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDefaultMAC(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	seen := make(map[encap.MAC]bool)
	for _, m := range []encap.MAC{defaultMAC("blue", a), defaultMAC("blue", b), defaultMAC("red", a), defaultMAC("red", b)} {
		if !m.IsSource() || m>>41&1 == 0 {
			t.Errorf("%v is not a locally administered unicast address", m)
		}
		if seen[m] {
			t.Errorf("%v stands for two networks or hosts", m)
		}
		seen[m] = true
	}
	for i := range 256 {
		if m := defaultMAC(strings.Repeat("x", i), a); !m.IsSource() || m>>41&1 == 0 {
			t.Errorf("%v is not a locally administered unicast address", m)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "overtap.toml")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte(least), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte(least+"df = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	var es Errors
	if !errors.As(err, &es) || len(es) != 1 || es[0].File != path {
		t.Fatalf("want one error in %s, got %v", path, err)
	}
	want := Error{File: path, Line: 8, Key: "vxlan[0].df", Network: "blue", Value: "1", Problem: "is an integer; want true or false"}
	if es[0] != want {
		t.Errorf("want %+v, got %+v", want, es[0])
	}
}

// TestEncoding checks texts that cannot stand in a testdata file.
func TestEncoding(t *testing.T) {
	for name, text := range map[string]string{
		"UTF-16":            "\xff\xfea\x00=\x001\x00",
		"UTF-16 mark":       "\xff\xfe[underlay]\naddress = \"192.0.2.1\"\n",
		"invalid UTF-8":     "[underlay]\naddress = \"192.0.2.1\xff\"\n",
		"control":           "[underlay]\naddress = \"192.0.2.1\x1b[2J\"\n",
		"cut within a rune": "[underlay]\naddress = \"" + strings.Repeat("ü", 100) + "\"\n",
		"printable only":    "[underlay]\naddress = \"192.0.2.1\u009b2J\u202e\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("test.toml", []byte(text))
			if err == nil {
				t.Fatal("accepted")
			}
			checkErrors(t, err, []byte(text))
			if strings.ContainsAny(err.Error(), "\u009b\u202e\x1b") {
				t.Errorf("the terminal would take harm: %q", err)
			}
		})
	}
}
