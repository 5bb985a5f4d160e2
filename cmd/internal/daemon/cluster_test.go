package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/cluster"
	"overtap/cmd/internal/config"
	"overtap/dataplane"
)

// The first address is given out that is not in use: not the subnet's own nor its
// broadcast address, not this host's, not a container's.
func TestFreeAddress(t *testing.T) {
	n := dataplane.Network{Name: "blue", Neighbors: []dataplane.Neighbor{{Address: netip.MustParseAddr("10.0.0.252")}}}
	for _, c := range []struct{ subnet, rang, want string }{
		{"10.0.0.0/24", "10.0.0.0/24", "10.0.0.3/24"}, // .1 this host's, .2 a container's
		{"10.0.0.0/24", "10.0.0.252/30", "10.0.0.253/24"},
		{"10.0.0.0/24", "10.0.0.255/32", "no address of the range 10.0.0.255/32"},
		{"10.0.0.2/31", "10.0.0.2/31", "10.0.0.3/31"},
		{"10.0.0.0/24", "10.0.0.2/32", "no address of the range"},
		{"2001:db8::/64", "2001:db8::/96", "2001:db8::1/64"},
		{"", "", "has no range"},
	} {
		d := &daemon{members: newMembers()}
		v := config.VXLAN{Network: n, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}
		v.Subnet, _ = netip.ParsePrefix(c.subnet)
		v.Range, _ = netip.ParsePrefix(c.rang)
		d.config.Store(&config.Config{VXLAN: []config.VXLAN{v}})
		got, err := d.freeAddress(n, []attach.Attachment{{Network: "blue", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}}})
		if text := got.String(); text != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s of %s: %v, %v; want %s", c.rang, c.subnet, got, err, c.want)
		}
	}
}

// What the members have comes into force beside what the configuration has, and a
// member that must not be a peer is named.
func TestAddMembers(t *testing.T) {
	key := cluster.Key{VNI: 7, Port: 4789}
	member := func(name, vtep string) cluster.Member {
		return cluster.Member{Record: cluster.Record{
			Node: cluster.Node{Name: name, VTEP: netip.MustParseAddr(vtep)}, Networks: []cluster.Network{{Key: key, MTU: 1450}},
			Endpoints: []cluster.Endpoint{{Key: key, MAC: 0x0200_0000_0001}},
		}}
	}
	n := dataplane.Network{Name: "blue", VNI: 7, Port: 4789, MTU: 1450, MaxEntries: 10}
	c := &config.Config{Underlay: config.Underlay{Address: netip.MustParseAddr("192.0.2.1")}, VXLAN: []config.VXLAN{{Network: n}}}
	c.VXLAN[0].Cluster, c.VXLAN[0].Subnet = true, netip.MustParsePrefix("198.51.100.0/24")
	c.VXLAN[0].Addresses = []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}
	d := &daemon{members: newMembers(), base: dataplane.Desired{Networks: []dataplane.Network{n}}}
	d.config.Store(c)
	d.view = cluster.NewView("a", []cluster.Member{
		member("b", "192.0.2.2"), member("c", "198.51.100.9"), member("d", "203.0.113.9"), member("e", "192.0.2.1"), member("f", "2001:db8::1"),
	})
	out := d.desired().Networks[0]
	if len(out.Peers) != 1 || len(out.FDB) != 1 || out.FDB[0].Peer != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("%+v", out)
	}
	problems := strings.Join(d.members.problems, "\n")
	for _, want := range []string{"member c: its address 198.51.100.9 is in the network's subnet", "member d: its address 203.0.113.9 is in the prefix", "member e: its address 192.0.2.1", "member f: its address 2001:db8::1"} {
		if !strings.Contains(problems, want) {
			t.Errorf("problems %q, want %q", problems, want)
		}
	}
	c.VXLAN[0].Cluster = false
	if out := d.desired().Networks[0]; len(out.Peers) > 0 || len(d.members.problems) > 0 {
		t.Errorf("without cluster: %+v", out)
	}
}
