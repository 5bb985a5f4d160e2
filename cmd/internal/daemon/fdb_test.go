package daemon

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
	"overtap/fdb"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

const (
	configuredMAC = encap.MAC(0x02420a000104) // an entry of twoNetworks
	ownMAC        = encap.MAC(0x020000000001)
)

// idle returns a daemon whose engine takes everything and opens no TAP.
func idle(t *testing.T, networks string) (*running, *daemon) {
	t.Helper()
	r, d := quick(t, networks)
	r.engine.taps["blue"], r.engine.taps["red"] = nil, nil
	return r, d
}

func TestAddAndDelete(t *testing.T) {
	r, d := idle(t, twoNetworks)
	if _, err := d.AddFDB(control.Entry{Network: "blue", MAC: ownMAC, Peer: addr("192.0.2.3")}); err != nil {
		t.Fatal(err)
	}
	e, peers := r.engine.entries("blue")
	if len(e) != 2 || e[ownMAC] != addr("192.0.2.3") || e[configuredMAC] != addr("192.0.2.2") {
		t.Errorf("entries: %v", e)
	}
	if len(peers) != 2 || peers[1] != (fdb.Peer{Addr: addr("192.0.2.3")}) {
		t.Errorf("peers: %v; want the new one, without flooding", peers)
	}
	// Again, to another peer: it moves.
	if _, err := d.AddFDB(control.Entry{Network: "blue", MAC: ownMAC, Peer: addr("192.0.2.4")}); err != nil {
		t.Fatal(err)
	}
	if e, peers = r.engine.entries("blue"); e[ownMAC] != addr("192.0.2.4") || len(peers) != 2 {
		t.Errorf("entries: %v, peers: %v", e, peers)
	}
	if _, err := d.DeleteFDB("blue", ownMAC); err != nil {
		t.Fatal(err)
	}
	if e, peers = r.engine.entries("blue"); len(e) != 1 || len(peers) != 1 {
		t.Errorf("after the deletion: entries %v, peers %v", e, peers)
	}
	if len(d.base.Networks[0].FDB) != 1 || len(d.base.Networks[0].Peers) != 1 {
		t.Errorf("the configuration's own state changed: %+v", d.base.Networks[0])
	}
}

// An Apply that fails leaves the entries as they were.
func TestAddRefusedByEngine(t *testing.T) {
	r, d := idle(t, twoNetworks)
	e := control.Entry{Network: "red", MAC: ownMAC, Peer: addr("192.0.2.3")}
	r.engine.refuse = func(dataplane.Desired) error { return errors.New("no") }
	if _, err := d.AddFDB(e); err == nil || len(d.static["red"]) != 0 {
		t.Errorf("add: %v, %v", err, d.static)
	}
	r.engine.refuse = nil
	if _, err := d.AddFDB(e); err != nil {
		t.Fatal(err)
	}
	r.engine.refuse = func(dataplane.Desired) error { return errors.New("no") }
	moved := e
	moved.Peer = addr("192.0.2.4")
	if _, err := d.AddFDB(moved); err == nil || d.static["red"][ownMAC] != e.Peer {
		t.Errorf("move: %v, %v", err, d.static)
	}
	if _, err := d.DeleteFDB("red", ownMAC); err == nil || d.static["red"][ownMAC] != e.Peer {
		t.Errorf("delete: %v, %v", err, d.static)
	}
}

// Both say what they did: which entry there was, and whether its peer is new.
func TestAddSaysWhatItDid(t *testing.T) {
	r, d := idle(t, twoNetworks)
	old := addr("192.0.2.5")
	r.engine.learned = []dataplane.FDBEntry{{Network: "blue", MAC: ownMAC, Peer: old, Origin: "learned"}}
	for _, c := range []struct {
		mac  encap.MAC
		peer string
		want control.Added
	}{
		{ownMAC, "192.0.2.3", control.Added{Network: "blue", Peer: old, Origin: "learned", Admits: true}},
		{ownMAC + 1, "192.0.2.3", control.Added{Network: "blue"}}, // named already
		{ownMAC + 2, "192.0.2.2", control.Added{Network: "blue"}}, // listed
	} {
		if got, err := d.AddFDB(control.Entry{Network: "blue", MAC: c.mac, Peer: addr(c.peer)}); err != nil || got != c.want {
			t.Errorf("add %s: %+v, %v; want %+v", c.mac, got, err, c.want)
		}
	}
	d.base.Networks[0].Admit.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.8/32")}
	for peer, admits := range map[string]bool{"192.0.2.8": false, "192.0.2.9": true} {
		if got, err := d.AddFDB(control.Entry{Network: "blue", MAC: ownMAC, Peer: addr(peer)}); err != nil || got.Admits != admits {
			t.Errorf("add behind %s: %+v, %v", peer, got, err)
		}
	}
	if got, err := d.DeleteFDB("blue", ownMAC+1); err != nil || got != (control.Deleted{Network: "blue", Peer: addr("192.0.2.3"), Origin: "static"}) {
		t.Errorf("delete: %+v, %v", got, err)
	}
}

