package lab

import (
	"slices"
	"strings"
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
		// exec distinguishes labs from members by the name alone.
		for _, other := range topologies {
			if slices.Contains(other.members(), topology.Name) {
				t.Errorf("lab %s has the name of a member of lab %s", topology.Name, other.Name)
			}
		}
		members := topology.members()
		if len(slices.Compact(slices.Clone(members))) != len(members) {
			t.Errorf("lab %s: members with the same name: %v", topology.Name, members)
		}
		for i, h := range topology.hosts {
			if h.name != hostNames[i] || h.overtapIn(KernelPeer) != (h.kernel == nil) || !h.overtapIn(OvertapPeer) {
				t.Errorf("lab %s: host %d is %+v", topology.Name, i, h)
			}
		}
		for _, c := range topology.containers {
			if h := topology.host(c.host); h.name == "" || topology.hostOf(c.name) != c.host || c.join == onLAN && h.lan == "" {
				t.Errorf("lab %s: container %s is on host %q", topology.Name, c.name, c.host)
			}
		}
		crossing := len(topology.hosts) == 1
		for _, p := range topology.pings {
			crossing = crossing || topology.hostOf(p[0]) != topology.hostOf(p[1])
			if p[0] == p[1] || topology.hostOf(p[0]) == "" || topology.container(p[1]).name == "" {
				t.Errorf("lab %s: the ping %v has no ends", topology.Name, p)
			}
		}
		if !crossing {
			t.Errorf("lab %s: no ping crosses the underlay", topology.Name)
		}
		// Beside the columns of `lab list`.
		if n := len("vxlan-subnets  damaged  ") + len(topology.Summary); n > 80 {
			t.Errorf("lab %s: its line has %d columns", topology.Name, n)
		}
	}
	if _, err := Find("nix"); err == nil || err.Error() != `there is no lab "nix": want one of `+strings.Join(Names(), ", ") {
		t.Error(err)
	}
}

// The configuration that a lab writes is one that overtap takes.
func TestConfig(t *testing.T) {
	for _, topology := range topologies {
		for _, h := range topology.hosts {
			c, err := config.Parse("lab.toml", []byte(topology.configText(h)))
			if err != nil {
				t.Errorf("lab %s, host %s: %v", topology.Name, h.name, err)
				continue
			}
			if c.Underlay.Address != underlay(h.name) {
				t.Errorf("lab %s, host %s: %+v", topology.Name, h.name, c)
			}
			for _, v := range c.VXLAN {
				if v.Device != h.device {
					t.Errorf("lab %s, host %s: the device is %s, not %s", topology.Name, h.name, v.Device, h.device)
				}
				for _, p := range v.Peers {
					if p.Address != underlay(other(h.name)) || !p.Flood {
						t.Errorf("lab %s, host %s: peer %+v", topology.Name, h.name, p)
					}
				}
				if k := h.kernel; k != nil && (k.vxlan.VNI != v.VNI || k.vxlan.Port != v.Port) {
					t.Errorf("lab %s, host %s: the kernel has VNI %d, port %d, and overtap %+v", topology.Name, h.name, k.vxlan.VNI, k.vxlan.Port, v)
				}
			}
		}
	}
}

// What cannot be the peer is refused.
func TestChoosePeer(t *testing.T) {
	alone := &Topology{hosts: []host{{name: "a"}}}
	for _, peer := range []Peer{AnyPeer, OvertapPeer} {
		if got, err := alone.choosePeer(peer); err != nil || got != OvertapPeer {
			t.Errorf("%q: %q, %v", peer, got, err)
		}
	}
	if _, err := alone.choosePeer(KernelPeer); err == nil || !strings.HasPrefix(err.Error(), "--peer kernel: overtap runs in every host") {
		t.Error(err)
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
