package dataplane_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/wiretest"
	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// taggedFlows are flows of tagged frames from one site's container to the
// other's, which no stack answers.
func taggedFlows(from, to *netlab.Site) (flows []flowSpec) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			s := flowSpec{src: from.MAC, dst: to.MAC, v6: v6, udp: udp, tags: 1}
			if !udp {
				s.tcpFlags, s.tcpOptions = encap.TCPACK, 12
			}
			flows = append(flows, s)
		}
	}
	return flows
}

// offload sends frames from the host's container device as a stack does that
// leaves checksums and segmentation to the device: with a virtio_net_hdr.
func offload(t *testing.T, h *netlab.Host, frames ...netiotest.Frame) {
	t.Helper()
	s := wiretest.Open(t, h, netlab.ContainerDev)
	defer s.Close()
	if err := unix.SetsockoptInt(s.FD(), unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		b := make([]byte, encap.VnetHdrLen, encap.VnetHdrLen+len(f.Data))
		f.VNet.Put(b)
		b = append(b, f.Data...)
		for {
			_, err := unix.Write(s.FD(), b)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatalf("send a GSO packet of %d bytes: %v", len(f.Data), err)
			}
			break
		}
	}
}

// stream is what a flow sends: a TCP stream from sequence number 0, or
// datagrams of size bytes.
type stream struct {
	flow flowSpec
	data []byte
	size int
	got  []int // how often each byte arrived
}

// GSO packets are the stream's, of so many segments each.
func (s *stream) gsoPackets(tb testing.TB, segments int) (all []netiotest.Frame) {
	tb.Helper()
	one := s.flow
	for at := 0; at < len(s.data); at += segments * s.size {
		one.seq, one.id = uint32(at), uint16(at/s.size)
		all = append(all, one.gsoPacket(tb, s.data[at:min(at+segments*s.size, len(s.data))], s.size))
	}
	return all
}

// take notes a frame that arrived. It must be as the slow twin builds it, at
// whatever place TCP was cut: a GSO packet of TCP that comes whole from a kernel
// peer does not say how its sender would have cut it.
func (s *stream) take(tb testing.TB, f wiretest.Frame) error {
	tb.Helper()
	t, ok := encap.FindTransport(f.Data)
	if !ok || t.End < s.flow.payloadAt() {
		return errors.New("it is another protocol's")
	}
	payload, at := f.Data[s.flow.payloadAt():t.End], 0
	if s.flow.udp {
		// Each datagram of the pattern is unlike all others.
		if at = bytes.Index(s.data, payload); at%s.size != 0 || len(payload) != min(s.size, len(s.data)-at) {
			return errors.New("it is no datagram that was sent")
		}
	} else {
		at = int(encap.TCP(f.Data[t.L4:]).Seq())
	}
	if at+len(payload) > len(s.data) {
		return fmt.Errorf("it has bytes %d to %d of %d", at, at+len(payload), len(s.data))
	}
	want := s.flow
	want.seq = uint32(at)
	switch {
	case content(f.Data) != content(want.complete(tb, s.data[at:at+len(payload)])):
		return errors.New("it is not as it was sent")
	case f.Unfinished || !sumsUp(f.Data):
		return fmt.Errorf("a wrong checksum (left to a device: %t)", f.Unfinished)
	}
	for i := range payload {
		s.got[at+i]++
	}
	return nil
}

// unsegmented reports whether every byte arrived once.
func (s *stream) unsegmented() bool {
	return !slices.ContainsFunc(s.got, func(n int) bool { return n != 1 })
}

// receive reads what comes from the flow until it is whole.
func (s *stream) receive(t *testing.T, c *wiretest.Capture) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !s.unsegmented(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n := 0
			for i := range s.got {
				n += min(s.got[i], 1)
			}
			t.Errorf("%d of %d bytes arrived", n, len(s.data))
			return
		}
		for _, f := range c.Read() {
			eth, err := encap.ParseEthernet(f.Data)
			if err != nil || f.Outgoing || eth.Src() != s.flow.src || eth.Tags() == 0 {
				continue
			}
			if err := s.take(t, f); err != nil {
				t.Errorf("%v: % x", err, f.Data[:min(len(f.Data), 90)])
			}
		}
	}
}

// randomBytes are n bytes that no other place repeats.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// TestTaggedBulk sends GSO packets with an 802.1Q tag both ways in every
// combination. Each byte must arrive once, in segments with the tag whose sums
// are right, and UDP cut as it was to be.
func TestTaggedBulk(t *testing.T) {
	const size, segments, runs = 1200, 20, 5
	for _, c := range combinations() {
		t.Run(c.name, func(t *testing.T) {
			_, a, b := c.sites(t, false)
			engines := c.join(t, a, b, func(e *dataplane.Engine, peer netip.Addr) { e.Kernel().NoteRefusal(peer, unix.EIO) })
			for _, s := range []*netlab.Site{a, b} {
				// The last device before the container leaves nothing undone.
				finish(t, s.Host, s.Container.Name())
			}
			lossless(t, engines, a, b, func() {
				for _, way := range [][2]*netlab.Site{{a, b}, {b, a}} {
					from, to := way[0], way[1]
					ear := wiretest.Open(t, to.Container, netlab.ContainerDev)
					for _, flow := range taggedFlows(from, to) {
						const n = runs*segments*size - 5
						s := &stream{flow: flow, data: randomBytes(n), size: size, got: make([]int, n)}
						offload(t, from.Container, s.gsoPackets(t, segments)...)
						s.receive(t, ear)
					}
				}
			})
		})
	}
}

// finish has the device send what a wire carries: the kernel cuts GSO packets
// and finishes checksums before it.
func finish(t *testing.T, h *netlab.Host, dev string) {
	t.Helper()
	err := errors.Join(h.SetOffload(dev, netlab.NoOffloads), h.SetFeatures(dev, false, "tx-checksum-ip-generic"))
	if err != nil {
		t.Fatal(err)
	}
}

// TestTaggedGSOPacketsInMemory cuts GSO packets with one and two tags and joins
// them again, and wants what the slow twin makes of them.
func TestTaggedGSOPacketsInMemory(t *testing.T) {
	_, a, b := newPair(t)
	for tags := 1; tags <= 2; tags++ {
		for _, whole := range []bool{false, true} {
			a.TakeUnsegmented(whole)
			for _, v6 := range []bool{false, true} {
				for _, udp := range []bool{false, true} {
					if udp && whole {
						continue // the underlay in memory does not carry segment sizes
					}
					s := flowSpec{src: macA, dst: macB, v6: v6, udp: udp, tags: tags}
					if !udp {
						s.tcpFlags = encap.TCPACK
					}
					// What a GSO packet that comes whole is cut to again.
					size := 1450 - (s.payloadAt() - s.l3())
					payload := pattern(20 * size)
					a.TAP("vx0").Inject(s.gsoPacket(t, payload, size))
					var got [][]byte
					for len(got) < 20 {
						got = append(got, cutAll(t, b.TAP("vx0").Wait(1))...)
					}
					for i, want := range s.segments(t, payload, size) {
						if i >= len(got) || content(got[i]) != content(want) || !bytes.Equal(got[i][s.payloadAt():], want[s.payloadAt():]) {
							t.Fatalf("whole=%t %+v: segment %d is another", whole, s, i)
						}
					}
				}
			}
		}
	}
	a.wantDrops()
	b.wantDrops()
}
