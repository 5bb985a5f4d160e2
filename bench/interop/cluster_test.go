package interop

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
)

const (
	clusterKey      = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
	otherClusterKey = "OTg3NjU0MzIxMDk4NzY1NDMyMTA5ODc2NTQzMjEwOTg="
)

// keyFile is a file with the cluster's key.
func keyFile(t testing.TB, key string) string {
	path := filepath.Join(t.TempDir(), "cluster.key")
	check(t, os.WriteFile(path, []byte(key+"\n"), 0o600))
	return path
}

// clustered is a configuration that names no peer: only the site to start from.
func clustered(s *netlab.Site, key string, join *netlab.Site) config {
	c := at(s, network{name: "blue", vni: 100, port: 4789, bridge: netlab.SiteBridge}.with(
		"cluster = true", `subnet = "198.51.100.0/24"`, fmt.Sprintf(`range = "198.51.100.%d/27"`, 32*s.N)))
	c.cluster = []string{
		fmt.Sprintf("node = %q", fmt.Sprintf("host%d", s.N)), fmt.Sprintf("join = [%q]", join.Underlay),
		fmt.Sprintf("key_file = %q", key), `ttl = "10s"`,
	}
	return c
}

type clusterMember struct {
	Node  string     `json:"node"`
	VTEP  netip.Addr `json:"vtep"`
	Alive bool       `json:"alive"`
}

// sees waits until the daemon knows that many members, all alive.
func (d *daemon) sees(members int) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("%d members", members), func() error {
		all := ask[[]clusterMember](d, "cluster", "members")
		for _, m := range all {
			if !m.Alive {
				return fmt.Errorf("%s is not alive", m.Node)
			}
		}
		if len(all) != members {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
}

// addContainer makes a namespace that is on no network.
func addContainer(t *testing.T, s *netlab.Site, name string) *netlab.Host {
	return must[*netlab.Host](t)(s.Host.Lab().AddHost(name))
}

// Hosts whose files name no peer find each other: containers get addresses by
// themselves and reach each other; one moves; a host joins and no other's file changes;
// hosts leave, die, are taken over from, and come back.
func TestCluster(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 4}))
	key := keyFile(t, clusterKey)
	daemons := make([]*daemon, len(sites))
	containers := make([]*netlab.Host, len(sites))
	addresses := make([]netip.Addr, len(sites))
	up := func(i int) {
		daemons[i] = start(t, sites[i].Host, clustered(sites[i], key, sites[0]))
		if containers[i] != nil {
			return
		}
		containers[i] = addContainer(t, sites[i], fmt.Sprintf("web%d", i))
		made := ask[attached](daemons[i], "attach", "blue", containers[i].Namespace(), "--address", "auto")
		addresses[i] = made.Addresses[0].Addr()
		if want := netip.AddrFrom4([4]byte{198, 51, 100, byte(32 * sites[i].N)}); addresses[i] != want || made.Addresses[0].Bits() != 24 {
			t.Errorf("given %v, want %v/24", made.Addresses, want)
		}
	}
	// reach wants entries of the cluster before a frame was sent, and traffic.
	reach := func(i, j int) {
		t.Helper()
		for _, way := range [][2]int{{i, j}, {j, i}} {
			d, other := daemons[way[0]], sites[way[1]]
			eventually(t, fmt.Sprintf("host%d knows the container of host%d", sites[way[0]].N, other.N), func() error {
				for _, e := range d.fdb() {
					if e.Peer == other.Underlay && e.Origin == "cluster" {
						return nil
					}
				}
				return fmt.Errorf("%+v", d.fdb())
			})
		}
		x, y := traffic.End{Host: containers[i], Addr: addresses[i]}, traffic.End{Host: containers[j], Addr: addresses[j]}
		f := flow{x, y, int(sites[i].MTU)}
		f.pings(t)
		f.tcp(t, 1<<20)
	}
	for i := range 3 {
		up(i)
	}
	for i := range 3 {
		daemons[i].sees(3)
	}
	reach(0, 1)
	reach(1, 2)
	reach(2, 0)

	// A fourth joins.
	up(3)
	for i := range 4 {
		daemons[i].sees(4)
	}
	for i := range 3 {
		reach(i, 3)
		reach(3, i)
	}

	// A container moves: with its address and MAC to another host.
	daemons[1].verb("detach", "blue", containers[1].Namespace())
	mover := addContainer(t, sites[2], "mover")
	made := ask[attached](daemons[2], "attach", "blue", mover.Namespace(), "--address", addresses[1].String()+"/24")
	moved := time.Now()
	eventually(t, "all know where it is now", func() error {
		for _, i := range []int{0, 1, 3} {
			for _, e := range daemons[i].fdb() {
				if e.MAC.String() == made.MAC && (e.Peer != sites[2].Underlay || e.Origin != "cluster") {
					return fmt.Errorf("host%d: %+v", sites[i].N, e)
				}
			}
		}
		return nil
	})
	t.Logf("a move is in force everywhere after %v", time.Since(moved))
	traffic := flow{traffic.End{Host: containers[0], Addr: addresses[0]}, traffic.End{Host: mover, Addr: addresses[1]}, int(sites[0].MTU)}
	traffic.pings(t)

	// One that ends in order is withdrawn at once, one that dies after its TTL, with
	// what it had; and it is back when it comes back.
	peers := func(d *daemon) (n int) {
		for _, p := range d.stats().Peers {
			if !p.Learned {
				n++
			}
		}
		return n
	}
	gone := func(what string, left int) {
		t.Helper()
		eventually(t, what, func() error {
			if n := peers(daemons[0]); n != left {
				return fmt.Errorf("%d peers, want %d", n, left)
			}
			return nil
		})
	}
	daemons[3].stop(syscall.SIGTERM)
	gone("host4 left", 2)
	if log := daemons[0].log.String(); !strings.Contains(log, `msg="a member left the cluster" node=host4`) {
		t.Errorf("it was not withdrawn for leaving:\n%s", log)
	}
	daemons[2].kill()
	killed := time.Now()
	gone("host3 died", 1)
	t.Logf("what died is withdrawn after %v", time.Since(killed))
	daemons[2] = start(t, sites[2].Host, clustered(sites[2], key, sites[0]))
	daemons[0].sees(3)
	reach(0, 2)

	// A daemon that takes over knows the others from the start.
	file := filepath.Join(filepath.Dir(daemons[0].socket), "overtap.toml")
	next := launch(t, sites[0].Host, clustered(sites[0], key, sites[0]), file, daemons[0].socket)
	next.comesUp()
	daemons[0].await()
	daemons[0].over = true
	daemons[0] = next
	if n := peers(next); n != 2 {
		t.Errorf("%d peers after it took over", n)
	}
	next.sees(3)
	reach(0, 2)
	reach(2, 0)
}

