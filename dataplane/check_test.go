package dataplane_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
	"overtap/fdb"
)

// TestImmutableKeys wants each key that a running network cannot change to be
// named, and nothing of the same Apply to happen.
func TestImmutableKeys(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, blue)
	for key, change := range map[string]func(*dataplane.Network){
		"vni":         func(n *dataplane.Network) { n.VNI++ },
		"port":        func(n *dataplane.Network) { n.Port++ },
		"tap":         func(n *dataplane.Network) { n.Device = "other" },
		"mac":         func(n *dataplane.Network) { n.MAC++ },
		"offload":     func(n *dataplane.Network) { n.Plain = true },
		"ageing":      func(n *dataplane.Network) { n.Ageing = time.Second },
		"max_entries": func(n *dataplane.Network) { n.MaxEntries++ },
		"group":       func(n *dataplane.Network) { n.Group = netip.MustParseAddr("239.1.1.1") },
	} {
		n := blue
		n.Learning = false
		change(&n)
		red := renamed(blue, "red", "vx1", 200)
		diff, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{red, n}})
		if err == nil || !diff.Empty() || !strings.Contains(err.Error(), key+" ") || !strings.Contains(err.Error(), "remove the network by one reload and add it by the next") || !strings.Contains(err.Error(), `"blue"`) {
			t.Errorf("%s: %+v, %v", key, diff, err)
		}
	}
	if got := a.apply(blue); !got.Empty() {
		t.Errorf("afterwards the same state differs by %+v", got)
	}
}

func TestDesiredIsChecked(t *testing.T) {
	a := bareHost(t, netiotest.NewUnderlay(t), addrA, 1)
	v6 := netip.MustParseAddr("2001:db8::1")
	for want, change := range map[string]func(n *dataplane.Network){
		`name = "": is empty`:           func(n *dataplane.Network) { n.Name = "" },
		`tap = "": is empty`:            func(n *dataplane.Network) { n.Device = "" },
		"1 to 15 printable":             func(n *dataplane.Network) { n.Device = "sixteen-letters-" },
		"vni = 16777216":                func(n *dataplane.Network) { n.VNI = 1 << 24 },
		"port = 0":                      func(n *dataplane.Network) { n.Port = 0 },
		"mac = 00:00:00:00:00:00":       func(n *dataplane.Network) { n.MAC = 0 },
		"mac = 01:00:5e:01:02:03":       func(n *dataplane.Network) { n.MAC = groupMAC },
		"mtu = 67":                      func(n *dataplane.Network) { n.MTU = 67 },
		"ttl = 0":                       func(n *dataplane.Network) { n.TTL = 0 },
		"max_entries = 0":               func(n *dataplane.Network) { n.MaxEntries = 0 },
		"whole seconds":                 func(n *dataplane.Network) { n.Ageing = time.Millisecond },
		"ageing = -1s":                  func(n *dataplane.Network) { n.Ageing = -time.Second },
		"group = 192.0.2.9":             func(n *dataplane.Network) { n.Group = netip.MustParseAddr("192.0.2.9") },
		"group = ff02::1":               func(n *dataplane.Network) { n.Group = netip.MustParseAddr("ff02::1") },
		"peer[0].address = 2001:db8::1": func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: v6}} },
		"peer[0].address = 239.1.1.1":   func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: netip.MustParseAddr("239.1.1.1")}} },
		"peer[0].address = 0.0.0.0":     func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: netip.IPv4Unspecified()}} },
		"peer[0].address = invalid IP":  func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{}} },
		"own underlay address":          func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: addrA}} },
		"fdb[0].mac = 00:00:00:00":      func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{Peer: addrB}} },
		"network's own TAP":             func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{MAC: n.MAC, Peer: addrB}} },
		"fdb[1].mac = 02:42:0a:00:00:02: is a duplicate of the fdb[0].mac": func(n *dataplane.Network) {
			n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: addrB}, {MAC: macB, Peer: addrB}}
		},
		"family": func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{MAC: macB, Peer: v6}} },
	} {
		n := testNetwork(addrA, addrB)
		nets := []dataplane.Network{renamed(n, "red", "vx1", 200), n}
		change(&nets[1])
		if _, err := a.Apply(dataplane.Desired{Networks: nets}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want an error with %q", err, want)
		}
	}
	n := testNetwork(addrA, addrB)
	twice := []dataplane.Network{n, n, renamed(n, "red", "vx1", testVNI)}
	twice[1].TTL = 0
	_, err := a.Apply(dataplane.Desired{Networks: twice})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`name = "blue": is a duplicate`, `tap = "vx0": is a duplicate of the tap of network "blue"`, "vni = 100: is taken on port 4789 by the vni", "ttl = 0"} { // all at once
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q too", err, want)
		}
	}
	if len(a.Info().Networks) != 0 {
		t.Error("something was applied")
	}
}

// TestAllPeers wants the peers that only static entries name behind the listed ones,
// without flooding, and those with MACs of their own pinned.
func TestAllPeers(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.Peers[0].MACs = []encap.MAC{macB}
	n.Peers = append(n.Peers, n.Peers[0])
	n.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: addrC}, {MAC: macC + 1, Peer: addrB}, {MAC: macC + 2, Peer: addrC}}
	want := []fdb.Peer{{Addr: addrB, Flood: true, Pinned: true}, {Addr: addrC}}
	if got := n.AllPeers(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestMappedPeerIsRefused: a peer by an IPv4-mapped address is of neither
// family, and no socket of an IPv6 underlay reaches it.
func TestMappedPeerIsRefused(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	a := bareHost(t, netiotest.NewUnderlay(t), v6, 1)
	n := testNetwork(v6, netip.MustParseAddr("::ffff:192.0.2.2"))
	if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{n}}); err == nil {
		t.Error("it was taken")
	}
}

func TestNewRefuses(t *testing.T) {
	backend := func() netio.Backend { return netiotest.NewUnderlay(t).Backend(addrA) }
	for _, o := range []dataplane.Options{
		{Underlay: addrA}, {Backend: backend()},
		{Underlay: netip.MustParseAddr("::ffff:192.0.2.1"), Backend: backend()},
	} {
		if e, err := dataplane.New(o); err == nil {
			e.Close()
			t.Errorf("%+v was taken", o)
		}
	}
}
