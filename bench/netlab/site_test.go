package netlab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// pingAll fails the test unless every request from h to dst is answered once.
func pingAll(t testing.TB, h *netlab.Host, dst netip.Addr, size int) {
	t.Helper()
	r := must[netlab.PingResult](t)(netlab.Ping(h, dst, netlab.PingOptions{Count: 3, Size: size, DF: true}))
	if r.Received != 3 || r.Duplicates+r.Corrupted+r.Errors > 0 {
		t.Errorf("%s to %v: %v", h.Name(), dst, r)
	}
}

func noAnswer(t testing.TB, h *netlab.Host, dst netip.Addr) {
	t.Helper()
	r := must[netlab.PingResult](t)(netlab.Ping(h, dst, netlab.PingOptions{Timeout: 100 * time.Millisecond}))
	if r.Received != 0 {
		t.Errorf("%s to %v: %v, want no answer", h.Name(), dst, r)
	}
}

func TestKernelPair(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	for _, spec := range []netlab.SiteSpec{
		{},
		{V6: true, UnderlayMTU: 9000},
		{Offload: netlab.NoOffloads},
	} {
		t.Run(fmt.Sprintf("v6=%v,mtu=%d,%v", spec.V6, spec.UnderlayMTU, spec.Offload), func(t *testing.T) {
			lab := netlabtest.New(t)
			a, b, err := lab.KernelPair(spec)
			check(t, err)
			wantMTU := map[bool]encap.OverlayMTU{false: 1450, true: 8930}[spec.V6]
			if a.MTU != wantMTU {
				t.Errorf("overlay MTU %d, want %d", a.MTU, wantMTU)
			}
			for _, dev := range []string{netlab.SiteBridge, netlab.SiteVXLAN, "a1"} {
				if mtu := must[int](t)(a.Host.MTU(dev)); mtu != int(wantMTU) {
					t.Errorf("MTU of %s %d, want %d", dev, mtu, wantMTU)
				}
			}
			// Packets that just fit, both ways.
			pingAll(t, a.Container, b.IPv4, int(wantMTU)-28)
			pingAll(t, b.Container, a.IPv6, int(wantMTU)-48)
			// And each VTEP has learned the other's container.
			for _, s := range [][2]*netlab.Site{{a, b}, {b, a}} {
				here, there := s[0], s[1]
				var learned, flood bool
				for _, e := range must[[]netlab.FDBEntry](t)(here.Host.KernelFDB(netlab.SiteVXLAN)) {
					learned = learned || e.MAC == there.MAC && e.Peer == there.Underlay && !e.Static && !e.Bridge
					flood = flood || e.MAC == 0 && e.Peer == there.Underlay && e.Static
				}
				if !learned || !flood {
					t.Errorf("host %s: learned %v at %v: %v; flood list: %v",
						here.Host.Name(), there.MAC, there.Underlay, learned, flood)
				}
			}
			if c := must[netlink.LinkStatistics](t)(a.Host.Counters(netlab.SiteVXLAN)); c.TxPackets < 6 || c.RxPackets < 6 {
				t.Errorf("vxlan device counted %d out and %d in, want at least the six pings each", c.TxPackets, c.RxPackets)
			}
		})
	}
}

