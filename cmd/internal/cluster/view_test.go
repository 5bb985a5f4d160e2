package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"overtap/dataplane"
	"overtap/encap"
	"overtap/fdb"
)

var blueKey = Key{7, 4789}

// with is a member with endpoints in the network of the test.
func with(name string, at byte, endpoints ...Endpoint) Member {
	m := Member{Record: Record{Node: Node{Name: name, VTEP: vtep(at)}, Networks: []Network{{Key: blueKey, MTU: 1450}}}}
	for _, e := range endpoints {
		e.Key = blueKey
		m.Endpoints = append(m.Endpoints, e)
	}
	return m
}

func inner(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

func fine(netip.Addr) error { return nil }

// What a network has by itself stays as it is, and what cannot be right is left out and
// named.
func TestAdditions(t *testing.T) {
	const own, static, pinned, far = 0x0200_0000_0001, 0x0200_0000_0002, 0x0200_0000_0003, 0x0200_0000_0004
	v := NewView("a", []Member{
		with("a", 1, Endpoint{MAC: 0x0200_0000_0009, Sequence: 3}),
		with("b", 2, Endpoint{MAC: own}, Endpoint{MAC: static}, Endpoint{MAC: pinned},
			Endpoint{MAC: far, Addresses: []netip.Addr{inner(4), inner(5)}}, Endpoint{MAC: 0x0200_0000_0009, Sequence: 2}),
		with("c", 3, Endpoint{MAC: 0x0200_0000_0005}),
		with("d", 4, Endpoint{MAC: 0x0200_0000_0006}),
		{Record: Record{Node: Node{Name: "e", VTEP: vtep(5)}}},
	})
	v.Members[3].Networks[0].MTU = 1400
	n := dataplane.Network{
		VNI: 7, Port: 4789, MTU: 1450, MAC: own, MaxEntries: 100,
		Peers:     []dataplane.Peer{{Address: vtep(2)}, {Address: vtep(9), MACs: []encap.MAC{pinned}}},
		FDB:       []dataplane.StaticEntry{{MAC: static, Peer: vtep(9)}},
		Neighbors: []dataplane.Neighbor{{Address: inner(5), MAC: static}},
	}
	refuse := func(a netip.Addr) error {
		if a == vtep(3) {
			return errors.New("is bad")
		}
		return nil
	}
	a := v.Additions(&n, 100, refuse)
	want := "[{192.0.2.4 true []}] [02:00:00:00:00:04 02:00:00:00:00:06] [10.0.0.4]"
	var macs []encap.MAC
	for _, e := range a.FDB {
		if e.Origin != fdb.Cluster {
			t.Errorf("%+v", e)
		}
		macs = append(macs, e.MAC)
	}
	var addresses []netip.Addr
	for _, x := range a.Neighbors {
		addresses = append(addresses, x.Address)
	}
	if got := fmt.Sprintf("%v %v %v", a.Peers, macs, addresses); got != want {
		t.Errorf("added %s, want %s", got, want)
	}
	if p := strings.Join(a.Problems, "\n"); len(a.Problems) != 2 || !strings.Contains(p, "member c: its address 192.0.2.3 is bad") || !strings.Contains(p, "member d: its MTU of the network is 1400") {
		t.Errorf("problems %q", p)
	}
	if a := v.Additions(&n, 1, fine); len(a.FDB) != 1 || !strings.Contains(strings.Join(a.Problems, ""), "2 containers of other members have no entry") {
		t.Errorf("of too many: %+v", a)
	}
	if a := (*View)(nil).Additions(&n, 1, fine); len(a.Peers) > 0 {
		t.Errorf("of no view: %+v", a)
	}
	if h := v.Holders(blueKey); len(h) != 2 || h[inner(4)] != "b" {
		t.Errorf("holders %v", h)
	}
}

func TestRangeClash(t *testing.T) {
	v := NewView("a", []Member{with("a", 1), with("b", 2)})
	r := netip.MustParsePrefix("10.0.0.0/26")
	v.Members[0].Networks[0].Range = r
	if c := v.RangeClash(blueKey, r); c != "" {
		t.Errorf("with itself: %s", c)
	}
	v.Members[1].Networks[0].Range = netip.MustParsePrefix("10.0.0.0/24")
	if c := v.RangeClash(blueKey, r); c != "b (10.0.0.0/24)" {
		t.Errorf("with b: %q", c)
	}
}

// A record that cannot be right is refused whole.
func TestRecordCheck(t *testing.T) {
	good := func() Record {
		m := with("b", 2, Endpoint{MAC: macA, Addresses: []netip.Addr{inner(1)}, Name: "web"})
		return m.Record
	}
	if r := good(); r.Check() != nil {
		t.Fatal(r.Check())
	}
	for want, change := range map[string]func(*Record){
		"cannot be a node's name":   func(r *Record) { r.Node.Name = "a b" },
		"VTEP 239.1.1.1":            func(r *Record) { r.Node.VTEP = netip.MustParseAddr("239.1.1.1") },
		"a version of 65 bytes":     func(r *Record) { r.Node.Version = strings.Repeat("v", 65) },
		"each only once":            func(r *Record) { r.Networks = append(r.Networks, r.Networks[0]) },
		"network with VNI 16777216": func(r *Record) { r.Networks[0].VNI = encap.MaxVNI + 1 },
		"its node is not in":        func(r *Record) { r.Endpoints[0].VNI = 8 },
		"is not the MAC of one":     func(r *Record) { r.Endpoints[0].MAC = encap.BroadcastMAC },
		"17 addresses":              func(r *Record) { r.Endpoints[0].Addresses = make([]netip.Addr, 17) },
		"address invalid IP":        func(r *Record) { r.Endpoints[0].Addresses = make([]netip.Addr, 1) },
		"a name of 257 bytes":       func(r *Record) { r.Endpoints[0].Name = strings.Repeat("n", 257) },
		"stands twice":              func(r *Record) { r.Endpoints = append(r.Endpoints, r.Endpoints[0]) },
		"4097 networks":             func(r *Record) { r.Networks = make([]Network, 4097) },
		"65537 endpoints":           func(r *Record) { r.Endpoints = make([]Endpoint, 65537) },
	} {
		r := good()
		change(&r)
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestReadKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := ReadKeys(path); err == nil || !strings.Contains(err.Error(), "openssl rand -base64 32 > "+path) {
		t.Errorf("without a file: %v", err)
	}
	k := newKey()
	for text, want := range map[string]string{
		"": "holds no key", "# only\n\n": "holds no key", k + "\nAAAA\n": "key:2: is a key of 3 bytes",
		"?": "key:1: is not base64", strings.Repeat(k+"\n", 17): "key:17: is one key too many",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeys(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if err := os.WriteFile(path, []byte("# first\n"+k+"\n"+newKey()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := ReadKeys(path); err != nil || len(keys) != 2 {
		t.Errorf("%v, %v", keys, err)
	}
}
