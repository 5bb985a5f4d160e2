package dataplane_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// refusesOffloads is what a kernel does that takes no frame which is not whole.
func refusesOffloads(f netiotest.Frame) unix.Errno {
	if f.VNet != (encap.VnetHdr{}) {
		return unix.EINVAL
	}
	return 0
}

// TestRefusedIsWrittenAgain: what the TAP refuses with EINVAL, joined or as a peer's
// kernel sent it, is written again as whole frames. Then nothing is joined, until
// its time is over.
func TestRefusedIsWrittenAgain(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			for tags := range 3 {
				s := flowSpec{src: macB, dst: macA, v6: v6, udp: udp, tags: tags, id: 7, seq: 0xfffffc00, tcpFlags: encap.TCPACK | encap.TCPPSH, tcpOptions: 12}
				if udp {
					s.tcpOptions = 0
				}
				room := int(testMTU) - s.payloadAt() + s.l3()
				joined := s.segments(t, pattern(40*1000-1), 1000)
				for name, c := range map[string]struct {
					datagrams   []netio.Datagram
					want        [][]byte
					unsegmented int // frames while the TAP refuses none
				}{
					"joined":                     {datagramsOf(joined), joined, 1},
					"unfinished":                 {datagramsOf([][]byte{s.partial(t, pattern(100)).Data}), [][]byte{s.complete(t, pattern(100))}, 1},
					"unfinished with padding":    {datagramsOf([][]byte{append(s.partial(t, pattern(100)).Data, "padding"...)}), [][]byte{append(s.complete(t, pattern(100)), "padding"...)}, 1},
					"a GSO packet":               {gsoOf(s, t, 3000, room), s.segments(t, pattern(3000), room), 1},
					"one of many segments":       {gsoOf(s, t, 60000, room), s.segments(t, pattern(60000), room), 1},
					"a GSO packet, then a frame": {append(gsoOf(s, t, 3000, room), datagramsOf([][]byte{plainFrame(macA, macB, "x").Data})...), append(s.segments(t, pattern(3000), room), plainFrame(macA, macB, "x").Data), 2},
				} {
					t.Run(fmt.Sprintf("%s, v6=%t udp=%t tags=%d", name, v6, udp, tags), func(t *testing.T) {
						r := newPaths(t, testNetwork(addrA, addrB))
						defer r.Close()
						r.tap.RefuseWhere(refusesOffloads)
						for round := range 2 {
							got := r.batch(c.datagrams)
							slices.SortStableFunc(got, func(a, b []byte) int { // what was not refused came before
								return len(b[:min(len(b), 60)]) - len(a[:min(len(a), 60)])
							})
							if !slices.EqualFunc(got, c.want, bytes.Equal) {
								t.Fatalf("round %d: %d frames arrived, want %d and the same bytes; drops %+v", round, len(got), len(c.want), r.Engine.Stats().Drops)
							}
							if n := r.tap.Refused(); n != 1 {
								t.Errorf("round %d: %d writes were refused, want 1 in all", round, n)
							}
						}
						if n := r.Engine.Stats().Networks[0]; n.RxPackets != uint64(2*len(c.want)) || len(r.Engine.Stats().Drops) != 0 {
							t.Errorf("%d frames are counted, want twice %d; drops %+v", n.RxPackets, len(c.want), r.Engine.Stats().Drops)
						}
						r.tap.RefuseWhere(nil)
						r.GiveGSO()
						for _, d := range c.datagrams {
							r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), d)
						}
						if err := r.Inbound(); err != nil {
							t.Fatal(err)
						}
						if got := r.tap.Written(); len(got) != c.unsegmented {
							t.Errorf("%d frames were written afterwards, want %d", len(got), c.unsegmented)
						}
					})
				}
			}
		}
	}
}

// datagramsOf are datagrams of b with a frame each.
func datagramsOf(frames [][]byte) (all []netio.Datagram) {
	for _, f := range frames {
		all = append(all, netio.Datagram{From: addrB, Data: vxlan(testVNI, f)})
	}
	return all
}

// gsoOf is a GSO packet as a kernel peer over veth sends it.
func gsoOf(s flowSpec, t *testing.T, length, size int) []netio.Datagram {
	d := datagramsOf([][]byte{s.partial(t, pattern(length)).Data})
	if s.udp {
		d[0].SegSize = size
	}
	return d
}