func TestThreeHostsAndMovingContainer(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	a, b, c := sites[0], sites[1], sites[2]
	for _, s := range sites {
		check(t, s.AddKernelVXLAN(7, 8472, sites...))
	}
	pingAll(t, a.Container, b.IPv4, 100)
	pingAll(t, a.Container, c.IPv6, 100)
	pingAll(t, b.Container, c.IPv4, 100)

	addrs, mac := must[[]netip.Prefix](t)(b.Container.Addrs("eth0")), must[encap.MAC](t)(b.Container.MAC("eth0"))
	check(t, netlab.MoveContainer(b.Container, b.Host, c.Host, netlab.SiteBridge))
	if got := must[[]netip.Prefix](t)(b.Container.Addrs("eth0")); fmt.Sprint(got) != fmt.Sprint(addrs) {
		t.Errorf("addresses %v after the move, %v before", got, addrs)
	}
	if got := must[encap.MAC](t)(b.Container.MAC("eth0")); got != mac {
		t.Errorf("MAC %v after the move, %v before", got, mac)
	}
	pingAll(t, b.Container, a.IPv4, 100)
	pingAll(t, b.Container, c.IPv4, 100)
	var peer netip.Addr
	for _, e := range must[[]netlab.FDBEntry](t)(a.Host.KernelFDB(netlab.SiteVXLAN)) {
		if e.MAC == mac && !e.Bridge {
			peer = e.Peer
		}
	}
	if peer != c.Underlay {
		t.Errorf("host a has the moved container at %v, want %v", peer, c.Underlay)
	}
	// After Open the parts are found again by name.
	again := must[*netlab.Lab](t)(netlab.Open(lab.Name()))
	moved := must[*netlab.Host](t)(again.Host("b1"))
	pingAll(t, moved, a.IPv6, 100)
}

func TestMulticastUnderlay(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	for _, s := range sites {
		check(t, s.Host.AddVXLAN(netlab.VXLANSpec{
			Name: "vx0", VNI: 9, Local: s.Underlay, Dev: netlab.UnderlayDev,
			Remote: netip.MustParseAddr("239.1.1.1"), Bridge: netlab.SiteBridge,
		}))
	}
	pingAll(t, sites[0].Container, sites[2].IPv4, 100)
	pingAll(t, sites[1].Container, sites[2].IPv6, 100)
}

func TestVXLANOptions(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: true}))
	a, b := sites[0], sites[1]
	const macA, macB = encap.MAC(0x0242c0000201), encap.MAC(0x0242c0000202)
	spec := netlab.VXLANSpec{
		Name: "vx0", VNI: 1, Local: a.Underlay, NoLearning: true, ZeroChecksum: true, AcceptZeroSum6: true,
		TTL: 3, Bridge: netlab.SiteBridge, MAC: macA, MTU: 1400,
	}
	check(t, a.Host.AddVXLAN(spec))
	spec.Local, spec.MAC = b.Underlay, macB
	check(t, b.Host.AddVXLAN(spec))
	if got := must[encap.MAC](t)(a.Host.MAC("vx0")); got != macA {
		t.Errorf("MAC %v, want %v", got, macA)
	}
	// Without learning and flood list only entries that were given forward.
	noAnswer(t, a.Container, b.IPv4)
	check(t, a.Host.AddFDB("vx0", 0, b.Underlay))
	check(t, b.Host.AddFDB("vx0", 0, a.Underlay))
	sums := captureSums(t, b.Host, 4789)
	pingAll(t, a.Container, b.IPv4, 100)
	if sum := <-sums; sum != 0 {
		t.Errorf("outer UDP checksum %#x, want zero as asked", sum)
	}
	for _, e := range must[[]netlab.FDBEntry](t)(a.Host.KernelFDB("vx0")) {
		if e.MAC == b.MAC && !e.Bridge {
			t.Errorf("learned %v in spite of NoLearning", e.MAC)
		}
	}
	// An entry for the container outlives the flood list, until it goes too.
	check(t, a.Host.AddFDB("vx0", b.MAC, b.Underlay))
	check(t, a.Host.DeleteFDB("vx0", 0, b.Underlay))
	pingAll(t, a.Container, b.IPv4, 100)
	check(t, a.Host.DeleteFDB("vx0", b.MAC, b.Underlay))
	noAnswer(t, a.Container, b.IPv4)
}

// captureSums returns the UDP checksum of the first packet over IPv6 that comes
// to the port of the host, or 1 when none does.
func captureSums(t testing.TB, h *netlab.Host, port uint16) <-chan uint16 {
	var fd int
	check(t, h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		return err
	}))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	sum := make(chan uint16, 1)
	go func() {
		defer unix.Close(fd)
		b := make([]byte, 2048)
		for {
			n, err := unix.Read(fd, b)
			if err != nil || n < 8 {
				sum <- 1
				return
			}
			if uint16(b[2])<<8|uint16(b[3]) == port {
				sum <- uint16(b[6])<<8 | uint16(b[7])
				return
			}
		}
	}()
	return sum
}

