package interop

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// pathMTU is what the daemon says of the path to a peer.
func (d *daemon) pathMTU(s *netlab.Site) encap.UnderlayMTU {
	d.t.Helper()
	for _, p := range ask[[]dataplane.PeerStats](d, "peers") {
		if p.Peer == s.Underlay {
			return p.PathMTU
		}
	}
	d.t.Fatalf("no peer %v", s.Underlay)
	return 0
}

// learns pings with packets that the path does not take, until the sender knows
// how long they may be.
func (f flow) learns(t testing.TB, mtu int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v learns MTU %d", f, mtu), func() error {
		r, err := netlab.Ping(f.from.Host, f.to.Addr, netlab.PingOptions{
			Count: 2, Size: f.mtu - f.headers(), DF: true, Timeout: 100 * time.Millisecond,
		})
		switch {
		case err != nil:
			return err
		case r.Errors == 0 || r.PathMTU != mtu:
			return fmt.Errorf("%v, path MTU %d", r, r.PathMTU)
		}
		return nil
	})
}

// TestPathMTU has a link of MTU 1400 between the hosts' routers, while the
// containers have the MTU that fits the hosts' own: their packets that are too
// long are dropped by name, each sender gets how long they may be, and what
// they send arrives, the first bytes included. When the link grows so do they.
//
//	a1 ─ br0 ─ overtap ═ eth0 ── r1 ──1400── r2 ── eth0 ═ overtap or kernel ─ br0 ─ b1
func TestPathMTU(t *testing.T) {
	t.Parallel()
	const hop, forget = 1400, 3 // bytes; seconds in which kernels forget a path MTU
	for _, c := range []struct {
		v6      bool
		peer    peer
		offload netlab.Offload
		engine  []string
	}{
		{peer: kernel},
		{peer: overtap},
		{v6: true, peer: kernel},
		{v6: true, peer: overtap},
		{peer: overtap, engine: []string{"tunnel_gso = false"}},
		{peer: kernel, offload: netlab.NoOffloads, engine: []string{"offload = false"}},
	} {
		family, over := "v4", encap.VXLANOverhead4
		if c.v6 {
			family, over = "v6", encap.VXLANOverhead6
		}
		t.Run(fmt.Sprintf("%s/%s/%v%s", family, c.peer, c.offload, strings.Join(c.engine, "")), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: c.v6, Hop: hop, Offload: c.offload}))
			a, b := sites[0], sites[1]
			for _, h := range []*netlab.Host{a.Host, b.Host, a.Container, b.Container} {
				check(t, h.Sysctl("net/ipv4/route/mtu_expires", strconv.Itoa(forget)))
				check(t, h.Sysctl("net/ipv6/route/mtu_expires", strconv.Itoa(forget)))
			}
			c.peer.end(t, b, blue(b, sites...), sites)
			conf := at(a, blue(a, sites...))
			conf.engine = c.engine
			d := start(t, a.Host, conf)
			if got := d.pathMTU(b); got != 0 {
				t.Errorf("path MTU %d before anything was sent", got)
			}

			all := flows(a, b)
			for _, f := range all {
				f.tcp(t, 8<<20)
			}
			for _, f := range all[:2] { // from a, where overtap is
				f.learns(t, hop-over)
				fits := f
				fits.mtu = hop - over
				fits.ping(t, netlab.PingOptions{Count: 3, Size: fits.mtu - fits.headers(), DF: true})
			}
			if c.peer == overtap {
				for _, f := range all[2:] {
					f.learns(t, hop-over)
				}
			}
			eventually(t, "the peer's path MTU", func() error {
				if got := d.pathMTU(b); got != hop {
					return fmt.Errorf("%d, want %d", got, hop)
				}
				return nil
			})
			s := d.stats()
			if s.Networks[0].Answered == 0 {
				t.Error("no answer is counted")
			}
			for _, r := range d.dropped() {
				if r.Reason != dataplane.DropTooBig || r.Direction != dataplane.Outbound {
					t.Errorf("dropped: %+v", r)
				}
			}
			eventually(t, "the log", func() error {
				if !strings.Contains(d.log.String(), fmt.Sprintf("pmtu=%d", hop)) {
					return errors.New("it does not name the path MTU")
				}
				return nil
			})

			for _, name := range []string{"r1", "r2"} {
				check(t, must[*netlab.Host](t)(lab.Host(name)).SetMTU(netlab.HopDev, 1500))
			}
			eventually(t, "whole packets", func() error {
				if got := d.pathMTU(b); got != 0 {
					return fmt.Errorf("path MTU %d", got)
				}
				for _, f := range all {
					r, err := netlab.Ping(f.from.Host, f.to.Addr, netlab.PingOptions{
						Count: 2, Size: f.mtu - f.headers(), DF: true, Timeout: 100 * time.Millisecond,
					})
					if err != nil || r.Received != 2 {
						return fmt.Errorf("%v: %v, %v", f, r, err)
					}
				}
				return nil
			})
			exchange(t, a, b, 4<<20)
		})
	}
}
