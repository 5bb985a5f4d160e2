package dataplane_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// smallSizes are payloads of TCP with a small MSS: more segments than header slots,
// the last round full, of one segment, or of some.
var smallSizes = []struct{ size, length int }{
	{88, 60000}, {1, 3000}, {8, 4096}, {8, 512 * 8}, {8, 512*8 + 1}, {8, 1024*8 - 3}, {128, 65000},
}

// TestSmallSegmentsLeave cuts GSO packets of more segments than there are header
// slots: to one peer, to several, and by IP-in-IP.
func TestSmallSegmentsLeave(t *testing.T) {
	for _, udp := range []bool{false, true} {
		for _, c := range smallSizes {
			t.Run(fmt.Sprintf("udp=%t, %d bytes by %d", udp, c.length, c.size), func(t *testing.T) {
				s := flowSpec{src: macA, dst: macB, udp: udp, tcpFlags: encap.TCPACK | encap.TCPPSH}
				payload := pattern(c.length)
				super, want := s.gsoPacket(t, payload, c.size), s.segments(t, payload, c.size)
				octets := uint64(0)
				for _, f := range want {
					octets += uint64(len(f))
				}

				r := newPaths(t, testNetwork(addrA, addrB))
				defer r.Close()
				before := r.out(plainFrame(macB, macA, "before"))
				got := r.out(super)
				if len(before) != 1 || !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("%d segments left, want %d and the same bytes; drops %+v", len(got), len(want), r.Engine.Stats().Drops)
				}
				n := r.Engine.Stats().Networks[0]
				if n.TxPackets != uint64(1+len(want)) || n.TxBytes != octets+uint64(len(before[0])) {
					t.Errorf("counted %d frames of %d bytes, want %d of %d", n.TxPackets, n.TxBytes, 1+len(want), octets)
				}

				flood := newPaths(t, testNetwork(addrA, addrB, addrC))
				defer flood.Close()
				flood.tap.Inject(super)
				if err := flood.Outbound(); err != nil {
					t.Fatal(err)
				}
				for peer, frames := range perPeer(flood.backend.Sent()) {
					if !slices.EqualFunc(frames, want, bytes.Equal) {
						t.Errorf("%d segments to %s, want %d and the same bytes", len(frames), peer, len(want))
					}
				}
				if got := flood.Engine.Stats().Networks[0].TxPackets; got != uint64(2*len(want)) {
					t.Errorf("%d frames are counted, want twice %d", got, len(want))
				}

				tun := newTunnelPaths(t, testTunnel())
				var packets [][]byte
				for _, sent := range tun.out(packet(super)) {
					packets = append(packets, sent.Payloads...)
				}
				for i := range want {
					want[i] = want[i][encap.EthernetHeaderLen:]
				}
				if !slices.EqualFunc(packets, want, bytes.Equal) {
					t.Errorf("IP-in-IP: %d segments left, want %d and the same bytes", len(packets), len(want))
				}
			})
		}
	}
}

// perPeer are the inner frames that were sent, by their peer.
func perPeer(sent []netiotest.Sent) map[string][][]byte {
	all := make(map[string][][]byte)
	for _, s := range sent {
		for _, p := range s.Payloads {
			to := s.To.Addr().String()
			all[to] = append(all[to], p[encap.VXLANHeaderLen:])
		}
	}
	return all
}

// TestSmallSegmentsLeaveUnsegmented: where the uplink takes GSO packets, any number
// of segments goes.
func TestSmallSegmentsLeaveUnsegmented(t *testing.T) {
	r, e := nullPaths(t, testNetwork(addrA, addrB))
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	e.frames = []netiotest.Frame{s.gsoPacket(t, pattern(60000), 8)}
	taken := 0
	e.onWhole = func(w *netio.Unsegmented) bool {
		taken++
		return len(w.Data) == len(e.frames[0].Data)
	}
	e.onSend = func([]netio.Send) { t.Error("it was cut") }
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	if n := r.Engine.Stats().Networks[0].TxPackets; taken != 1 || n != 7500 {
		t.Errorf("taken %d times, %d frames are counted, want once and 7500", taken, n)
	}
}

