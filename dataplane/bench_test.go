package dataplane_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// smallFlow is a flow whose frames of 22 bytes of payload are 64 bytes long.
func smallFlow(src, dst encap.MAC, port int, tb testing.TB) netiotest.Frame {
	tb.Helper()
	s := flowSpec{src: src, dst: dst, udp: true}
	f := s.partial(tb, pattern(22))
	binary.BigEndian.PutUint16(f.Data[s.l4():], uint16(1024+port)) // the partial sum covers no port
	return f
}

// BenchmarkOutbound64 is the tx path without the kernel for frames of 64 bytes
// to a known host, an operation a frame.
func BenchmarkOutbound64(b *testing.B) {
	for _, flows := range []int{1, dataplane.OutFrames} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			r, e := nullPaths(b, testNetwork(addrA, addrB))
			r.Learn(macB, 0)
			for i := range dataplane.OutFrames {
				e.frames = append(e.frames, smallFlow(macA, macB, i%flows, b))
			}
			e.keep = true
			b.SetBytes(64)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += dataplane.OutFrames {
				if err := r.Outbound(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOutboundGSOPacket is the tx path without the kernel for TCP
// GSO packets of 64 KiB, an operation a GSO packet.
func BenchmarkOutboundGSOPacket(b *testing.B) {
	r, e := nullPaths(b, testNetwork(addrA, addrB))
	r.Learn(macB, 0)
	s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
	e.frames = []netiotest.Frame{s.gsoPacket(b, pattern(65000), 1398)}
	e.keep = true
	b.SetBytes(65000)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := r.Outbound(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInbound64 is the rx path without the kernel for datagrams with a
// frame of 64 bytes each, an operation a frame.
func BenchmarkInbound64(b *testing.B) {
	for _, flows := range []int{1, dataplane.InDatagrams} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			r, e := nullPaths(b, testNetwork(addrA, addrB))
			var ds []netio.Datagram
			for i := range dataplane.InDatagrams {
				f := smallFlow(macB, macA, i%flows, b)
				f.Data = cut(b, f)[0]
				ds = append(ds, netio.Datagram{From: addrB, Data: vxlan(testVNI, f.Data)})
			}
			e.receives(ds...)
			b.SetBytes(64)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += dataplane.InDatagrams {
				if err := r.Inbound(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkInboundRun is the rx path without the kernel for a run of 46 TCP
// segments received at once, an operation a run.
func BenchmarkInboundRun(b *testing.B) {
	r, e := nullPaths(b, testNetwork(addrA, addrB))
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK, tcpOptions: 12}
	segments := s.segments(b, pattern(45*1386), 1386)
	var run []byte
	for _, one := range segments {
		run = append(run, vxlan(testVNI, one)...)
	}
	e.receives(netio.Datagram{From: addrB, Data: run, SegSize: encap.VXLANHeaderLen + len(segments[0])})
	b.SetBytes(45 * 1386)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := r.Inbound(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSegment writes the headers of each segment of a GSO packet of 64 KiB
// and sums its payload.
func BenchmarkSegment(b *testing.B) {
	for _, size := range []int{1398, 8898} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			s := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK, tcpOptions: 12}
			super := s.gsoPacket(b, pattern(65000), size)
			f := netio.Frame{VNet: super.VNet, Data: super.Data}
			slots := make([]byte, 64*dataplane.HeaderSlot)
			b.SetBytes(65000)
			b.ReportAllocs()
			for b.Loop() {
				if dataplane.Cut(&f, testVNI, slots) == 0 {
					b.Fatal("not cut")
				}
			}
		})
	}
}
