package daemon

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
)

// A configuration with every table, and another value for every key.
const referenceTables = `[underlay] address="192.0.2.1"
[control]
[engine]
[offload]
[log]
[cluster] node="a" key_file="/k"
[[vxlan]] name="blue" vni=100 bridge="br0" ports=["eth1"] subnet="10.7.0.0/16"
[[vxlan.peer]] address="192.0.2.2"
[[vxlan.fdb]] mac="02:42:0a:00:01:04" peer="192.0.2.2"
[[vxlan.neighbor]] address="10.0.1.4" mac="02:42:0a:00:01:04"
[[vxlan.route]] prefix="172.246.0.0/24" via="172.246.0.0"
[[ipip]] name="tun0"
[[ipip.route]] prefix="172.247.0.0/24" peer="192.0.2.2"
[[route]] prefix="172.248.0.0/24" via="192.0.2.2"`

var otherValues = map[string]string{
	"underlay.address": `"192.0.2.9"`, "underlay.device": `"eth0"`,
	"control.socket": `"/run/other.sock"`, "control.metrics": `""`,
	"engine.workers": "1", "engine.source_ports": "1", "engine.offload": "false", "engine.tunnel_gso": "false", "engine.confine": "false",
	"offload.tap_gso": `"off"`, "offload.tap_uso": `"off"`, "offload.udp_segment": `"off"`, "offload.udp_gro": `"off"`, "offload.join_udp": `"off"`,
	"log.level": `"debug"`, "log.format": `"json"`,
	"vxlan.name": `"red"`, "vxlan.vni": "101", "vxlan.port": "8472", "vxlan.tap": `"vx9"`, "vxlan.mac": `"02:42:c0:00:02:09"`,
	"vxlan.mtu": "1400", "vxlan.bridge": `"br1"`, "vxlan.ports": `["eth2"]`, "vxlan.ports_take_addresses": "true",
	"vxlan.addresses": `["198.51.100.1/24"]`, "vxlan.learning": "false", "vxlan.ageing": `"10s"`, "vxlan.max_entries": "1000",
	"vxlan.max_entries_per_peer": "10", "vxlan.max_moves": "9", "vxlan.move_window": `"10s"`,
	"vxlan.storm_broadcast": "9", "vxlan.storm_unknown_unicast": "9", "vxlan.storm_multicast": "9",
	"vxlan.peer_storm_broadcast": "9", "vxlan.peer_storm_multicast": "9",
	"vxlan.admit": `"any"`, "vxlan.suppress": "true", "vxlan.group": `"239.1.1.1"`, "vxlan.ttl": "9", "vxlan.tos": "8", "vxlan.df": "false",
	"vxlan.mss_clamp": "true", "vxlan.vlan": `"drop"`, "vxlan.reserved": `"drop"`, "vxlan.bridge_control": `"pass"`, "vxlan.udp6zerocsumrx": "true", "vxlan.peer.udp6zerocsumrx": "true", "vxlan.probe": `"5s"`,
	"vxlan.peer.address": `"192.0.2.3"`, "vxlan.peer.flood": "false", "vxlan.peer.macs": `["02:42:0a:00:01:05"]`,
	"vxlan.fdb.mac": `"02:42:0a:00:01:06"`, "vxlan.fdb.peer": `"192.0.2.3"`,
	"vxlan.neighbor.address": `"10.0.1.5"`, "vxlan.neighbor.mac": `"02:42:0a:00:01:06"`,
	"vxlan.route.prefix": `"172.245.0.0/24"`, "vxlan.route.via": `"172.246.0.1"`,
	"ipip.name": `"tun1"`, "ipip.addresses": `["172.31.0.1/32"]`, "ipip.mtu": "1400", "ipip.admit": `"any"`, "ipip.check_source": "true",
	"ipip.ttl": "9", "ipip.tos": "8", "ipip.df": "false", "ipip.mss_clamp": "true",
	"ipip.route.prefix": `"172.245.0.0/24"`, "ipip.route.peer": `"192.0.2.3"`,
	"cluster.node": `"b"`, "cluster.join": `["192.0.2.9"]`, "cluster.bind": `"192.0.2.1:7947"`, "cluster.key_file": `"/other"`, "cluster.insecure": "true", "cluster.ttl": `"30s"`,
	"vxlan.cluster": "true", "vxlan.subnet": `"198.51.100.0/24"`, "vxlan.range": `"10.7.0.0/24"`,
	"route.prefix": `"172.245.0.0/24"`, "route.via": `"192.0.2.3"`,
}

// withValue is the configuration with one key set otherwise.
func withValue(t *testing.T, path, value string) *config.Config {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(referenceTables) {
		fields := strings.Fields(line)
		fmt.Fprintln(&b, fields[0])
		table := strings.Trim(fields[0], "[]") + "."
		for _, f := range fields[1:] {
			if key, _, _ := strings.Cut(f, "="); table+key != path {
				fmt.Fprintln(&b, f)
			}
		}
		if key, ok := strings.CutPrefix(path, table); ok && !strings.Contains(key, ".") {
			fmt.Fprintf(&b, "%s=%s\n", key, value)
		}
	}
	cfg, err := config.Parse("reference", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// What docs/configuration.md says of each key's reload is what a reload does.
func TestReloadAsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	was := withValue(t, "", "")
	old, err := was.Desired(1500)
	if err != nil {
		t.Fatal(err)
	}
	e, err := dataplane.New(dataplane.Options{Underlay: was.Underlay.Address, Workers: 1, Backend: netiotest.NewUnderlay(t).Backend(was.Underlay.Address)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	apply := func(d dataplane.Desired) bool {
		_, err := e.Apply(d)
		if err != nil && !strings.Contains(err.Error(), "cannot change while the") {
			t.Fatal(err)
		}
		return err == nil
	}

	// needs is what it takes for the key to be another.
	needs := func(path string) string {
		next := withValue(t, path, otherValues[path])
		if reloadable("reference", was, next) != nil {
			return "new daemon"
		}
		base, err := next.Desired(1500)
		if err != nil {
			t.Fatal(err)
		}
		d := &daemon{base: old}
		d.config.Store(was)
		keepMTUs(was, next, old, &base)
		c := d.compare(next, base)
		if len(c.added)+len(c.gone) > 0 || slices.ContainsFunc(c.changed, func(n string) bool { return host.Fixed(c.oldHost[n], c.newHost[n]) != nil }) {
			return "new network"
		}
		if len(c.changed) == 0 && slices.Equal(was.Routes, next.Routes) {
			t.Errorf("%s: another value changes nothing", path)
		}
		apply(old)
		if !apply(base) {
			return "new network"
		}
		return "yes"
	}

	left := maps.Clone(otherValues)
	table := ""
	for _, m := range regexp.MustCompile("(?m)^## `\\[+([a-z.]+)|^\\| `([a-z0-9_]+)` \\|.* \\| (.*) \\| [^|]* \\|$").FindAllStringSubmatch(string(text), -1) {
		if m[1] != "" {
			table = m[1]
			continue
		}
		path := table + "." + m[2]
		if path == "cluster.backend" {
			continue // it has one value
		}
		if _, ok := left[path]; !ok {
			t.Errorf("%s: no other value to try, or twice", path)
			continue
		}
		delete(left, path)
		if got := needs(path); got != m[3] {
			t.Errorf("%s: a change needs %q, documented is %q", path, got, m[3])
		}
	}
	for path := range left {
		t.Errorf("%s is not documented", path)
	}
}
