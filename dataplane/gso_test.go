package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

func TestSegmentAgainstOracle(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.MTU = 9000
	r := newPaths(t, n) // one for all: the header slots stay dirty
	defer r.Close()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawFlow(rt)
		size := rapid.IntRange(140, 9000-s.payloadAt()+s.l3()).Draw(rt, "size")
		most := 65535 - s.payloadAt() + s.l3() // of a TAP's GSO packet, whatever the family
		length := rapid.OneOf(
			rapid.IntRange(1, most),
			rapid.IntRange(1, min(3*size+1, most)),
			rapid.Just(size), rapid.Just(min(2*size, most)), rapid.Just(most),
		).Draw(rt, "length")
		payload := pattern(length)
		got, want := r.out(s.gsoPacket(t, payload, size)), s.segments(t, payload, size)
		if len(got) != len(want) {
			rt.Fatalf("%d segments, want %d; drops %+v", len(got), len(want), r.Engine.Stats().Drops)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				rt.Fatalf("segment %d of %d:\n%x, want\n%x", i, len(want), got[i], want[i])
			}
			if !sumsUp(got[i]) {
				rt.Fatalf("segment %d of %d: wrong checksum", i, len(want))
			}
		}
		if twin := cut(t, s.gsoPacket(t, payload, size)); !slices.EqualFunc(twin, want, bytes.Equal) {
			rt.Fatal("the kernel's twin in the tests cuts otherwise")
		}
	})
}

// TestSegmentRuns wants a GSO packet to leave in few sends, and what each frame
// on the wire costs to be counted.
func TestSegmentRuns(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	const size, count = 1398, 46
	payload := pattern(size*count + 10)
	r.tap.Inject(s.gsoPacket(t, payload, size))
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	sent := r.backend.Sent()
	payloads, flow := 0, sent[0].Flow
	for _, one := range sent {
		payloads += len(one.Payloads)
		if one.Flow != flow {
			t.Errorf("one GSO packet left as flows %d and %d", flow, one.Flow)
		}
	}
	if payloads != count+1 || len(sent) != 2 {
		t.Errorf("%d payloads in %d sends, want %d in 2", payloads, len(sent), count+1)
	}
	n := r.Engine.Stats().Networks[0]
	if want := uint64(len(payload) + (count+1)*s.payloadAt()); n.TxPackets != count+1 || n.TxBytes != want {
		t.Errorf("counted %d frames of %d bytes, want %d of %d", n.TxPackets, n.TxBytes, count+1, want)
	}
}

// TestSegmentSingle covers a GSO packet that fits into one segment.
func TestSegmentSingle(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK | encap.TCPPSH | encap.TCPCWR}
	f := s.gsoPacket(t, pattern(500), 1398)
	got := r.out(f)
	if want := s.complete(t, pattern(500)); len(got) != 1 || !bytes.Equal(got[0], want) {
		t.Errorf("%x, want once\n%x", got, want)
	}
}

func TestSegmentIgnoresHdrLen(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
	payload := pattern(3000)
	want := s.segments(t, payload, 1000)
	for _, hdrLen := range []uint16{0, 1, 14, 0xffff} {
		f := s.gsoPacket(t, payload, 1000)
		f.VNet.HdrLen = hdrLen
		if got := r.out(f); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("hdr_len %d: other segments", hdrLen)
		}
	}
}

