package dataplane_test

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/netlab/wiretest"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// hostPaths are the two paths of a single worker over a site's TAP and sockets,
// without the threads.
func hostPaths(t *testing.T, a, b *netlab.Site, noUplink bool) *dataplane.Paths {
	t.Helper()
	var r *dataplane.Paths
	err := a.Host.Do(func() (err error) {
		backend, err := linux.New(linux.Options{Underlay: a.Underlay, NoTunnelGSO: noUplink, Workers: 1})
		if err != nil {
			return err
		}
		r, err = dataplane.NewPaths(dataplane.Options{Underlay: a.Underlay, Backend: backend}, siteNetwork(a, b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := a.Host.SetUp(netlab.SiteVXLAN); err != nil {
		t.Fatal(err)
	}
	return r
}

// sitePair are two sites; the second has the kernel's vxlan.
func sitePair(t *testing.T) (a, b *netlab.Site) {
	t.Helper()
	sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sites[1].AddKernelVXLAN(100, 4789, sites[0]); err != nil {
		t.Fatal(err)
	}
	return sites[0], sites[1]
}

// TestHostBackendAllocatesNothing takes real frames from a TAP to sockets and the
// Uplink, and datagrams from a socket to the TAP: neither the path nor what is
// below it allocates.
func TestHostBackendAllocatesNothing(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
	udp := flowSpec{src: macA, dst: macB, udp: true}
	for name, c := range map[string]struct {
		frames   []netiotest.Frame
		noUplink bool
		uncut    bool
	}{
		"small":       {frames: []netiotest.Frame{udp.partial(t, pattern(100)), tcp.partial(t, nil)}},
		"cut":         {frames: []netiotest.Frame{tcp.gsoPacket(t, pattern(40000), 1386), udp.gsoPacket(t, pattern(40000), 1400)}, noUplink: true},
		"unsegmented": {frames: []netiotest.Frame{tcp.gsoPacket(t, pattern(40000), 1386)}, uncut: true},
		"all":         {frames: []netiotest.Frame{udp.partial(t, pattern(100)), tcp.gsoPacket(t, pattern(40000), 1386)}, uncut: true},
		"drops":       {frames: []netiotest.Frame{plainFrame(bridgeMAC, macA, "x"), plainFrame(macB, groupMAC, "x")}},
		"floods":      {frames: []netiotest.Frame{plainFrame(encap.BroadcastMAC, macA, "who has")}},
	} {
		t.Run("outbound "+name, func(t *testing.T) {
			a, b := sitePair(t)
			r := hostPaths(t, a, b, c.noUplink)
			r.Learn(macB, 0)
			// What leaves the device by a packet socket is what the TAP reads.
			s := wiretest.Open(t, a.Host, netlab.SiteVXLAN)
			if err := unix.SetsockoptInt(s.FD(), unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
				t.Fatal(err)
			}
			var raws [][]byte
			for _, f := range c.frames {
				raw := make([]byte, encap.VnetHdrLen, encap.VnetHdrLen+len(f.Data))
				f.VNet.Put(raw)
				raws = append(raws, append(raw, f.Data...))
			}
			turn := func() {
				for _, raw := range raws {
					if _, err := unix.Write(s.FD(), raw); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.Outbound(); err != nil {
					t.Fatal(err)
				}
			}
			turn()
			time.Sleep(50 * time.Millisecond) // the next hop is resolved
			before := r.Engine.Stats()
			if n := testing.AllocsPerRun(100, turn); n != 0 {
				t.Errorf("%.2f allocations a batch", n)
			}
			after := r.Engine.Stats()
			moved := after.Networks[0].TxPackets - before.Networks[0].TxPackets
			for i := range after.Drops {
				moved += after.Drops[i].Count
			}
			if moved < 101*uint64(len(c.frames)) {
				t.Errorf("%d frames went out or were dropped", moved)
			}
			if up := r.Engine.Info().Uplink; (up.Sent > 0) != c.uncut {
				t.Errorf("uplink %+v", up)
			}
		})
	}

	t.Run("inbound", func(t *testing.T) {
		a, b := sitePair(t)
		r := hostPaths(t, a, b, false)
		fd := -1
		err := b.Host.Do(func() (err error) {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			return unix.Connect(fd, &unix.SockaddrInet4{Port: testPort, Addr: a.Underlay.As4()})
		})
		if fd >= 0 {
			t.Cleanup(func() { unix.Close(fd) })
		}
		if err != nil {
			t.Fatal(err)
		}
		var datagrams [][]byte
		back := tcp
		back.src, back.dst = macB, macA
		for _, frame := range append(back.segments(t, pattern(8*1386), 1386), helloBack.Data, []byte("short")) {
			datagrams = append(datagrams, vxlan(testVNI, frame))
		}
		if n := testing.AllocsPerRun(100, func() {
			for _, d := range datagrams {
				if _, err := unix.Write(fd, d); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Inbound(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%.2f allocations a batch", n)
		}
		if s := r.Engine.Stats(); s.Networks[0].RxPackets < 101*9 || len(s.Drops) == 0 || s.Drops[0].Count < 101 {
			t.Errorf("received %+v, dropped %+v", s.Networks[0], s.Drops)
		}
	})
}
