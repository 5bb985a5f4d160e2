package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWarnings wants each kind of what is probably not meant to be said once, at its
// place, and nothing of a network as it should be.
func TestWarnings(t *testing.T) {
	const head = "[underlay]\naddress = \"192.0.2.1\"\n"
	const peer = "[[vxlan.peer]]\naddress = \"192.0.2.2\"\n"
	network := func(name, vni, lines string) string {
		return "[[vxlan]]\nname = \"" + name + "\"\nvni = " + vni + "\n" + lines
	}
	for name, c := range map[string]struct {
		text string
		want []string // what each warning holds, in order
	}{
		"nothing": {network("blue", "1", "bridge = \"br0\"\naddresses = [\"10.1.0.1/24\", \"10.1.1.1/24\"]\n"+peer) +
			network("red", "2", "addresses = [\"10.2.0.1/24\", \"10.3.0.0/31\", \"10.4.0.0/32\", \"2001:db8::1/64\"]\n"+peer), nil},
		"no peers, but a prefix": {network("blue", "1", "admit = [\"192.0.2.0/24\"]\n"),
			[]string{`test.toml:4: vxlan[0].name (network "blue"): "blue": has no peers and no group: frames leave only for MACs that were learned`}},
		"no peers": {network("blue", "1", "") + network("red", "2", "group = \"239.1.1.1\"\nadmit = \"any\"\n") + network("green", "3", "[[vxlan.fdb]]\nmac = \"02:42:0a:00:01:04\"\npeer = \"192.0.2.2\"\n"),
			[]string{`test.toml:4: vxlan[0].name (network "blue"): "blue": has no peers and no group: nothing leaves this host`}},
		"no entries": {network("blue", "1", "learning = false\n"+peer) + network("red", "2", "learning = false\n"+peer+"macs = [\"02:42:0a:00:01:04\"]\n"),
			[]string{`test.toml:6: vxlan[0].learning (network "blue"): false: is off, and there is no [[vxlan.fdb]]`}},
		"no neighbours": {network("blue", "1", "suppress = true\n"+peer) + network("red", "2", "suppress = true\n"+peer+"[[vxlan.neighbor]]\naddress = \"10.2.0.2\"\nmac = \"02:42:0a:00:01:04\"\n"),
			[]string{`test.toml:6: vxlan[0].suppress (network "blue"): true: is on, and there is no [[vxlan.neighbor]]`}},
		"network address": {network("blue", "1", "addresses = [\"10.1.0.0/24\", \"10.2.0.255/24\", \"2001:db8::/64\"]\n"+peer), []string{
			`test.toml:6: vxlan[0].addresses[0] (network "blue"): "10.1.0.0/24": is the address of the network itself, and no host's; want one such as "10.1.0.1/24"`,
			`vxlan[0].addresses[1] (network "blue"): "10.2.0.255/24": is the broadcast address of its subnet, and no host's; want one such as "10.2.0.1/24"`,
			`vxlan[0].addresses[2] (network "blue"): "2001:db8::/64": is the address of the network itself`,
		}},
		"one address twice": {network("blue", "1", "bridge = \"br0\"\naddresses = [\"10.1.0.1/24\"]\n"+peer) +
			network("red", "2", "bridge = \"br1\"\naddresses = [\"10.1.0.1/24\"]\n"+peer) +
			"[[ipip]]\nname = \"tun0\"\naddresses = [\"10.1.0.1/32\"]\n", []string{
			`test.toml:14: vxlan[1].addresses[0] (network "red"): "10.1.0.1/24": is the address of br0 too, by vxlan[0].addresses[0] on line 7`,
			`test.toml:19: ipip[0].addresses[0] (network "tun0"): "10.1.0.1/32": is the address of br0 too`,
		}},
		"overlapping subnets": {network("blue", "1", "addresses = [\"10.1.0.1/24\"]\n"+peer) +
			network("red", "2", "addresses = [\"10.1.255.1/16\", \"10.2.0.1/16\"]\n"+peer) +
			network("green", "3", "addresses = [\"10.2.7.1/24\", \"10.3.0.1/24\"]\n"+peer), []string{
			`test.toml:12: vxlan[1].addresses[0] (network "red"): "10.1.255.1/16": overlaps the subnet 10.1.0.0/24 of blue, by vxlan[0].addresses[0] on line 6`,
			`test.toml:18: vxlan[2].addresses[0] (network "green"): "10.2.7.1/24": overlaps the subnet 10.2.0.0/16 of red, by vxlan[1].addresses[1] on line 12`,
		}},
		"one bridge of two": {network("blue", "1", "bridge = \"br0\"\naddresses = [\"10.1.0.1/24\"]\n"+peer) +
			network("red", "2", "bridge = \"br0\"\naddresses = [\"10.1.0.2/24\"]\n"+peer), nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := Parse("test.toml", []byte(head+c.text))
			if err != nil {
				t.Fatal(err)
			}
			if len(cfg.Warnings) != len(c.want) {
				t.Fatalf("%d warnings, want %d:\n%v", len(cfg.Warnings), len(c.want), cfg.Warnings)
			}
			for i, w := range cfg.Warnings {
				if !strings.Contains(w.Error(), c.want[i]) {
					t.Errorf("%v\nwant %s", w, c.want[i])
				}
			}
		})
	}
}

// The error for a directory in place of a file names the file that it holds.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	want := dir + ":1: is a directory; want a regular file"
	if _, err := Load(dir); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	file := filepath.Join(dir, "overtap.toml")
	for _, name := range []string{filepath.Join(dir, "a.toml"), file} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(dir); err == nil || err.Error() != want+", such as "+file {
		t.Errorf("%v, want %s", err, file)
	}
}
