package interop

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// many are n networks with one peer, with a bridge of their own or without, that
// have an address of this host.
func many(peer *netlab.Site, n int, bridge bool) (all []network) {
	for i := range n {
		w := network{name: fmt.Sprintf("n%d", i), vni: encap.VNI(1000 + i), port: 4789, peers: []netip.Addr{peer.Underlay}}
		if bridge {
			w.bridge = fmt.Sprintf("br-n%d", i)
		}
		all = append(all, w.with(fmt.Sprintf(`addresses = ["10.%d.%d.1/24"]`, 100+i/250, i%250)))
	}
	return all
}

// bridgesEnd is how long the kernel takes to remove so many bridges in one request.
func bridgesEnd(t *testing.T, h *netlab.Host, n int) time.Duration {
	t.Helper()
	const group = 7
	nh := must[*netlink.Handle](t)(h.Netlink())
	for i := range n {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Group = fmt.Sprintf("control%d", i), group
		l := &netlink.Bridge{LinkAttrs: attrs}
		check(t, nh.LinkAdd(l))
		check(t, nh.LinkSetUp(l))
	}
	began := time.Now()
	check(t, h.Do(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}))
	return time.Since(began)
}

// Hundreds of networks are ready within seconds and gone within seconds. The end of
// a bridge takes the kernel a grace period (br_multicast_dev_del), 17 ms where HZ is
// 250: where that is more than half of the bound, twice as long is the bound.
func TestManyNetworks(t *testing.T) {
	for _, c := range []struct {
		networks    int
		bridge      bool
		ready, gone time.Duration
	}{
		{300, true, 15 * time.Second, 5 * time.Second},
		{1000, false, 60 * time.Second, 15 * time.Second},
	} {
		t.Run(fmt.Sprintf("%d, bridges %v", c.networks, c.bridge), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
			a, b := sites[0], sites[1]
			if c.bridge {
				c.gone = max(c.gone, 2*bridgesEnd(t, a.Host, c.networks))
			}
			began := time.Now()
			d := start(t, a.Host, at(a, many(b, c.networks, c.bridge)...))
			ready := time.Since(began)
			d.conserves() // stop asks for it too, and need not wait by then
			began = time.Now()
			d.stop(syscall.SIGTERM)
			gone := time.Since(began)
			t.Logf("ready after %v, gone after %v (bounds %v, %v)", ready, gone, c.ready, c.gone)
			if raceEnabled {
				return
			}
			if ready > c.ready {
				t.Errorf("ready after %v, want at most %v", ready, c.ready)
			}
			if gone > c.gone {
				t.Errorf("gone after %v, want at most %v", gone, c.gone)
			}
			if log := d.log.String(); strings.Contains(log, "put back") {
				t.Errorf("something was put back that was not removed:\n%s", log)
			}
		})
	}
}
