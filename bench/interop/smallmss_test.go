package interop

import (
	"testing"

	"overtap/bench/netlab"
	"overtap/dataplane"
)

// TCP with a small MSS crosses IP-in-IP: its GSO packets have more segments than the
// daemon has room for headers.
func TestIPIPSmallMSS(t *testing.T) {
	t.Parallel()
	for name, engine := range map[string][]string{
		"uplink": nil, "segmented here": {"tunnel_gso = false"}, "plain": {"offload = false"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTunnelled(t, 2, "", engine...)
			for i, c := range w.containers {
				out, err := c.Command("ip", "route", "replace", "default", "via", inner(i, 1, false).String(),
					"dev", netlab.ContainerDev, "advmss", "88").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			const bytes = 16 << 20 // until the kernel's GSO packets have their full size
			for _, f := range w.flows() {
				f.ping(t, netlab.PingOptions{Count: 1})
				f.tcp(t, bytes)
			}
			for i, d := range w.daemons {
				for _, drop := range d.dropped() {
					if drop.Reason == dataplane.DropBadOffload {
						t.Errorf("host %d: dropped: %+v", i, drop)
					}
				}
				if n := d.stats().Networks[0].TxPackets; n < bytes/88 {
					t.Errorf("host %d sent %d packets: the segments are not small", i, n)
				}
			}
		})
	}
}
