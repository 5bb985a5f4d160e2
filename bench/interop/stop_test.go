package interop

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
)

// A daemon that is told to end while everything is busy ends in order.
func TestEndsDuringTraffic(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			d, a, b := pair(t)
			reaches(t, a.Container, b.IPv4)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			var busy sync.WaitGroup
			for _, f := range flows(a, b) {
				busy.Go(func() {
					// They break off when the daemon has gone.
					_, _ = traffic.TCP(ctx, f.from, f.to, traffic.TCPOptions{Duration: patience})
				})
				busy.Go(func() {
					_, _ = traffic.UDP(ctx, f.from, f.to, traffic.UDPOptions{Duration: patience})
				})
			}
			// In full swing, whatever the machine does besides.
			eventually(t, "traffic each way", func() error {
				n := d.stats().Networks[0]
				if n.TxPackets < 20000 || n.RxPackets < 20000 {
					return fmt.Errorf("%+v", n)
				}
				return nil
			})
			d.stop(sig)
			cancel()
			busy.Wait()
		})
	}
}

// A daemon that dies with no chance to clean up leaves its TAP and its bridge; the
// next one takes them over, and removes them in its place.
func TestStartsAfterCrash(t *testing.T) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	n := blue(a, sites...).with(`addresses = ["198.51.100.101/24"]`)
	n.bridge = "br-blue"
	conf := at(a, n)
	file, socket := prepare(t, conf)
	d := startFile(t, a.Host, conf, file, socket)
	made := d.made
	if want := []string{"vx-blue", "br-blue"}; !slices.Equal(made, want) {
		t.Fatalf("the daemon was to make %v, want %v", made, want)
	}
	check(t, a.Host.SetMaster("a1", "br-blue"))
	reaches(t, b.Container, a.IPv4)
	for range 2 {
		d.kill()
		for _, dev := range made {
			if gone(a.Host, dev) == nil {
				t.Fatalf("%s is gone without anybody removing it", dev)
			}
		}
		d = startFile(t, a.Host, conf, file, socket)
		d.made = made
		reaches(t, b.Container, a.IPv4)
		reaches(t, a.Host, b.IPv4)
	}
	exchange(t, a, b, 1<<20)
}
