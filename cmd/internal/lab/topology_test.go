package lab

import (
	"slices"
	"testing"

	"overtap/cmd/internal/config"
)

func TestTopologies(t *testing.T) {
	if _, err := Find(Default); err != nil {
		t.Error(err)
	}
	for i, topology := range topologies {
		if slices.Contains(Names()[:i], topology.Name) {
			t.Errorf("%s is there twice", topology.Name)
		}
		// exec tells labs from members by the name alone.
		for _, other := range topologies {
			if slices.Contains(other.members(), topology.Name) {
				t.Errorf("lab %s has the name of a member of lab %s", topology.Name, other.Name)
			}
		}
		members := topology.members()
		if len(slices.Compact(slices.Clone(members))) != len(members) {
			t.Errorf("lab %s: members with the same name: %v", topology.Name, members)
		}
		for _, c := range topology.containers {
			if !slices.Contains(hostNames, c.host) || topology.hostOf(c.name) != c.host {
				t.Errorf("lab %s: container %s is on host %q", topology.Name, c.name, c.host)
			}
		}
		for _, p := range topology.pings {
			if topology.hostOf(p[0]) == topology.hostOf(p[1]) || topology.container(p[0]).name == "" || topology.container(p[1]).name == "" {
				t.Errorf("lab %s: the ping %v crosses nothing", topology.Name, p)
			}
		}
		// Beside the columns of `lab list`.
		if n := len("vxlan-subnets  damaged  ") + len(topology.Summary); n > 80 {
			t.Errorf("lab %s: its line has %d columns", topology.Name, n)
		}
	}
	if _, err := Find("nix"); err == nil || err.Error() != `there is no lab "nix": want vxlan or vxlan-subnets` {
		t.Error(err)
	}
}

// The configuration that a lab writes is one that overtap takes.
func TestConfig(t *testing.T) {
	for _, topology := range topologies {
		for _, host := range hostNames {
			c, err := config.Parse("lab.toml", []byte(topology.configText(host)))
			if err != nil {
				t.Errorf("lab %s, host %s: %v", topology.Name, host, err)
				continue
			}
			v := c.VXLAN[0]
			if c.Underlay.Address != underlay(host) || v.VNI != topology.vni || v.Port != topology.port ||
				len(v.Peers) != 1 || v.Peers[0].Address != underlay(other(host)) || !v.Peers[0].Flood {
				t.Errorf("lab %s, host %s: %+v", topology.Name, host, c)
			}
		}
	}
}

func TestParsePeer(t *testing.T) {
	for _, s := range []string{"", "kernel", "overtap"} {
		if p, err := ParsePeer(s); err != nil || string(p) != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	if _, err := ParsePeer("ovs"); err == nil || err.Error() != `peer "ovs": want kernel or overtap` {
		t.Error(err)
	}
}
