package host

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// linkSet builds the links of a host, in the order of their indexes.
type linkSet struct {
	all []netlink.Link
}

func (s *linkSet) index(name string) int {
	for _, l := range s.all {
		if l.Attrs().Name == name {
			return l.Attrs().Index
		}
	}
	return 0
}

// add adds a link that stands on parent and is a port of master.
func (s *linkSet) add(kind, name, parent, master string) {
	a := named(name)
	a.Index, a.ParentIndex, a.MasterIndex = len(s.all)+2, s.index(parent), s.index(master)
	s.all = append(s.all, &netlink.GenericLink{LinkAttrs: a, LinkType: kind})
}

// veth adds a pair, whose ends each name the other as what they stand on.
func (s *linkSet) veth(name, master, peer, peerMaster string) {
	s.add("veth", name, "", master)
	s.add("veth", peer, name, peerMaster)
	s.all[len(s.all)-2].Attrs().ParentIndex = s.index(peer)
}

// TestOverlayDevices builds links on, under and beside a network's bridge, and wants
// those by which its frames can come in, and no other.
func TestOverlayDevices(t *testing.T) {
	s := new(linkSet)
	s.add("device", "eth0", "", "")
	s.add("bridge", "br-blue", "", "")
	s.add("tuntap", "tap0", "", "br-blue")
	s.add("bridge", "br-hand", "", "") // another program made the TAP a port of it
	s.add("tuntap", "tap1", "", "br-hand")
	s.add("vrf", "vrf1", "", "")
	s.add("tuntap", "tun0", "", "vrf1")
	s.add("device", "nic", "", "br-blue") // a network card
	s.add("vlan", "nic.5", "nic", "")     // takes its frames from the wire
	s.add("bridge", "br-up", "", "")
	s.add("vlan", "br-blue.10", "br-blue", "br-up") // the host's own, tagged, and bridged again
	s.add("vlan", "br-up.20", "br-up", "")
	s.add("macvlan", "mv", "br-blue", "")
	s.add("vlan", "tap0.3", "tap0", "")
	s.veth("c1", "br-blue", "c1p", "") // a container that has not moved out yet
	s.add("bridge", "br-lan", "", "")
	s.veth("patch", "br-blue", "patchp", "br-lan")
	s.add("device", "eth1", "", "br-lan")
	s.add("vlan", "eth0.7", "eth0", "")
	s.add("veth", "c2", "eth0", "br-blue") // its other end has the index of eth0 in another namespace
	s.all[len(s.all)-1].Attrs().NetNsID = 4
	s.add("veth", "c3", "br-blue", "")
	s.all[len(s.all)-1].Attrs().NetNsID = 4
	s.add("bridge", "docker0", "", "")
	s.add("veth", "d1", "", "docker0")

	networks := []Network{
		{Name: "blue", Device: "tap0", Bridge: "br-blue"},
		{Name: "red", Device: "tap1"},
		{Name: "green", Device: "tun0", TUN: true},
		{Name: "missing", Device: "tap9", Bridge: "br-9"},
	}
	for _, c := range []struct {
		underlay, both string
		want           string
	}{
		{"eth0", "", "br-blue tap0 br-hand tap1 tun0 nic br-up br-blue.10 br-up.20 mv tap0.3 c1 c1p br-lan patch patchp eth1 c2"},
		{"", "", "br-blue tap0 br-hand tap1 tun0 nic br-up br-blue.10 br-up.20 mv tap0.3 c1 c1p br-lan patch patchp eth1 c2"},
		// The underlay's device is none of them, and nothing is followed through it.
		{"br-lan", "br-lan", "br-blue tap0 br-hand tap1 tun0 nic br-up br-blue.10 br-up.20 mv tap0.3 c1 c1p patch patchp c2"},
		{"br-blue", "br-blue", "tap0 br-hand tap1 tun0 tap0.3"},
		{"nic", "", "br-blue tap0 br-hand tap1 tun0 br-up br-blue.10 br-up.20 mv tap0.3 c1 c1p br-lan patch patchp eth1 c2"},
		{"br-blue.10", "br-blue.10", "br-blue tap0 br-hand tap1 tun0 nic mv tap0.3 c1 c1p br-lan patch patchp eth1 c2"},
	} {
		st := stackOf(s.all, networks, s.index(c.underlay))
		var got []string
		for _, l := range s.all {
			if st.in[l.Attrs().Index] {
				got = append(got, l.Attrs().Name)
			}
		}
		if text := strings.Join(got, " "); text != c.want || st.both != c.both {
			t.Errorf("underlay %s: %s, shared %q\nwant %s, shared %q", c.underlay, text, st.both, c.want, c.both)
		}
	}
}

// TestOverlayRoutes wants the prefixes that lead into a network, and what of them
// leads elsewhere.
func TestOverlayRoutes(t *testing.T) {
	h := newHost(t)
	newTAP(t, "tap0")
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	newTAP(t, "eth9")
	for device, addresses := range map[string]string{"br-blue": "10.1.0.1/16 2001:db8:1::1/64", "eth9": "10.1.7.1/24 10.2.0.1/24"} {
		for a := range strings.FieldsSeq(addresses) {
			address, err := netlink.ParseAddr(a)
			if err == nil {
				err = netlink.AddrAdd(link(t, device), address)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := netlink.LinkSetUp(link(t, device)); err != nil {
			t.Fatal(err)
		}
	}
	route := func(prefix, device string, priority int) {
		t.Helper()
		p := netip.MustParsePrefix(prefix)
		r := &netlink.Route{LinkIndex: link(t, device).Attrs().Index, Dst: ipNet(p), Priority: priority}
		if err := netlink.RouteAdd(r); err != nil {
			t.Fatal(err)
		}
	}
	route("172.30.0.0/16", "br-blue", 0)
	route("172.31.0.0/16", "br-blue", 20)
	route("172.31.0.0/16", "eth9", 10) // is preferred
	o, err := h.Overlays([]Network{{Name: "blue", Device: "tap0", Bridge: "br-blue"}})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, r := range o.Routes {
		got[r.Prefix.String()] = r.Overlay
	}
	want := map[string]bool{"10.1.0.0/16": true, "10.1.7.0/24": false, "172.30.0.0/16": true, "172.31.0.0/16": false}
	if len(got) != len(want) || len(o.Routes) != len(want) {
		t.Errorf("routes %+v, want %v", o.Routes, want)
	}
	for p, overlay := range want {
		if g, ok := got[p]; !ok || g != overlay {
			t.Errorf("%s: %v, %v; want %v", p, g, ok, overlay)
		}
	}
}