// What cannot be right is said, and harms none of the others.
func TestClusterRefuses(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	key := keyFile(t, clusterKey)
	a := start(t, sites[0].Host, clustered(sites[0], key, sites[0]))
	b := start(t, sites[1].Host, clustered(sites[1], key, sites[0]))
	a.sees(2)
	b.sees(2)

	unkeyed := clustered(sites[2], keyFile(t, otherClusterKey), sites[0])
	c := start(t, sites[2].Host, unkeyed)
	c.warns("have the same key", true)
	c.stop(syscall.SIGTERM)
	double := clustered(sites[2], key, sites[0])
	double.cluster[0] = `node = "host2"`
	c = start(t, sites[2].Host, double)
	c.warns("two nodes have the name host2", true)
	c.stop(syscall.SIGTERM)
	other := clustered(sites[2], key, sites[0])
	other.networks[0].more = []string{"cluster = true", "mtu = 1400", `subnet = "198.51.100.0/24"`, `range = "198.51.100.32/27"`}
	c = start(t, sites[2].Host, other)
	c.sees(3)
	c.warns("its MTU of the network is 1450, here it is 1400", true)
	c.warns("the range 198.51.100.32/27 is also given out by host1", true)
	a.sees(3)

	refused(t, sites[2].Host, clustered(sites[2], filepath.Join(t.TempDir(), "none"), sites[0]), "reading the cluster's key", "openssl rand -base64 32")
}
