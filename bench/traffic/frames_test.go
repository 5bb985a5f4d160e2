package traffic

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// TestFrameBytes completes the checksum as a device would, and has every header
// read back.
func TestFrameBytes(t *testing.T) {
	o := FrameOptions{From: Stations{0, 70000}, To: Stations{1, 70000}, Sizes: []int{32, 92, 1450}}
	const run = 0xdeadbeef
	for _, k := range []int64{0, 1, 2, 69999, 1 << 33} {
		b := make([]byte, 2000)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		n := o.putFrame(b, k, run)
		h := encap.ParseVnetHdr(b)
		frame := b[encap.VnetHdrLen:n]
		sum := ^encap.Fold(encap.Sum(frame[h.CsumStart:], 0))
		binary.BigEndian.PutUint16(frame[h.CsumStart+h.CsumOffset:], sum)

		eth := must[encap.Ethernet](t)(encap.ParseEthernet(frame))
		ip := must[encap.IPv4](t)(encap.ParseIPv4(frame[frameIP:]))
		udp := must[encap.UDP](t)(encap.ParseUDP(ip.Payload()))
		src, dst := int(k%70000), int(k*scatter%70000)
		if got := encap.MACFrom(frame); got != o.To.MAC(dst) {
			t.Errorf("frame %d goes to %v, want %v", k, got, o.To.MAC(dst))
		}
		if got := encap.MACFrom(frame[encap.MACLen:]); got != o.From.MAC(src) {
			t.Errorf("frame %d comes from %v, want %v", k, got, o.From.MAC(src))
		}
		if ip.Src() != o.From.IPv4(src) || ip.Dst() != o.To.IPv4(dst) || ip.TotalLen() != o.Sizes[k%3] {
			t.Errorf("frame %d: %v to %v, %d bytes; header %v", k, ip.Src(), ip.Dst(), ip.TotalLen(), eth)
		}
		if encap.Fold(encap.Sum(ip[:ip.HeaderLen()], 0)) != 0xffff {
			t.Errorf("frame %d: wrong IP checksum", k)
		}
		pseudo := encap.PseudoSum4(ip.SrcBytes(), ip.DstBytes(), unix.IPPROTO_UDP, uint32(udp.Length()))
		if encap.Fold(encap.Sum(udp, pseudo)) != 0xffff {
			t.Errorf("frame %d: wrong UDP checksum", k)
		}
		if binary.BigEndian.Uint32(udp.Payload()) != run {
			t.Errorf("frame %d is not of the run", k)
		}
	}
}

func TestStationsDiffer(t *testing.T) {
	seen := map[encap.MAC]bool{}
	for _, s := range []Stations{{0, 100_000}, {1, 100_000}} {
		for i := range s.Count {
			if m := s.MAC(int(int64(i) * scatter % int64(s.Count))); seen[m] || m.IsMulticast() {
				t.Fatalf("station %d of side %d has %v", i, s.Side, m)
			} else {
				seen[m] = true
			}
		}
	}
}

func TestTakeFrame(t *testing.T) {
	const run = 7
	o := FrameOptions{From: Stations{0, 1}, Sizes: []int{92}}
	for _, c := range []struct {
		name    string
		hdr     encap.VnetHdr
		payload int // bytes behind the headers
		run     uint32
		want    int64
	}{
		{"one", encap.VnetHdr{}, 64, run, 1},
		{"GSO packet", encap.VnetHdr{GSOType: encap.VnetGSOUDPL4, GSOSize: 64}, 64 * 9, run, 9},
		{"GSO packet with a short end", encap.VnetHdr{GSOType: encap.VnetGSOUDPL4, GSOSize: 64}, 64*9 + 1, run, 10},
		{"another run's", encap.VnetHdr{}, 64, run + 1, 0},
		{"cut off", encap.VnetHdr{}, 3, run, 0},
	} {
		b := make([]byte, 200)
		o.putFrame(b, 0, c.run)
		c.hdr.Put(b)
		var r UDPResult
		n := r.takeFrame(b[:snapLen], encap.VnetHdrLen+framePayload+c.payload, run)
		if n != c.want || r.Received != c.want || c.want > 0 && r.Bytes != int64(c.payload) {
			t.Errorf("%s: counted %d, in all %d and %d bytes, want %d", c.name, n, r.Received, r.Bytes, c.want)
		}
	}
}

func TestFrames(t *testing.T) {
	netlabtest.KernelVXLAN(t)
	lab := netlabtest.New(t)
	a, b, err := lab.KernelPair(netlab.SiteSpec{})
	check(t, err)
	near, far := Stations{0, 300}, Stations{1, 300}
	leavesNothing(t, func() {
		ctx := limit(t, 30*time.Second)
		// Announced once by each, all are known at the other end.
		r := must[UDPResult](t)(Frames(ctx, b.Container, a.Container, FrameOptions{From: far, Count: 300, Rate: 20_000}))
		if r.Offered != 300 || r.Received != 300 || r.Lost != 0 || r.Bytes != 300*64 {
			t.Errorf("announced: %v, %d bytes", r, r.Bytes)
		}
		learned := map[encap.MAC]bool{}
		for _, e := range must[[]netlab.FDBEntry](t)(a.Host.KernelFDB(netlab.SiteVXLAN)) {
			if e.Peer == b.Underlay {
				learned[e.MAC] = true
			}
		}
		for i := range far.Count {
			if !learned[far.MAC(i)] {
				t.Fatalf("station %d, %v, was not learned", i, far.MAC(i))
			}
		}
		// At a rate without drops, every size arrives.
		r = must[UDPResult](t)(Frames(ctx, a.Container, b.Container, FrameOptions{
			From: near, To: far, Sizes: []int{64, 570, 1450}, Count: 3000, Rate: 20_000,
		}))
		if r.Offered != 3000 || r.Received != 3000 || r.Lost != 0 || r.Bytes != 1000*(64+570+1450-3*28) {
			t.Errorf("%v, %d bytes", r, r.Bytes)
		}
		if r.Sending < 100*time.Millisecond {
			t.Errorf("3000 frames at 20 000 a second took %v", r.Sending)
		}
	})
}

func TestFramesToNobody(t *testing.T) {
	a, b := loneContainers(t)
	ctx := limit(t, 30*time.Second)
	r := must[UDPResult](t)(Frames(ctx, a, b, FrameOptions{From: Stations{0, 5}, Count: 100}))
	if r.Offered != 100 || r.Received != 0 || r.Lost != 100 {
		t.Errorf("%v", r)
	}
}

// loneContainers are two containers that nothing joins.
func loneContainers(t *testing.T) (a, b *netlab.Host) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	return sites[0].Container, sites[1].Container
}

func TestFramesRefuses(t *testing.T) {
	a, b := loneContainers(t)
	for _, c := range []struct {
		o    FrameOptions
		want string
	}{
		{FrameOptions{}, "stations"},
		{FrameOptions{From: Stations{0, MaxStations + 1}}, "stations"},
		{FrameOptions{From: Stations{0, 1}, Sizes: []int{31}}, "packet of 31 bytes"},
		{FrameOptions{From: Stations{0, 1}, Sizes: []int{92, 1451}}, "packet of 1451 bytes"},
	} {
		if _, err := Frames(limit(t, 5*time.Second), a, b, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want an error with %q", c.o, err, c.want)
		}
	}
}
