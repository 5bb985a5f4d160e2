package interop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

const moverMAC encap.MAC = 0x0242_c633_64c8

var mover4 = netip.MustParseAddr("198.51.100.200")

// addMover puts a container on a site that never speaks unasked: it has IPv4
// only.
func addMover(t *testing.T, s *netlab.Site) *netlab.Host {
	t.Helper()
	return must[*netlab.Host](t)(s.Host.AddContainer(netlab.ContainerSpec{
		Name: "mover", Bridge: netlab.SiteBridge, MAC: moverMAC, MTU: int(s.MTU),
		Addrs: []netip.Prefix{netip.PrefixFrom(mover4, 24)},
	}))
}

// pin binds an address to a MAC in a container's neighbour table for good.
func pin(t *testing.T, c *netlab.Host, addr netip.Addr, mac encap.MAC) {
	t.Helper()
	nl, err := c.Netlink()
	check(t, err)
	link, err := nl.LinkByName(netlab.ContainerDev)
	check(t, err)
	hw := make(net.HardwareAddr, encap.MACLen)
	mac.Put(hw)
	check(t, nl.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: hw,
	}))
}

// learnedAt is nil when the daemon has the mover behind the peer; the zero
// address means no entry.
func (d *daemon) learnedAt(peer netip.Addr) error {
	d.t.Helper()
	e, _ := d.entry("blue", moverMAC)
	if e.Peer != peer {
		return fmt.Errorf("the mover's entry is %+v, want it at %v", e, peer)
	}
	return nil
}

// reachesAtOnce pings: what is black-holed until an entry ages fails.
func reachesAtOnce(t *testing.T, from *netlab.Host, to netip.Addr) {
	t.Helper()
	r, err := netlab.Ping(from, to, netlab.PingOptions{Timeout: patience})
	check(t, err)
	if r.Received != 1 || r.Duplicates > 0 {
		t.Errorf("from %s to %v: %v", from.Name(), to, r)
	}
}

// A container moves between a host of the kernel's and one of overtap's, there
// and back, and speaks first: all find it.
func TestMoveBetweenKernelAndOvertap(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	mover := addMover(t, b)
	for _, ear := range []*netlab.Site{a, b} {
		reachesAtOnce(t, ear.Container, mover4)
	}
	check(t, d.learnedAt(b.Underlay))
	at, other := b, a
	for range 4 {
		check(t, netlab.MoveContainer(mover, at.Host, other.Host, netlab.SiteBridge))
		at, other = other, at
		// Over the tunnel, to where it was, and within its new host.
		reachesAtOnce(t, mover, other.IPv4)
		reachesAtOnce(t, mover, at.IPv4)
		reachesAtOnce(t, a.Container, mover4)
		reachesAtOnce(t, b.Container, mover4)
		want := netip.Addr{}
		if at == b {
			want = b.Underlay
		}
		check(t, d.learnedAt(want))
	}
}

// A container moves between two hosts of overtap's and says nothing: a host that
// calls it reaches it at once, from either host.
func TestSilentMove(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	daemons := map[*netlab.Site]*daemon{}
	for _, s := range sites {
		daemons[s] = start(t, s.Host, at(s, blue(s, sites...)))
	}
	mover := addMover(t, b)
	for _, s := range sites {
		// Its callers never ask for its address by a broadcast, which it would
		// answer, and so be found.
		pin(t, s.Container, mover4, moverMAC)
	}
	here, there := b, a
	for _, first := range []string{"left", "right", "left", "right"} {
		// Everybody knows it where it is, and it knows them.
		for _, s := range sites {
			reachesAtOnce(t, s.Container, mover4)
			reachesAtOnce(t, mover, s.IPv4)
		}
		check(t, daemons[there].learnedAt(here.Underlay))
		check(t, daemons[here].learnedAt(netip.Addr{}))

		ear := openRaw(t, mover, netlab.ContainerDev)
		check(t, netlab.MoveContainer(mover, here.Host, there.Host, netlab.SiteBridge))
		here, there = there, here
		for _, s := range ear.read() {
			if s.outgoing {
				t.Fatalf("the container is not silent: % x", s.data)
			}
		}
		ear.close()
		callers := []*netlab.Site{a, b}
		if first == "right" {
			callers = []*netlab.Site{b, a}
		}
		for _, s := range callers {
			// The daemon hears of the port that joined a moment later, so the
			// first call may come too soon.
			reaches(t, s.Container, mover4)
		}
		if err := errors.Join(daemons[there].learnedAt(here.Underlay), daemons[here].learnedAt(netip.Addr{})); err != nil {
			t.Error(err)
		}
	}
}

// moveLimit is how soon a connection of a container that has moved goes on.
const moveLimit = 2 * time.Second

// A container that has a TCP connection moves between two hosts, there and back:
// within two seconds the connection goes on, whichever end speaks first.
func TestMoveKeepsTCP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		peer   peer
		silent bool
	}{
		{"speaking", overtap, false},
		{"speaking, kernel", kernel, false},
		{"silent", overtap, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
			a, b := sites[0], sites[1]
			c.peer.end(t, b, blue(b, sites...), sites)
			start(t, a.Host, at(a, blue(a, sites...)))
			mover := addMover(t, b)
			pin(t, a.Container, mover4, moverMAC)
			pin(t, mover, a.IPv4, a.MAC)
			reaches(t, mover, a.IPv4)

			// The one that sends is the one that speaks.
			from, to, dst := mover, a.Container, a.IPv4
			if c.silent {
				from, to, dst = a.Container, mover, mover4
			}
			s := openStream(t, from, to, dst)
			s.goesOn(t)
			here, there := b, a
			slow := 0
			for moves := 0; moves < 4; {
				took := moveUnder(t, s, mover, here, there, c.silent)
				here, there = there, here
				if took > moveLimit {
					// A machine that is busy with other things can be the cause,
					// but not three times.
					if slow++; slow == 3 {
						t.Fatalf("the stream went on after %v only", took)
					}
					t.Logf("it took %v; once more", took)
					continue
				}
				moves++
			}
			s.finish(t)
		})
	}
}

// moveUnder moves the container and returns how long the stream stood still
// after that. Silent: the container itself says nothing until it hears the
// other end.
func moveUnder(t *testing.T, s *stream, mover *netlab.Host, from, to *netlab.Site, silent bool) time.Duration {
	t.Helper()
	if !silent {
		check(t, netlab.MoveContainer(mover, from.Host, to.Host, netlab.SiteBridge))
		return s.goesOn(t)
	}
	s.pause(t)
	ear := openRaw(t, mover, netlab.ContainerDev)
	defer ear.close()
	check(t, netlab.MoveContainer(mover, from.Host, to.Host, netlab.SiteBridge))
	for _, f := range ear.read() {
		if f.outgoing {
			t.Errorf("the container is not silent: % x", f.data)
		}
	}
	return s.goesOn(t)
}
