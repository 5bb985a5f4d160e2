package interop

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/encap"
)

// flannelMAC is the fixed MAC of host n's device, from 0.
func flannelMAC(n int) encap.MAC { return 0x0242_0a01_0000 + encap.MAC(n+1)<<8 }

// flannelEnd is host n of r as flannel makes it with the kernel's device: no
// learning, an address without a subnet, and for the other host a route, a
// neighbour and a forwarding entry.
func flannelEnd(t testing.TB, r *routed, n int) {
	t.Helper()
	h, dev, other := r.hosts[n], "flannel.1", 1-n
	check(t, h.AddVXLAN(netlab.VXLANSpec{
		Name: dev, VNI: 1, Port: 8472, Local: netlab.UnderlayAddr(n+1, false), Dev: netlab.UnderlayDev,
		NoLearning: true, MAC: flannelMAC(n), MTU: r.mtu,
	}))
	check(t, h.AddFDB(dev, flannelMAC(other), netlab.UnderlayAddr(other+1, false)))
	for _, v6 := range []bool{false, true} {
		own, via := inner(n, 0, v6), inner(other, 0, v6)
		check(t, h.AddAddr(dev, netip.PrefixFrom(own, own.BitLen())))
		check(t, h.AddNeighbor(dev, via, flannelMAC(other)))
		check(t, h.AddOnlinkRoute(innerPrefix(other, v6), via, dev))
	}
}

// flannelConfig is the same by overtap.
func flannelConfig(n int) config {
	other := 1 - n
	net := network{name: "static", vni: 1, port: 8472}.with("learning = false",
		fmt.Sprintf("mac = %q", flannelMAC(n)),
		fmt.Sprintf("addresses = [\"%s/32\", \"%s/128\"]", inner(n, 0, false), inner(n, 0, true)))
	c := config{underlay: netlab.UnderlayAddr(n+1, false), networks: []network{net}}
	c.last = fmt.Sprintf("[[vxlan.fdb]]\nmac = %q\npeer = %q\n", flannelMAC(other), netlab.UnderlayAddr(other+1, false))
	for _, v6 := range []bool{false, true} {
		c.last += fmt.Sprintf("[[vxlan.neighbor]]\naddress = %q\nmac = %q\n", inner(other, 0, v6), flannelMAC(other))
		c.last += fmt.Sprintf("[[vxlan.route]]\nprefix = %q\nvia = %q\n", innerPrefix(other, v6), inner(other, 0, v6))
	}
	return c
}

// As flannel joins its nodes: nothing is learned and nothing flooded, so that
// a host that is not a neighbour beforehand is never found. Who takes a neighbour
// away finds it back.
func TestFlannel(t *testing.T) {
	t.Parallel()
	for _, p := range []peer{kernel, overtap} {
		t.Run(string(p), func(t *testing.T) {
			r := newRouted(t, 1450)
			a := r.hosts[0]
			if p == kernel {
				flannelEnd(t, r, 1)
			} else {
				start(t, r.hosts[1], flannelConfig(1))
			}
			d := start(t, a, flannelConfig(0))
			r.exchange(t)

			const dev = "vx-static"
			want := []netip.Addr{inner(1, 0, false), inner(1, 0, true)}
			stand := func() error {
				if got, err := a.Neighbors(dev); err != nil || !slices.Equal(got, want) {
					return fmt.Errorf("neighbours %v, %v; want %v", got, err, want)
				}
				return nil
			}
			check(t, stand())
			for _, x := range want {
				check(t, a.DeleteNeighbor(dev, x))
			}
			eventually(t, "the neighbours", stand)
			check(t, a.AddNeighbor(dev, want[0], 0x0242_0000_0099))
			reaches(t, r.containers[0], inner(1, 2, false))
			r.exchange(t)

			// With a TAP made again they come back too.
			check(t, a.DeleteLink(dev))
			for _, f := range r.flows() {
				reaches(t, f.from.Host, f.to.Addr)
			}
			check(t, stand())
			if n := d.stats().Networks[0]; n.UnlistedSources != 0 {
				t.Errorf("%d sources are not listed", n.UnlistedSources)
			}
			if p == kernel {
				newNodeMAC(t, r, d)
			}
			for _, e := range d.fdb() {
				if e.Origin != "static" || e.MAC != flannelMAC(1) {
					t.Errorf("entry %+v", e)
				}
			}
			if n := d.stats().Networks[0]; n.Flooded+n.Suppressed+uint64(n.EntriesLearned) > 0 {
				t.Errorf("counters %+v", n)
			}
			if log := d.log.String(); !strings.Contains(log, "the neighbour 10.1.2.0 of "+dev) {
				t.Errorf("the log does not name the neighbour that was put back:\n%s", log)
			}
			d.stop(unix.SIGTERM)
			if left := ourRoutes(t, a); left != "" {
				t.Errorf("routes left:\n%s", left)
			}
			r.cut(t)
		})
	}
}

// newNodeMAC gives the other node's device another MAC, as after a restart: what is
// sent to it is lost there, which is seen here by what it sends itself.
func newNodeMAC(t *testing.T, r *routed, d *daemon) {
	t.Helper()
	const mac encap.MAC = 0x0242_0a01_ff00
	b := r.hosts[1]
	rename := func(m encap.MAC) {
		check(t, b.SetMAC("flannel.1", m))
		for _, v6 := range []bool{false, true} { // the kernel has dropped them (neigh_changeaddr)
			check(t, b.AddNeighbor("flannel.1", inner(0, 0, v6), flannelMAC(0)))
		}
	}
	rename(mac)
	if got, err := netlab.Ping(r.containers[0], inner(1, 2, false), netlab.PingOptions{Count: 2, Timeout: 50 * time.Millisecond}); err != nil || got.Received != 0 {
		t.Errorf("a node with another MAC answers: %v, %v", got, err)
	}
	eventually(t, "the source that is not listed", func() error {
		if _, err := netlab.Ping(r.containers[1], inner(0, 2, false), netlab.PingOptions{Timeout: 50 * time.Millisecond}); err != nil {
			return err
		}
		n := d.stats().Networks[0]
		if n.UnlistedSources == 0 || n.Unlisted == nil || n.Unlisted.MAC != mac || n.Unlisted.Peer != netlab.UnderlayAddr(2, false) {
			return fmt.Errorf("%d, %+v", n.UnlistedSources, n.Unlisted)
		}
		return nil
	})
	want := fmt.Sprintf("the last from %s, peer %s", mac, netlab.UnderlayAddr(2, false))
	if w := d.status().Warnings; !slices.ContainsFunc(w, func(s string) bool { return strings.Contains(s, want) }) {
		t.Errorf("status does not warn: %q", w)
	}
	rename(flannelMAC(1))
}
