package dataplane_test

import (
	"bytes"
	"fmt"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/encap"
)

// TestDescribe is about what a kernel peer on the same machine sends: checksums
// unfinished, GSO packets whole.
func TestDescribe(t *testing.T) {
	const max = int(testMTU)
	for _, v6 := range []bool{false, true} {
		for tags := range 3 {
			for _, ecn := range []uint8{0, encap.TCPCWR} {
				tcp := flowSpec{src: macB, dst: macA, v6: v6, tags: tags, tcpOptions: 12, tcpFlags: encap.TCPACK | ecn}
				udp := flowSpec{src: macB, dst: macA, v6: v6, tags: tags, udp: true}
				needs := func(s flowSpec) encap.VnetHdr {
					return encap.VnetHdr{
						Flags: encap.VnetNeedsCsum, CsumStart: uint16(s.l4()), CsumOffset: uint16(s.sumOffset()),
					}
				}
				gso := func(s flowSpec, size int) encap.VnetHdr {
					v := needs(s)
					v.GSOType, v.GSOSize, v.HdrLen = s.gsoType(), uint16(size), uint16(s.payloadAt())
					return v
				}
				tcpRoom, udpRoom := max-tcp.payloadAt()+tcp.l3(), max-udp.payloadAt()+udp.l3()
				for name, c := range map[string]struct {
					data    []byte
					segSize int
					want    encap.VnetHdr
					drop    dataplane.Drop
				}{
					"TCP finished":              {data: tcp.complete(t, pattern(tcpRoom))},
					"UDP finished":              {data: udp.complete(t, pattern(udpRoom))},
					"TCP unfinished":            {data: tcp.partial(t, pattern(tcpRoom)).Data, want: needs(tcp)},
					"UDP unfinished":            {data: udp.partial(t, pattern(udpRoom)).Data, want: needs(udp)},
					"pure ACK unfinished":       {data: tcp.partial(t, nil).Data, want: needs(tcp)},
					"TCP one byte too long":     {data: tcp.partial(t, pattern(tcpRoom+1)).Data, want: gso(tcp, tcpRoom)},
					"TCP GSO packet":            {data: tcp.partial(t, pattern(60000)).Data, want: gso(tcp, tcpRoom)},
					"UDP GSO packet":            {data: udp.partial(t, pattern(20000)).Data, segSize: 1200, want: gso(udp, 1200)},
					"UDP GSO packet, full":      {data: udp.partial(t, pattern(20000)).Data, segSize: udpRoom, want: gso(udp, udpRoom)},
					"UDP GSO packet, small":     {data: udp.partial(t, pattern(300)).Data, segSize: 100, want: gso(udp, 100)},
					"UDP too long, unannounced": {data: udp.partial(t, pattern(udpRoom+1)).Data, drop: dataplane.DropTooBig},
					"UDP segments too long":     {data: udp.partial(t, pattern(20000)).Data, segSize: udpRoom + 1, drop: dataplane.DropTooBig},
					"TCP finished, too long":    {data: tcp.complete(t, pattern(tcpRoom+1)), drop: dataplane.DropTooBig},
					"UDP finished, too long":    {data: udp.complete(t, pattern(udpRoom+1)), drop: dataplane.DropTooBig},
				} {
					t.Run(fmt.Sprintf("%s v6=%t tags=%d ecn=%#x", name, v6, tags, ecn), func(t *testing.T) {
						r := newPaths(t, testNetwork(addrA, addrB))
						defer r.Close()
						got := r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, c.data), SegSize: c.segSize})
						if c.drop != 0 {
							if len(got) != 0 || r.dropped(c.drop) == 0 {
								t.Errorf("%d frames written, drops %+v", len(got), r.Engine.Stats().Drops)
							}
							return
						}
						if len(got) != 1 || !bytes.Equal(got[0].Data, c.data) {
							t.Fatalf("%d frames written; drops %+v", len(got), r.Engine.Stats().Drops)
						}
						if got[0].VNet != c.want {
							t.Errorf("%+v, want %+v", got[0].VNet, c.want)
						}
					})
				}
			}
		}
	}
}

// TestGSOPacketCounted wants a GSO packet to count as the frames that the
// kernel cuts it into.
func TestGSOPacketCounted(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	payload := pattern(20001)
	f := s.partial(t, payload)
	got := r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, f.Data)})
	if len(got) != 1 {
		t.Fatalf("%d frames written", len(got))
	}
	size := int(got[0].VNet.GSOSize)
	count := (len(payload) + size - 1) / size
	n := r.Engine.Stats().Networks[0]
	if want := uint64(len(payload) + count*s.payloadAt()); n.RxPackets != uint64(count) || n.RxBytes != want {
		t.Errorf("counted %d frames of %d bytes, want %d of %d", n.RxPackets, n.RxBytes, count, want)
	}
}

// TestUnjudgedChecksums wants no vnet header on what has no checksum that could
// be unfinished.
func TestUnjudgedChecksums(t *testing.T) {
	udp := flowSpec{src: macB, dst: macA, udp: true}
	zero := udp.complete(t, pattern(100))
	copy(zero[udp.l4()+6:], []byte{0, 0})
	fragment := udp.partial(t, pattern(100)).Data
	fragment[udp.l3()+6] = 0x20
	tcp := flowSpec{src: macB, dst: macA}
	cut := tcp.partial(t, nil).Data
	cut[tcp.l4()+12] = 0xf0
	for name, frame := range map[string][]byte{
		"UDP without checksum": zero, "fragment": fragment, "TCP header cut off": cut,
		"not IP": plainFrame(macA, macB, "hello").Data,
	} {
		r := newPaths(t, testNetwork(addrA, addrB))
		got := r.in(netio.Datagram{From: addrB, Data: vxlan(testVNI, frame)})
		if len(got) != 1 || got[0].VNet != (encap.VnetHdr{}) || !bytes.Equal(got[0].Data, frame) {
			t.Errorf("%s: wrote %+v", name, got)
		}
		r.Close()
	}
}
