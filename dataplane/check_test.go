package dataplane_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/dataplanetest"
)

// TestImmutableKeys wants each key that a running network cannot change to be
// named, and nothing of the same Apply to happen.
func TestImmutableKeys(t *testing.T) {
	u := dataplanetest.NewUnderlay(t)
	blue := testNetwork(addrA, addrB)
	a := newHost(t, u, addrA, blue)
	for key, change := range map[string]func(*dataplane.Network){
		"vni":         func(n *dataplane.Network) { n.VNI++ },
		"port":        func(n *dataplane.Network) { n.Port++ },
		"tap":         func(n *dataplane.Network) { n.Device = "other" },
		"mac":         func(n *dataplane.Network) { n.MAC++ },
		"mtu":         func(n *dataplane.Network) { n.MTU++ },
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
	a := bareHost(t, dataplanetest.NewUnderlay(t), addrA, 1)
	v6 := netip.MustParseAddr("2001:db8::1")
	for want, change := range map[string]func(n *dataplane.Network){
		"name is empty":         func(n *dataplane.Network) { n.Name = "" },
		"TAP name":              func(n *dataplane.Network) { n.Device = "" },
		"1 to 15 bytes":         func(n *dataplane.Network) { n.Device = "sixteen-letters-" },
		"VNI 16777216":          func(n *dataplane.Network) { n.VNI = 1 << 24 },
		"port 0":                func(n *dataplane.Network) { n.Port = 0 },
		"MAC 00:00:00:00:00:00": func(n *dataplane.Network) { n.MAC = 0 },
		"MAC 01:00:5e:01:02:03": func(n *dataplane.Network) { n.MAC = groupMAC },
		"MTU 67":                func(n *dataplane.Network) { n.MTU = 67 },
		"TTL 0":                 func(n *dataplane.Network) { n.TTL = 0 },
		"0 learned entries":     func(n *dataplane.Network) { n.MaxEntries = 0 },
		"whole seconds":         func(n *dataplane.Network) { n.Ageing = time.Millisecond },
		"ageing -1s":            func(n *dataplane.Network) { n.Ageing = -time.Second },
		"group 192.0.2.9":       func(n *dataplane.Network) { n.Group = netip.MustParseAddr("192.0.2.9") },
		"group ff02::1":         func(n *dataplane.Network) { n.Group = netip.MustParseAddr("ff02::1") },
		"peer 2001:db8::1":      func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: v6}} },
		"peer 239.1.1.1":        func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: netip.MustParseAddr("239.1.1.1")}} },
		"peer 0.0.0.0":          func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: netip.IPv4Unspecified()}} },
		"peer invalid IP":       func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{}} },
		"own underlay address":  func(n *dataplane.Network) { n.Peers = []dataplane.Peer{{Address: addrA}} },
		"entry for 00:00:00:00": func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{Peer: addrB}} },
		"TAP's own":             func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{MAC: n.MAC, Peer: addrB}} },
		"stands twice":          func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{macB, addrB}, {macB, addrB}} },
		"family":                func(n *dataplane.Network) { n.FDB = []dataplane.StaticEntry{{macB, v6}} },
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
	for _, want := range []string{"taken", "device vx0 belongs", "VNI 100 on port 4789 belongs", "TTL 0"} { // all at once
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q too", err, want)
		}
	}
	if len(a.Info().Networks) != 0 {
		t.Error("something was applied")
	}
}

// TestMappedPeerIsRefused: a peer by an IPv4-mapped address is of neither
// family, and no socket of an IPv6 underlay reaches it.
func TestMappedPeerIsRefused(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	a := bareHost(t, dataplanetest.NewUnderlay(t), v6, 1)
	n := testNetwork(v6, netip.MustParseAddr("::ffff:192.0.2.2"))
	if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{n}}); err == nil {
		t.Error("it was taken")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, o := range []dataplane.Options{{}, {Underlay: netip.MustParseAddr("::ffff:192.0.2.1")}} {
		if e, err := dataplane.New(o); err == nil {
			e.Close()
			t.Errorf("%+v was taken", o)
		}
	}
}