func TestDeleteLearned(t *testing.T) {
	r, d := idle(t, twoNetworks)
	r.engine.learned = []dataplane.FDBEntry{{Network: "blue", MAC: ownMAC}, {Network: "red", MAC: ownMAC}}
	if _, err := d.DeleteFDB("red", ownMAC); err != nil {
		t.Fatal(err)
	}
	if len(r.engine.learned) != 1 || r.engine.learned[0].Network != "blue" {
		t.Errorf("learned entries left: %v", r.engine.learned)
	}
	if n, err := d.FlushFDB(control.Match{}); err != nil || n != 1 {
		t.Errorf("flush: %d, %v", n, err)
	}
}

func TestFDBPage(t *testing.T) {
	r, d := idle(t, twoNetworks)
	r.engine.learned = []dataplane.FDBEntry{{Network: "red", MAC: ownMAC}, {Network: "red", MAC: configuredMAC}}
	if p, err := d.FDBPage(control.FDBQuery{Contains: ownMAC.String(), Limit: 1}); err != nil || p.Matched != 1 || p.Total != 2 || len(p.Entries) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := d.FDBPage(control.FDBQuery{Network: "green"}); err == nil || err.Error() != `there is no network "green": name one of blue, red` {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	peer := addr("192.0.2.3")
	const one = "[[vxlan]]\nname = \"blue\"\nvni = 100\n"
	for _, tc := range []struct {
		name, networks string
		do             func(d *daemon) error
		want           string
	}{
		{"unknown network", twoNetworks, add("green", ownMAC, peer), `there is no network "green": name one of blue, red`},
		{"which network", twoNetworks, add("", ownMAC, peer), "there are several networks: name one of blue, red with --network"},
		{"the only network", one, add("", ownMAC, peer), ""},
		{"no network", "", add("", ownMAC, peer), "has no network"},
		{"configured", twoNetworks, add("blue", configuredMAC, peer), "belongs to the configuration: change it there"},
		{"configured elsewhere", twoNetworks, add("red", configuredMAC, peer), ""},
		{"zero", twoNetworks, add("red", 0, peer), "is the zero address"},
		{"bridge control", twoNetworks, add("red", 0x0180c2000000, peer), "is for bridges alone"},
		{"multicast", twoNetworks, add("red", 0x01005e000001, peer), ""},
		{"own address", twoNetworks, add("red", ownMAC, addr("192.0.2.1")), "own underlay address"},
		{"family", twoNetworks, add("red", ownMAC, addr("2001:db8::1")), "want the same family"},
		{"multicast peer", twoNetworks, add("red", ownMAC, addr("239.1.1.1")), "want the unicast address"},
		{"broadcast peer", twoNetworks, add("red", ownMAC, addr("255.255.255.255")), "want the unicast address"},
		{"IPv4 written as IPv6", twoNetworks, add("red", ownMAC, addr("::ffff:192.0.2.3")), "is IPv4 written as IPv6"},
		{"loopback peer", twoNetworks, add("red", ownMAC, addr("127.0.0.2")), ""},
		{"no peer", twoNetworks, add("red", ownMAC, netip.Addr{}), "is not an IP address"},
		{"delete configured", twoNetworks, del("blue", configuredMAC), "belongs to the configuration: change it there"},
		{"delete nothing", twoNetworks, del("blue", ownMAC), "network blue has no entry 02:00:00:00:00:01"},
		{"delete in unknown", twoNetworks, del("green", ownMAC), `there is no network "green"`},
		{"show unknown", twoNetworks, func(d *daemon) error { _, err := d.FDB("green"); return err }, `there is no network "green"`},
		{"flush unknown", twoNetworks, func(d *daemon) error {
			_, err := d.FlushFDB(control.Match{Network: "green"})
			return err
		}, `there is no network "green"`},
		{"peer in a network's subnet", twoNetworks, add("red", ownMAC, addr("198.51.100.7")),
			"198.51.100.7 is in the prefix 198.51.100.0/24, which leads into the network blue"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, d := idle(t, tc.networks)
			err := tc.do(d)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error: %v; want %q", err, tc.want)
			}
		})
	}
}

func add(network string, mac encap.MAC, peer netip.Addr) func(*daemon) error {
	return func(d *daemon) error {
		_, err := d.AddFDB(control.Entry{Network: network, MAC: mac, Peer: peer})
		return err
	}
}

func del(network string, mac encap.MAC) func(*daemon) error {
	return func(d *daemon) error {
		_, err := d.DeleteFDB(network, mac)
		return err
	}
}
