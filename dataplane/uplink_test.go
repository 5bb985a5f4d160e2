package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux"
	"overtap/encap"
)

// GSO packets wants some to have left unsegmented meanwhile, and nothing dropped.
func gsoPackets(t *testing.T, e *dataplane.Engine, want bool, during func()) {
	t.Helper()
	before := e.Info().Uplink
	during()
	after := e.Info().Uplink
	if sent := after.Sent - before.Sent; sent > 0 != want {
		t.Errorf("%d GSO packets left unsegmented: %+v", sent, after)
	}
	for _, d := range e.Stats().Drops {
		if d.Direction == dataplane.Outbound {
			t.Errorf("dropped: %+v", d)
		}
	}
}

// send sends so many checked bytes of TCP from a to b.
func send(t *testing.T, a, b *netlab.Site, bytes int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	from, to := traffic.End{Host: a.Container, Addr: a.IPv4}, traffic.End{Host: b.Container, Addr: b.IPv4}
	r, err := traffic.TCP(ctx, from, to, traffic.TCPOptions{Bytes: bytes, Checked: true})
	if err != nil {
		t.Error(err)
	}
	t.Log(r)
}

// checksumErrors are those that the hosts' stacks have counted.
func checksumErrors(t *testing.T, hosts ...*netlab.Host) (n uint64) {
	t.Helper()
	for _, h := range hosts {
		counters, err := h.SNMP()
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range counters {
			if strings.HasSuffix(name, "InCsumErrors") {
				n += value
			}
		}
	}
	return n
}

// TestUplink sends GSO packets of every kind unsegmented to a kernel peer: over a
// device that carries them whole, and over devices where the stack cuts and
// sums them last.
func TestUplink(t *testing.T) {
	for _, c := range []struct {
		name    string
		spec    netlab.SiteSpec
		feature string   // lets GSO packets leave by the device
		off     []string // features of the underlay
		want    bool
	}{
		{name: "whole", want: true},
		{name: "whole, IPv6", spec: netlab.SiteSpec{V6: true}, want: true},
		{name: "whole, jumbo", spec: netlab.SiteSpec{UnderlayMTU: 9000}, want: true},
		{name: "no tunnel segmentation", spec: netlab.SiteSpec{Offload: netlab.NoTunnelSegmentation}},
		{name: "cut by the stack", spec: netlab.SiteSpec{Offload: netlab.NoTunnelSegmentation}, feature: "tx-scatter-gather", want: true},
		{name: "cut and summed by the stack", spec: netlab.SiteSpec{Offload: netlab.NoOffloads},
			feature: "highdma", off: []string{"tx-checksum-ip-generic"}, want: true},
		{name: "cut and summed by the stack, IPv6", spec: netlab.SiteSpec{V6: true, Offload: netlab.NoOffloads},
			feature: "highdma", off: []string{"tx-checksum-ip-generic"}, want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.feature != "" {
				t.Cleanup(linux.UplinkByFeature(c.feature))
			}
			e, a, b := kernelPair(t, c.spec, nil)
			if len(c.off) > 0 {
				if err := a.Host.SetFeatures(netlab.UnderlayDev, false, c.off...); err != nil {
					t.Fatal(err)
				}
			}
			if i := e.Info().Uplink; i.Active != c.want {
				t.Fatalf("%+v", i)
			}
			gsoPackets(t, e, c.want, func() { bulk(t, a, b) })
			if n := checksumErrors(t, a.Container, b.Container, a.Host, b.Host); n != 0 {
				t.Errorf("%d checksum errors", n)
			}
		})
	}
}

// TestUplinkLongest sends UDP GSO packets around the longest that one outer
// packet holds: what does not fit leaves cut.
func TestUplinkLongest(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	from, to := traffic.End{Host: a.Container, Addr: a.IPv4}, traffic.End{Host: b.Container, Addr: b.IPv4}
	if _, err := traffic.UDP(ctx, from, to, traffic.UDPOptions{Count: 46, Size: 1400, Segment: true, Batch: 46}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		size, batch int
		unsegmented bool
	}{
		{1391, 47, true},  // 65377 + 42 bytes of inner frame
		{1393, 47, false}, // 65471 + 42
	} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			time.Sleep(200 * time.Millisecond) // a peer is shunned for less
			gsoPackets(t, e, c.unsegmented, func() {
				o := traffic.UDPOptions{Count: int64(4 * c.batch), Size: c.size, Segment: true, Batch: c.batch}
				r, err := traffic.UDP(ctx, from, to, o)
				if err != nil || r.Received != o.Count || r.Corrupted > 0 {
					t.Errorf("%v, %v", r, err)
				}
			})
		})
	}
}