// TestSmallSegmentsArrive cuts GSO packets that a peer on this machine sends, for
// TAPs and TUNs that take none.
func TestSmallSegmentsArrive(t *testing.T) {
	for _, noUSO := range []bool{false, true} {
		for _, c := range smallSizes {
			t.Run(fmt.Sprintf("no USO=%t, %d bytes by %d", noUSO, c.length, c.size), func(t *testing.T) {
				s := flowSpec{src: macB, dst: macA, udp: true}
				payload := pattern(c.length)
				want := s.segments(t, payload, c.size)
				n := testNetwork(addrA, addrB)
				n.Plain = !noUSO
				r := newPathsOn(t, n, noUSO)
				defer r.Close()
				got := cutAll(t, r.in(netio.Datagram{
					From: addrB, Data: vxlan(testVNI, s.partial(t, payload).Data), SegSize: c.size,
				}))
				if !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("%d segments arrived, want %d and the same bytes; drops %+v", len(got), len(want), r.Engine.Stats().Drops)
				}
				if n := r.Engine.Stats().Networks[0].RxPackets; n != uint64(len(want)) {
					t.Errorf("%d frames are counted, want %d", n, len(want))
				}
			})
		}
	}
	t.Run("narrow", func(t *testing.T) {
		c := testTunnel()
		c.MTU, c.Plain = 100, true
		r := newTunnelPaths(t, c)
		s := flowSpec{tcpFlags: encap.TCPACK}
		payload := pattern(60000)
		var got [][]byte
		for _, f := range r.in(fromB(packet(s.partial(t, payload)).Data)) {
			got = append(got, framed(f).Data)
		}
		if want := s.segments(t, payload, 60); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("IP-in-IP: %d segments arrived, want %d and the same bytes", len(got), len(want))
		}
	})
}

// TestTCPWithSmallMSS has the kernels of two containers send TCP in segments of 88
// bytes, both ways: nothing is dropped, no checksum is wrong, every byte arrives.
func TestTCPWithSmallMSS(t *testing.T) {
	for _, w := range []way{
		{name: "cut", noUplink: true},
		{name: "uplink"},
		{name: "plain TAP", plain: true},
		{name: "UDP_SEGMENT refused", noUplink: true, refuse: true},
		{name: "engine to engine", noUplink: true, both: true},
	} {
		t.Run(w.name, func(t *testing.T) {
			c := combination{way: w}
			_, a, b := c.sites(t, false)
			engines := c.join(t, a, b, func(e *dataplane.Engine, _ netip.Addr) {
				if err := e.Kernel().RefuseRuns(true); err != nil {
					t.Fatal(err)
				}
			})
			for _, s := range []*netlab.Site{a, b} {
				subnet := netip.PrefixFrom(s.IPv4, 24).Masked().String()
				out, err := s.Container.Command("ip", "route", "replace", subnet, "dev", netlab.ContainerDev,
					"proto", "kernel", "scope", "link", "src", s.IPv4.String(), "advmss", "88").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			const size = 2 << 20
			lossless(t, engines, a, b, func() {
				from, to := traffic.End{Host: a.Container, Addr: a.IPv4}, traffic.End{Host: b.Container, Addr: b.IPv4}
				for range 2 {
					r, err := traffic.TCP(ctx, from, to, traffic.TCPOptions{Bytes: size, Checked: true})
					if err != nil || r.Bytes != size {
						t.Errorf("TCP %s to %s: %v, %v", from.Addr, to.Addr, r, err)
					}
					t.Logf("%s: %v", from.Addr, r)
					from, to = to, from
				}
			})
			for i, e := range engines {
				// Of segments of the network's MTU it would be a twentieth.
				if n := e.Stats().Networks[0]; !w.plain && n.TxPackets < size/88 {
					t.Errorf("engine %d sent %d frames: the segments are not small", i, n.TxPackets)
				}
			}
		})
	}
}
