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

// probe is a probe interval that suits a test.
const probe = `probe = "100ms"`

// probed is what the daemon knows of a peer by probes.
func (d *daemon) probed(s *netlab.Site) dataplane.PeerStats {
	d.t.Helper()
	for _, p := range ask[[]dataplane.PeerStats](d, "peers", "--peer", s.Underlay.String()) {
		if p.Probe != nil {
			return p
		}
	}
	d.t.Fatalf("the peer %v is not probed", s.Underlay)
	return dataplane.PeerStats{}
}

// TestProbeOvertap has an overtap ask another, which does not ask itself, over
// routers: it is alive, full frames reach it, and when the link between the routers
// becomes narrower, at first with their word and then without, what the path takes
// is found. When the peer ends it is seen.
//
//	a1 ─ br0 ─ overtap ═ eth0 ── r1 ──1500, 1400── r2 ── eth0 ═ overtap ─ br0 ─ b1
func TestProbeOvertap(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%t", v6), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6, Hop: 1500}))
			a, b := sites[0], sites[1]
			const forget = 2 // seconds in which the kernel forgets a path MTU
			check(t, a.Host.Sysctl("net/ipv4/route/mtu_expires", strconv.Itoa(forget)))
			check(t, a.Host.Sysctl("net/ipv6/route/mtu_expires", strconv.Itoa(forget)))
			other := start(t, b.Host, at(b, blue(b, sites...)))
			d := start(t, a.Host, at(a, blue(a, sites...).with(probe)))
			verified := func(least, most encap.UnderlayMTU) {
				t.Helper()
				eventually(t, fmt.Sprintf("a path of %d", most), func() error {
					if p := d.probed(b); !p.Alive || p.RTT <= 0 || p.VerifiedMTU < least || p.VerifiedMTU > most {
						return fmt.Errorf("%+v", p.Probe)
					}
					return nil
				})
			}
			verified(1500, 1500)
			exchange(t, a, b, 1<<20)
			for _, x := range []*daemon{d, other} {
				for _, y := range []*daemon{d, other} {
					// The TAP itself may have spoken, as of its multicast groups; what
					// is learned of probes is never older than they are rare.
					mac := y.status().Networks[0].MAC
					eventually(t, "a MAC that is not learned of probes", func() error {
						if e, known := x.entry("blue", mac); known && e.Age == 0 {
							return fmt.Errorf("learned: %+v", e)
						}
						return nil
					})
				}
				if n := x.stats().Networks[0]; n.ProbesReceived == 0 || n.ProbesRefused != 0 {
					t.Errorf("counted: %+v", n)
				}
			}

			hop := must[*netlab.Host](t)(lab.Host("r1"))
			check(t, hop.SetMTU(netlab.HopDev, 1400))
			verified(1400, 1400)
			if got := d.pathMTU(b); got != 1400 {
				t.Errorf("the path knows of a path MTU of %d", got)
			}
			if text := d.verb("status"); !strings.Contains(text, "1 with a path MTU below") || !strings.Contains(text, "PATH TO") {
				t.Errorf("status:\n%s", text)
			}
			check(t, hop.SetMTU(netlab.HopDev, 1500))
			verified(1500, 1500)

			// The far end of a veth drops what is longer than its own MTU and a tag
			// without a word (is_skb_forwardable).
			far := must[*netlab.Host](t)(lab.Host("r2"))
			check(t, far.SetMTU(netlab.HopDev, 1400))
			verified(1392, 1404)
			eventually(t, "the warning", func() error {
				if text := d.verb("status"); !strings.Contains(text, "no router says so (ICMP is filtered): to "+b.Underlay.String()) {
					return errors.New(text)
				}
				return nil
			})
			check(t, far.SetMTU(netlab.HopDev, 1500))
			verified(1500, 1500)

			other.stop(15)
			eventually(t, "the peer is gone", func() error {
				if p := d.probed(b); p.Alive || p.UnansweredSince.IsZero() {
					return fmt.Errorf("%+v", p.Probe)
				}
				if text := d.verb("status"); !strings.Contains(text, "peers answered probes before and do not now: "+b.Underlay.String()) {
					return errors.New(text)
				}
				return nil
			})
		})
	}
}

// TestProbeKernel asks a kernel device: it never answers, and nothing comes of it:
// traffic crosses, its bridge learns nothing, and the device nothing but what is
// so, that the TAP's MAC is behind this host.
func TestProbeKernel(t *testing.T) {
	t.Parallel()
	sites := must[[]*netlab.Site](t)(netlabtest.New(t).Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	// A MAC so high that the bridge does not take it for its own, and speak by it.
	d := start(t, a.Host, at(a, blue(a, sites...).with(probe, `mac = "fe:42:c0:00:02:01"`)))
	eventually(t, "no answer", func() error {
		if p := d.probed(b); p.Alive || p.Answered || p.UnansweredSince.IsZero() || time.Since(p.UnansweredSince) < 500*time.Millisecond {
			return fmt.Errorf("%+v", p.Probe)
		}
		return nil
	})
	tap := d.status().Networks[0].MAC
	seen := false
	for _, e := range must[[]netlab.FDBEntry](t)(b.Host.KernelFDB(netlab.SiteVXLAN)) {
		switch {
		case e.MAC == encap.ProbeMAC, e.MAC == tap && (e.Bridge || e.Peer != a.Underlay):
			t.Errorf("the kernel learned %+v", e)
		case e.MAC == tap:
			seen = true
		}
	}
	if !seen {
		t.Error("no probe came to the kernel's device")
	}
	exchange(t, a, b, 1<<20)
	if n := d.stats().Networks[0]; n.ProbesReceived != 0 {
		t.Errorf("counted: %+v", n)
	}
	if dropped := d.dropped(); len(dropped) > 0 {
		t.Errorf("dropped: %+v", dropped)
	}
}
