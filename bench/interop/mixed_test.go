package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
)

// GSO packets and small packets at once, both ways, keep every byte: of the
// streams all arrive, and what is lost of the small packets was counted by name.
func TestMixedLoad(t *testing.T) {
	const streamed, small = 48 << 20, 2000
	for _, p := range []peer{kernel, overtap} {
		for _, o := range []netlab.Offload{netlab.AllOffloads, netlab.NoOffloads} {
			t.Run(fmt.Sprintf("%s/%v", p, o), func(t *testing.T) {
				lab := netlabtest.New(t)
				sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Offload: o}))
				a, b := sites[0], sites[1]
				p.end(t, b, blue(b, sites...), sites)
				d := start(t, a.Host, at(a, blue(a, sites...)))
				for _, f := range flows(a, b) {
					f.ping(t, netlab.PingOptions{Count: 1})
				}
				ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
				defer cancel()
				g, ctx := errgroup.WithContext(ctx)
				for _, f := range flows(a, b) {
					g.Go(func() error {
						r, err := traffic.TCP(ctx, f.from, f.to, traffic.TCPOptions{Bytes: streamed, Checked: true})
						if err == nil && r.Bytes != streamed {
							err = fmt.Errorf("TCP %v: %d bytes arrived, want %d", f, r.Bytes, streamed)
						}
						return err
					})
					g.Go(func() error {
						r, err := traffic.UDP(ctx, f.from, f.to, traffic.UDPOptions{Size: 64, Count: small, Rate: 2000})
						if err == nil && (r.Received < small*9/10 || r.Corrupted+r.Duplicated > 0) {
							err = fmt.Errorf("UDP %v: %v", f, r)
						}
						return err
					})
				}
				check(t, g.Wait())
				for _, drop := range d.dropped() {
					switch drop.Reason {
					case dataplane.DropTapFull, dataplane.DropWireFull: // of a machine with no time
					default:
						t.Errorf("dropped: %+v", drop)
					}
				}
			})
		}
	}
}

// What the containers send again stays near what they do over the kernel's own
// device.
func TestRetransmits(t *testing.T) {
	const streamed = 128 << 20
	sent := func(t *testing.T, make func(a, b *netlab.Site, sites []*netlab.Site)) (again, segments int64) {
		lab := netlabtest.New(t)
		sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
		a, b := sites[0], sites[1]
		make(a, b, sites)
		reaches(t, a.Container, b.IPv4)
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		for _, f := range flows(a, b) {
			r, err := traffic.TCP(ctx, f.from, f.to, traffic.TCPOptions{Bytes: streamed, Checked: true})
			check(t, err)
			again += r.Retransmits
			segments += r.Bytes / int64(a.MTU)
		}
		return again, segments
	}
	reference, segments := sent(t, func(a, b *netlab.Site, sites []*netlab.Site) {
		for _, s := range sites {
			check(t, s.AddKernelVXLAN(blue(s).vni, blue(s).port, sites...))
		}
	})
	ours, _ := sent(t, func(a, b *netlab.Site, sites []*netlab.Site) {
		start(t, a.Host, at(a, blue(a, sites...)))
		start(t, b.Host, at(b, blue(b, sites...)))
	})
	t.Logf("of %d segments the kernel's device had %d sent again, ours %d", segments, reference, ours)
	// The load decides how often a queue overflows: a hundredth is room for that.
	if ours > reference+segments/100 {
		t.Errorf("%d of %d segments were sent again, %d over the kernel's device", ours, segments, reference)
	}
}

// A daemon with nothing to do takes less than 0.2 % of a CPU.
func TestIdleTakesNoCPU(t *testing.T) {
	const idle = 5 * time.Second
	d, a, b := pair(t)
	exchange(t, a, b, 1<<20)
	time.Sleep(time.Second) // the last answers are under way
	before := d.ticks()
	time.Sleep(idle)
	spent := time.Duration(d.ticks()-before) * 10 * time.Millisecond // USER_HZ is 100
	// One tick may fall to any process that runs when the clock looks.
	if limit := idle/500 + 10*time.Millisecond; spent > limit && !raceEnabled {
		t.Errorf("%v of CPU time in %v, want at most %v", spent, idle, limit)
	}
}

// ticks returns the daemon's CPU time, user and system, in ticks.
func (d *daemon) ticks() (n int) {
	d.t.Helper()
	stat := must[[]byte](d.t)(os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid)))
	_, after, _ := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(after)
	for _, f := range fields[11:13] {
		n += must[int](d.t)(strconv.Atoi(string(f)))
	}
	return n
}