// batch takes the datagrams in by one batch, and returns what reaches the containers.
func (r *paths) batch(ds []netio.Datagram) [][]byte {
	r.tb.Helper()
	for _, d := range ds {
		r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), d)
	}
	if err := r.Inbound(); err != nil {
		r.tb.Fatal(err)
	}
	return cutAll(r.tb, r.tap.Written())
}

// TestRefusedIsWrittenAgainToTUN is the same for a tunnel.
func TestRefusedIsWrittenAgainToTUN(t *testing.T) {
	for _, udp := range []bool{false, true} {
		r := newTunnelPaths(t, testTunnel())
		r.tun.RefuseWhere(refusesOffloads)
		s := flowSpec{udp: udp, tcpFlags: encap.TCPACK, id: 9}
		want := s.segments(t, pattern(30*1000), 1000)
		var ds []netio.Datagram
		for _, f := range want {
			ds = append(ds, fromB(f[encap.EthernetHeaderLen:]))
		}
		for round := range 2 {
			var got [][]byte
			for _, f := range r.in(ds...) {
				got = append(got, framed(f).Data)
			}
			if !slices.EqualFunc(got, want, bytes.Equal) || r.tun.Refused() != 1 {
				t.Errorf("udp=%t, round %d: %d packets arrived, want %d; %d writes were refused, want 1 in all",
					udp, round, len(got), len(want), r.tun.Refused())
			}
		}
	}
}

// TestRefusedTwice: what the device does not take the second time either is dropped
// under its name, frame by frame.
func TestRefusedTwice(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	writes := 0
	r.tap.RefuseWhere(func(f netiotest.Frame) unix.Errno {
		if writes++; writes > 1 && writes%5 == 0 {
			return unix.EAGAIN
		}
		return refusesOffloads(f)
	})
	frames := s.segments(t, pattern(40*1000), 1000)
	if got := r.batch(datagramsOf(frames)); len(got) != 32 {
		t.Errorf("%d frames arrived, want 32", len(got))
	}
	n := r.Engine.Stats().Networks[0]
	if n.RxPackets != 32 || n.RxBytes != uint64(32*len(frames[0])) || r.dropped(dataplane.DropTapFull) != 8 {
		t.Errorf("%d frames of %d bytes are counted, drops %+v", n.RxPackets, n.RxBytes, r.Engine.Stats().Drops)
	}
	r.tap.RefuseWhere(func(netiotest.Frame) unix.Errno {
		if writes++; writes%3 == 0 {
			return unix.EINVAL
		}
		return 0
	})
	if got := r.batch(datagramsOf(frames)); len(got) != 40 || r.dropped(dataplane.DropBadOffload) != 0 {
		t.Errorf("of a kernel that refuses each third write: %d frames arrived, want 40; drops %+v", len(got), r.Engine.Stats().Drops)
	}
	r.tap.RefuseWhere(func(netiotest.Frame) unix.Errno { return unix.EINVAL })
	if got := r.batch(datagramsOf(frames)); len(got) != 0 || r.dropped(dataplane.DropBadOffload) != 40 {
		t.Errorf("%d frames arrived, drops %+v", len(got), r.Engine.Stats().Drops)
	}
}