func TestOffloads(t *testing.T) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Count: 3}))
	sw := must[*netlab.Host](t)(lab.Host("switch"))
	fresh := must[map[string]bool](t)(sites[0].Host.Features("a1"))
	for _, o := range []netlab.Offload{netlab.NoOffloads, netlab.NoTunnelSegmentation, netlab.AllOffloads} {
		check(t, lab.SetUnderlayOffload(o, sites[0].Host, sites[1].Host, sites[2].Host))
		for _, h := range []*netlab.Host{sites[1].Host, sw} {
			dev := netlab.UnderlayDev
			if h == sw {
				dev = "c"
			}
			f := must[map[string]bool](t)(h.Features(dev))
			for name, want := range map[string]bool{
				"tx-udp_tnl-segmentation":      o == netlab.AllOffloads,
				"tx-udp_tnl-csum-segmentation": o == netlab.AllOffloads,
				"tx-tcp-segmentation":          o != netlab.NoOffloads,
				"tx-tcp6-segmentation":         o != netlab.NoOffloads,
				"tx-generic-segmentation":      o != netlab.NoOffloads,
				"tx-udp-segmentation":          o != netlab.NoOffloads,
				"rx-gro":                       false,
				"tx-checksum-ip-generic":       true,
			} {
				if got, ok := f[name]; !ok || got != want {
					t.Errorf("%v: host %s: %s is %v (known: %v), want %v", o, h.Name(), name, got, ok, want)
				}
			}
			if o == netlab.AllOffloads && fmt.Sprint(f) != fmt.Sprint(fresh) {
				t.Errorf("all offloads differ from a new veth's:\n%v\n%v", f, fresh)
			}
		}
	}
	if err := sites[0].Host.SetFeatures("eth0", true, "tx-no-such"); err == nil {
		t.Error("an unknown feature was switched")
	}
	if err := sites[0].Host.SetFeatures("eth0", true, "loopback"); err == nil {
		t.Error("a fixed feature was switched")
	}
}

// TestRoutedUnderlay: a host learns from its router what does not fit the link
// behind it, each way, over both families.
func TestRoutedUnderlay(t *testing.T) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{Hop: 1400}))
	a, b := sites[0], sites[1]
	for _, v6 := range []bool{false, true} {
		for _, way := range [][2]*netlab.Site{{a, b}, {b, a}} {
			from, to := way[0].Host, netlab.UnderlayAddr(way[1].N, v6)
			pingAll(t, from, to, 1400-48)
			r := must[netlab.PingResult](t)(netlab.Ping(from, to, netlab.PingOptions{Count: 2, Size: 1400, DF: true, Timeout: 100 * time.Millisecond}))
			if r.Received != 0 || r.PathMTU != 1400 {
				t.Errorf("%s to %v: %v, path MTU %d, want 1400", from.Name(), to, r, r.PathMTU)
			}
		}
	}
	if _, err := lab.Sites(netlab.SiteSpec{Count: 3, Hop: 1400}); err == nil {
		t.Error("three sites with routers between")
	}
}

// A bridge says how many MACs it has learned, at all its ports.
func TestBridgeLearned(t *testing.T) {
	lab := netlabtest.New(t)
	a, b, err := lab.KernelPair(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Timeout: 10 * time.Second}); err != nil || r.Received != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	want := map[encap.MAC]bool{}
	for _, dev := range []string{netlab.SiteVXLAN, a.Container.Name()} {
		for _, e := range must[[]netlab.FDBEntry](t)(a.Host.KernelFDB(dev)) {
			if e.Bridge && !e.Static {
				want[e.MAC] = true
			}
		}
	}
	if n, err := a.Host.BridgeLearned(netlab.SiteBridge); err != nil || n != len(want) || n < 2 {
		t.Errorf("%d learned, %v; its ports list %d", n, err, len(want))
	}
	if _, err := a.Host.BridgeLearned(netlab.SiteVXLAN); !errors.Is(err, netlab.ErrNotCounted) {
		t.Errorf("of a device that is no bridge: %v", err)
	}
}