// event waits for one of the kind.
func event(t *testing.T, e *dataplane.Engine, kind dataplane.EventKind) {
	t.Helper()
	for {
		select {
		case ev := <-e.Events():
			if ev.Kind == kind {
				t.Log(ev.Err)
				return
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no event of kind %d", kind)
		}
	}
}

// TestUplinkLost takes the uplink away in each way there is: nothing is lost,
// and it is said once.
func TestUplinkLost(t *testing.T) {
	for name, take := range map[string]func(*netlab.Host, *dataplane.Engine) error{
		"deleted":  func(h *netlab.Host, e *dataplane.Engine) error { return h.DeleteLink(e.Info().Uplink.Device) },
		"set down": func(h *netlab.Host, e *dataplane.Engine) error { return h.SetDown(e.Info().Uplink.Device) },
		"detached": func(_ *netlab.Host, e *dataplane.Engine) error { return e.Kernel().DetachUplink() },
	} {
		t.Run(name, func(t *testing.T) {
			e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
			gsoPackets(t, e, true, func() { send(t, a, b, 4<<20) })
			if err := take(a.Host, e); err != nil {
				t.Fatal(err)
			}
			gsoPackets(t, e, false, func() { send(t, a, b, 16<<20) })
			event(t, e, dataplane.UplinkLost)
			if i := e.Info().Uplink; !i.Lost || i.Active || i.Reason == "" {
				t.Errorf("%+v", i)
			}
		})
	}
}

// TestUplinkFollowsRoute moves the route to the peer to another device and back
// under load, then takes the first device down and up.
func TestUplinkFollowsRoute(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	gsoPackets(t, e, true, func() { send(t, a, b, 4<<20) })

	if err := netlab.AddVeth(a.Host, "eth1", b.Host, "eth1", 1500); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*netlab.Host{a.Host, b.Host} { // the peer answers by eth0
		for _, dev := range []string{"all", "eth1", netlab.UnderlayDev} {
			if err := h.Sysctl("net/ipv4/conf/"+dev+"/rp_filter", "0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	nl, err := a.Host.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	link, err := nl.LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: b.Underlay.AsSlice(), Mask: net.CIDRMask(32, 32)},
	}
	if err := nl.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	bytes := func(dev string) uint64 {
		c, err := a.Host.Counters(dev)
		if err != nil {
			t.Fatal(err)
		}
		return c.TxBytes
	}
	send(t, a, b, 4<<20)
	time.Sleep(2500 * time.Millisecond) // the device is looked at by the second tick
	eth0, eth1 := bytes(netlab.UnderlayDev), bytes("eth1")
	gsoPackets(t, e, true, func() { send(t, a, b, 16<<20) })
	if d0, d1 := bytes(netlab.UnderlayDev)-eth0, bytes("eth1")-eth1; d1 < 16<<20 || d0 > 1<<20 {
		t.Errorf("%d bytes left by eth0, %d by eth1", d0, d1)
	}

	// Load while the device with the route vanishes: the kernel falls back to
	// the route by eth0.
	done := make(chan struct{})
	go func() {
		defer close(done)
		send(t, a, b, 64<<20)
	}()
	time.Sleep(20 * time.Millisecond)
	if err := a.Host.DeleteLink("eth1"); err != nil {
		t.Error(err)
	}
	<-done

	go func() {
		time.Sleep(20 * time.Millisecond)
		if err := errors.Join(a.Host.SetDown(netlab.UnderlayDev), a.Host.SetUp(netlab.UnderlayDev)); err != nil {
			t.Error(err)
		}
	}()
	send(t, a, b, 64<<20)
	if i := e.Info().Uplink; !i.Active || i.Lost {
		t.Errorf("%+v", i)
	}
}

// TestUplinkPathMTU: GSO packets whose packets the route does not carry are
// refused there, the socket says why, and their sender gets an ICMP error and makes them
// such that they leave unsegmented.
func TestUplinkPathMTU(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	nl, err := a.Host.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	link, err := nl.LinkByName(netlab.UnderlayDev)
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, MTU: 1400, MTULock: true,
		Dst: &net.IPNet{IP: b.Underlay.AsSlice(), Mask: net.CIDRMask(32, 32)},
	}
	if err := nl.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	send(t, a, b, 16<<20)
	time.Sleep(200 * time.Millisecond) // the uplink tries again
	send(t, a, b, 16<<20)
	i, s := e.Info().Uplink, e.Stats()
	if i.Refused["too_big"] == 0 || i.Sent == 0 || s.Networks[0].Answered == 0 || s.Peers[0].PathMTU != 1400 ||
		!slices.ContainsFunc(s.Drops, func(d dataplane.DropStats) bool { return d.Reason == dataplane.DropTooBig }) {
		t.Errorf("%+v, %+v", i, s)
	}
}

// TestUplinkRestsUnderIPsec: the uplink would pass by the transforms.
func TestUplinkRestsUnderIPsec(t *testing.T) {
	e, a, b := kernelPair(t, netlab.SiteSpec{}, nil)
	policy := &netlink.XfrmPolicy{
		Dir: netlink.XFRM_DIR_OUT, Action: netlink.XFRM_POLICY_ALLOW,
		Src: &net.IPNet{IP: net.IPv4(203, 0, 113, 1), Mask: net.CIDRMask(32, 32)},
		Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 2), Mask: net.CIDRMask(32, 32)},
	}
	gsoPackets(t, e, true, func() { send(t, a, b, 4<<20) })
	if err := a.Host.Do(func() error { return netlink.XfrmPolicyAdd(policy) }); err != nil {
		t.Fatal(err)
	}
	await := func(active bool) {
		t.Helper()
		for range 1000 {
			if e.Info().Uplink.Active == active {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("%+v", e.Info().Uplink)
	}
	await(false)
	gsoPackets(t, e, false, func() { send(t, a, b, 4<<20) })
	if err := a.Host.Do(func() error { return netlink.XfrmPolicyDel(policy) }); err != nil {
		t.Fatal(err)
	}
	await(true)
	gsoPackets(t, e, true, func() { send(t, a, b, 4<<20) })
}

// TestUplinkGoes: Close leaves neither devices nor descriptors.
func TestUplinkGoes(t *testing.T) {
	lab := netlabtest.New(t)
	sites, err := lab.Sites(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	links, err := sites[0].Host.Links()
	if err != nil {
		t.Fatal(err)
	}
	var first int
	for i := range 5 {
		err := sites[0].Host.Do(func() error {
			e, err := newEngine(linux.Options{Underlay: sites[0].Underlay})
			if err != nil {
				return err
			}
			if u := e.Info().Uplink; !u.Active {
				t.Errorf("%+v", u)
			}
			return e.Close()
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = count() // the poller's own are open now
		}
	}
	if n := count(); n > first {
		t.Errorf("%d descriptors, %d before", n, first)
	}
	if after, err := sites[0].Host.Links(); err != nil || !slices.Equal(links, after) {
		t.Errorf("links %v, before %v, %v", after, links, err)
	}
}

// TestUplinkAllocatesNothing per GSO packet.
func TestUplinkAllocatesNothing(t *testing.T) {
	e, _, _ := kernelPair(t, netlab.SiteSpec{}, nil)
	w := &netio.Unsegmented{
		To: netip.MustParseAddrPort("127.0.0.1:4789"), Data: make([]byte, 3000), L3: 14, TTL: 1,
		VNet: encap.VnetHdr{GSOType: encap.VnetGSOTCPv4, HdrLen: 54, GSOSize: 1000, CsumStart: 34, CsumOffset: 16},
	}
	if n := testing.AllocsPerRun(100, func() { e.Kernel().SendUnsegmented(w) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if i := e.Info().Uplink; i.Refused["no_route"] == 0 || i.Lost {
		t.Errorf("%+v", i)
	}
}
