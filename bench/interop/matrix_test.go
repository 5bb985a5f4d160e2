package interop

import (
	"fmt"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// peer ends the tunnel at the other host.
type peer string

const (
	kernel  peer = "kernel"
	overtap peer = "overtap"
)

// end makes the site's end of the tunnel.
func (p peer) end(t testing.TB, s *netlab.Site, n network, sites []*netlab.Site) {
	t.Helper()
	if p == kernel {
		check(t, s.AddKernelVXLAN(n.vni, n.port, sites...))
		return
	}
	start(t, s.Host, at(s, n))
}

// Every kind of traffic, each way, over each kind of underlay.
func TestExchange(t *testing.T) {
	t.Parallel()
	const kernelTCP, plainTCP = 16 << 20, 4 << 20
	for _, c := range []struct {
		v6      bool
		mtu     encap.UnderlayMTU
		peer    peer
		offload netlab.Offload // of the underlay
		plain   bool           // TAPs without offload
		bytes   int64
	}{
		{false, 1500, kernel, netlab.AllOffloads, false, kernelTCP},
		{false, 9000, kernel, netlab.AllOffloads, false, kernelTCP},
		{true, 1500, kernel, netlab.AllOffloads, false, kernelTCP},
		{true, 9000, kernel, netlab.AllOffloads, false, kernelTCP},
		{false, 1500, kernel, netlab.NoOffloads, false, plainTCP},
		{false, 1500, kernel, netlab.NoTunnelSegmentation, false, kernelTCP},
		{false, 1500, kernel, netlab.AllOffloads, true, plainTCP},
		{true, 9000, kernel, netlab.NoOffloads, true, plainTCP},
		{false, 1500, overtap, netlab.AllOffloads, false, kernelTCP},
		{true, 9000, overtap, netlab.AllOffloads, false, kernelTCP},
		{true, 1500, overtap, netlab.NoOffloads, true, plainTCP},
	} {
		family := map[bool]string{false: "v4", true: "v6"}[c.v6]
		name := fmt.Sprintf("%s/%d/%s/%v", family, c.mtu, c.peer, c.offload)
		if c.plain {
			name += "/plain TAP"
		}
		t.Run(name, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: c.v6, UnderlayMTU: c.mtu, Offload: c.offload}))
			a, b := sites[0], sites[1]
			c.peer.end(t, b, blue(b, sites...), sites)
			conf := at(a, blue(a, sites...))
			if c.plain {
				conf.engine = append(conf.engine, "offload = false")
			}
			d := start(t, a.Host, conf)
			if got := d.status().Networks[0].MTU; got != a.MTU {
				t.Errorf("derived MTU %d, want %d", got, a.MTU)
			}
			exchange(t, a, b, c.bytes)
			if drops := d.dropped(); len(drops) > 0 {
				t.Errorf("dropped: %+v", drops)
			}
		})
	}
}