// TestGSOIsTriedAgain: a device that refused GSO packets is given them again after a
// minute, and after each further refusal twice as late. Info says so, the owner hears
// of it once, and once when it is over.
func TestGSOIsTriedAgain(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	frames := datagramsOf(flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}.segments(t, pattern(3000), 1000))
	now := time.Now()
	tick := func(d time.Duration) {
		now = now.Add(d)
		r.LookAtGSO(now)
	}
	// given reports whether the TAP gets the frames as a GSO packet.
	given := func() bool {
		t.Helper()
		before := r.tap.Refused()
		if got := r.batch(frames); len(got) != 3 {
			t.Fatalf("%d frames arrived, want 3", len(got))
		}
		return r.tap.Refused() > before
	}
	events := func() (all []dataplane.EventKind) {
		for {
			select {
			case ev := <-r.Engine.Events():
				if ev.Network != "blue" {
					t.Errorf("%+v", ev)
				}
				all = append(all, ev.Kind)
			default:
				return all
			}
		}
	}
	state := func() dataplane.OffloadInfo { return offloadOf(t, r.Engine.Info(), "tap_gso") }
	r.tap.RefuseWhere(refusesOffloads)
	if tick(time.Second); state().State != dataplane.OffloadOn || !given() {
		t.Fatal("it is not given GSO packets at first")
	}
	// Also before upkeep has seen it.
	if s := state(); s.State != dataplane.OffloadSuspended || s.Until.Before(now) || s.Reason != "refused by vx0: invalid argument; packets are written to it one by one" {
		t.Errorf("%+v", s)
	}
	for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		wait *= time.Minute
		tick(time.Second)
		if s := state(); s.State != dataplane.OffloadSuspended || !s.Until.Equal(now.Add(wait)) {
			t.Fatalf("%+v, want %v from %v", s, wait, now)
		}
		if tick(wait - time.Second); given() {
			t.Fatalf("given GSO packets a second before %v is over", wait)
		}
		if tick(time.Second); state().State != dataplane.OffloadOn || !given() {
			t.Fatalf("not given GSO packets after %v", wait)
		}
	}
	if got := events(); !slices.Equal(got, []dataplane.EventKind{dataplane.GSORefused}) {
		t.Errorf("events %v", got)
	}
	r.tap.RefuseWhere(nil)
	tick(time.Second)
	tick(time.Hour)
	if r.batch(frames); state().State != dataplane.OffloadOn || len(events()) != 0 {
		t.Errorf("%+v", state())
	}
	if tick(time.Hour); len(events()) != 0 {
		t.Error("an event before it did not refuse for as long again")
	}
	tick(time.Second)
	if got := events(); !slices.Equal(got, []dataplane.EventKind{dataplane.GSOResumed}) {
		t.Errorf("events %v", got)
	}
	if tick(time.Hour); len(events()) != 0 {
		t.Error("it is reported twice")
	}
}

// brokenEdges are this host's, with a kernel that refuses GSO packets.
type brokenEdges struct {
	netio.Backend
	refused atomic.Int64
}

func (e *brokenEdges) OpenDevice(s netio.DeviceSpec) ([]netio.Device, error) {
	queues, err := e.Backend.OpenDevice(s)
	for i := range queues {
		queues[i] = &brokenDevice{queues[i], e}
	}
	return queues, err
}

type brokenDevice struct {
	netio.Device
	backend *brokenEdges
}

// WriteBatch refuses GSO packets as the kernel does, each by itself.
func (d *brokenDevice) WriteBatch(f []netio.OutFrame) (refused int) {
	for i := range f {
		if f[i].VNet.GSOSize == 0 {
			refused += d.Device.WriteBatch(f[i : i+1])
			continue
		}
		f[i].Errno = unix.EINVAL
		d.backend.refused.Add(1)
		refused++
	}
	return refused
}

// TestRefusedGSOLosesNothing sends bulk through a kernel that refuses every GSO
// packet, which is tried again and again: nothing is dropped, no checksum is wrong,
// every byte arrives.
func TestRefusedGSOLosesNothing(t *testing.T) {
	sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := sites[0], sites[1]
	if err := b.AddKernelVXLAN(100, 4789, a); err != nil {
		t.Fatal(err)
	}
	broken := new(brokenEdges)
	e := overtapBy(t, a, func() (*dataplane.Engine, error) {
		backend, err := linux.New(linux.Options{Underlay: a.Underlay, NoTunnelGSO: true, Workers: 1})
		if err != nil {
			return nil, err
		}
		broken.Backend = backend
		return dataplane.New(dataplane.Options{Underlay: a.Underlay, Workers: 1, Backend: broken})
	}, siteNetwork(a, b))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			e.GiveGSO()
			time.Sleep(5 * time.Millisecond)
		}
	}()
	lossless(t, []*dataplane.Engine{e}, a, b, func() { bulk(t, a, b) })
	cancel()
	<-done
	if n := broken.refused.Load(); n < 10 {
		t.Errorf("%d GSO packets were refused, want some", n)
	}
}