func TestBadOffload(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	tcp6, udp := tcp, tcp
	tcp6.v6, udp.udp = true, true
	long := tcp6
	long.ipOptions, long.tcpOptions = 200, 40
	for name, c := range map[string]struct {
		spec flowSpec
		size int
		lie  func(f *netiotest.Frame)
	}{
		"no gso_size":          {tcp, 1000, func(f *netiotest.Frame) { f.VNet.GSOSize = 0 }},
		"no NEEDS_CSUM":        {tcp, 1000, func(f *netiotest.Frame) { f.VNet.Flags = 0 }},
		"csum_start elsewhere": {tcp, 1000, func(f *netiotest.Frame) { f.VNet.CsumStart++ }},
		"csum_start outside":   {tcp, 1000, func(f *netiotest.Frame) { f.VNet.CsumStart = 0xffff }},
		"TCPv6 of IPv4":        {tcp, 1000, func(f *netiotest.Frame) { f.VNet.GSOType = encap.VnetGSOTCPv6 }},
		"TCPv4 of IPv6":        {tcp6, 1000, func(f *netiotest.Frame) { f.VNet.GSOType = encap.VnetGSOTCPv4 }},
		"TCP of UDP":           {udp, 1000, func(f *netiotest.Frame) { f.VNet.GSOType = encap.VnetGSOTCPv4 }},
		"UDP of TCP":           {tcp, 1000, func(f *netiotest.Frame) { f.VNet.GSOType = encap.VnetGSOUDPL4 }},
		"UFO":                  {udp, 1000, func(f *netiotest.Frame) { f.VNet.GSOType = 3 }},
		"unknown type":         {tcp, 1000, func(f *netiotest.Frame) { f.VNet.GSOType = 0x61 }},
		"TCP header cut off":   {tcp, 1000, func(f *netiotest.Frame) { f.Data[tcp.l4()+12] = 0xf0; shorten(f, 40) }},
		"TCP header too short": {tcp, 1000, func(f *netiotest.Frame) { f.Data[tcp.l4()+12] = 0x40 }},
		"no payload":           {tcp, 1000, func(f *netiotest.Frame) { shorten(f, 40) }},
		"UDP header cut off":   {udp, 1000, func(f *netiotest.Frame) { shorten(f, 27) }},
		"fragment":             {tcp, 1000, func(f *netiotest.Frame) { f.Data[tcp.l3()+6] = 0x20 }},
		"not IP":               {tcp, 1000, func(f *netiotest.Frame) { f.Data[12] = 0x88 }},
		"IP length too long":   {tcp, 1000, func(f *netiotest.Frame) { f.Data[tcp.l3()+2] = 0xff }},
		"headers without end":  {long, 1000, func(f *netiotest.Frame) {}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPaths(t, testNetwork(addrA, addrB))
			defer r.Close()
			f := c.spec.gsoPacket(t, pattern(3000), c.size)
			c.lie(&f)
			if got := r.out(f); len(got) != 0 {
				t.Errorf("%d segments left", len(got))
			}
			if r.dropped(dataplane.DropBadOffload) == 0 {
				t.Errorf("drops %+v", r.Engine.Stats().Drops)
			}
			if got := r.out(plainFrame(macB, macA, "after")); len(got) != 1 {
				t.Errorf("the next frame left %d times", len(got))
			}
		})
	}
}

// shorten makes f's IPv4 packet be n bytes long.
func shorten(f *netiotest.Frame, n int) {
	f.Data = f.Data[:encap.EthernetHeaderLen+n]
	binary.BigEndian.PutUint16(f.Data[encap.EthernetHeaderLen+2:], uint16(n))
}

func TestGSOPacketTooBig(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tags: 2}
	fits := int(testMTU) - s.payloadAt() + s.l3()
	if got := r.out(s.gsoPacket(t, pattern(10*fits), fits)); len(got) != 10 {
		t.Errorf("%d segments of the MTU, want 10", len(got))
	}
	if got := r.out(s.gsoPacket(t, pattern(10*fits), fits+1)); len(got) != 0 {
		t.Errorf("%d segments larger than the MTU", len(got))
	}
	if got := r.dropped(dataplane.DropTooBig); got != 10 {
		t.Errorf("%d dropped as too_big, want 10", got)
	}
}

func TestFinishChecksum(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	rapid.Check(t, func(rt *rapid.T) {
		s := drawFlow(rt)
		room := int(testMTU) - s.payloadAt() + s.l3()
		payload := rapid.SliceOfN(rapid.Byte(), 0, room).Draw(rt, "payload")
		want := s.complete(t, payload)
		got := r.out(s.partial(t, payload))
		if len(got) != 1 || !bytes.Equal(got[0], want) {
			rt.Fatalf("%x, want once\n%x", got, want)
		}
		if !sumsUp(got[0]) {
			rt.Fatal("wrong checksum")
		}
	})
}

// TestZeroChecksum wants UDP's sum of zero to be written as ones, in a frame
// alone and in a segment, and TCP's left as it is.
func TestZeroChecksum(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	for _, s := range []flowSpec{
		{src: macA, dst: macB, udp: true}, {src: macA, dst: macB, udp: true, v6: true}, {src: macA, dst: macB},
	} {
		// A word of payload equal to the checksum without it makes it zero.
		payload := make([]byte, 100)
		sum := s.complete(t, payload)[s.l4()+s.sumOffset():]
		copy(payload, sum[:2])
		want := uint16(0)
		if s.udp {
			want = 0xffff
		}
		two := append(bytes.Clone(payload), 1) // the first segment is that frame
		for name, f := range map[string]netiotest.Frame{
			"alone": s.partial(t, payload), "cut": s.gsoPacket(t, two, len(payload)),
		} {
			got := r.out(f)
			if len(got) == 0 {
				t.Fatal("nothing left")
			}
			if sum := binary.BigEndian.Uint16(got[0][s.l4()+s.sumOffset():]); sum != want {
				t.Errorf("%+v %s: checksum %#04x, want %#04x", s, name, sum, want)
			}
		}
	}
}

func TestChecksumOutside(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, udp: true}
	drops := uint64(0)
	for _, at := range [][2]uint16{{0, 0}, {13, 6}, {0xffff, 0xffff}, {34, 0xffff}, {0xfff0, 6}, {77, 0}, {34, 43}} {
		f := s.partial(t, pattern(36)) // 78 bytes
		f.VNet.CsumStart, f.VNet.CsumOffset = at[0], at[1]
		if got := r.out(f); len(got) != 0 {
			t.Errorf("checksum at %d + %d: the frame left", at[0], at[1])
		}
		drops++
		if got := r.dropped(dataplane.DropBadOffload); got != drops {
			t.Fatalf("checksum at %d + %d: %d drops, want %d", at[0], at[1], got, drops)
		}
	}
	f := s.partial(t, pattern(36))
	f.VNet.CsumStart, f.VNet.CsumOffset = 34, 42 // the last two bytes
	if got := r.out(f); len(got) != 1 {
		t.Errorf("a checksum field at the frame's end: the frame left %d times", len(got))
	}
}

// TestRunsOfSmallFrames wants frames of one flow and size to leave as one run,
// in order, a shorter one to end it, and nothing else to be joined.
func TestRunsOfSmallFrames(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macA, dst: macB, udp: true}
	sizes := []int{100, 100, 100, 60, 100, 200, 200, 1000}
	var want [][]byte
	for i, n := range sizes {
		f := s.partial(t, bytes.Repeat([]byte{byte(i)}, n))
		want = append(want, s.complete(t, bytes.Repeat([]byte{byte(i)}, n)))
		r.tap.Inject(f)
	}
	other := s
	other.tos = 0x20 // another outer TOS
	r.tap.Inject(other.partial(t, pattern(1000)))
	want = append(want, other.complete(t, pattern(1000)))
	if err := r.Outbound(); err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	var runs []int
	for _, one := range r.backend.Sent() {
		runs = append(runs, len(one.Payloads))
		for _, p := range one.Payloads {
			got = append(got, p[encap.VXLANHeaderLen:])
		}
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Error("other frames, or in another order")
	}
	if want := []int{4, 1, 2, 1, 1}; !slices.Equal(runs, want) {
		t.Errorf("runs of %v, want %v", runs, want)
	}
}

// TestRunsAreBounded leaves the bounds to the wire, which checks each send.
func TestRunsAreBounded(t *testing.T) {
	for _, size := range []int{22, 1400} {
		r := newPaths(t, testNetwork(addrA, addrB))
		s := flowSpec{src: macA, dst: macB, udp: true}
		for range dataplane.OutFrames {
			r.tap.Inject(s.partial(t, pattern(size)))
		}
		for range 4 { // the arena may take several batches
			if err := r.Outbound(); err != nil {
				t.Fatal(err)
			}
		}
		sent := 0
		for _, one := range r.backend.Sent() {
			sent += len(one.Payloads)
		}
		if sent != dataplane.OutFrames {
			t.Errorf("%d frames left, want %d", sent, dataplane.OutFrames)
		}
		r.Close()
	}
}
