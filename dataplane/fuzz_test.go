package dataplane_test

import (
	"bytes"
	"net/netip"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// relay reports to the test that runs, so that the backend outlives one.
type relay struct{ testing.TB }

// fuzzPaths are paths for all executions of a fuzz target.
func fuzzPaths(f *testing.F) (*paths, *relay) {
	f.Helper()
	to := &relay{f}
	r := newPaths(to, testNetwork(addrA, addrB))
	f.Cleanup(func() {
		to.TB = f
		if err := r.Close(); err != nil {
			f.Error(err)
		}
	})
	return r, to
}

// probe is a request as a peer sends it.
func probe() []byte { return vxlan(testVNI, request(7, 60)) }

// totals are the counters of all that went, and of all that was dropped.
func (r *paths) totals() (passed, dropped uint64) {
	s := r.Engine.Stats()
	for _, d := range s.Drops {
		dropped += d.Count
	}
	return s.Networks[0].TxPackets + s.Networks[0].RxPackets, dropped
}

// FuzzOutbound takes any frame with any vnet header out. The backend checks each
// send; here each frame is counted once, what leaves fits the MTU, and the
// segments of a GSO packet carry its payload with right checksums.
func FuzzOutbound(f *testing.F) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK | encap.TCPPSH, tcpOptions: 12}
	for _, s := range []flowSpec{
		tcp, {src: macA, dst: macB, udp: true, v6: true, tags: 2, ipOptions: 16},
		{src: macA, dst: macB, v6: true, tags: 1, ipOptions: 8}, {src: macA, dst: macB, udp: true},
	} {
		for _, frame := range []netiotest.Frame{
			s.partial(f, pattern(60)), s.gsoPacket(f, pattern(500), 120),
		} {
			var vnet [encap.VnetHdrLen]byte
			frame.VNet.Put(vnet[:])
			f.Add(frame.Data, vnet[:])
			at, _ := encap.FindTransport(frame.Data)
			wrong := bytes.Clone(frame.Data)
			wrong[at.L4+int(frame.VNet.CsumOffset)]++
			f.Add(wrong, vnet[:])
		}
	}
	f.Add(plainFrame(macB, macA, "hello").Data, make([]byte, encap.VnetHdrLen))
	f.Add([]byte{}, []byte{})
	r, to := fuzzPaths(f)
	f.Fuzz(func(t *testing.T, data, vnet []byte) {
		to.TB = t
		if len(data) > netio.MaxFrame {
			return
		}
		var b [encap.VnetHdrLen]byte
		copy(b[:], vnet)
		frame := netiotest.Frame{VNet: encap.ParseVnetHdr(b[:]), Data: data}
		passed, dropped := r.totals()
		inner := r.out(frame)
		nowPassed, nowDropped := r.totals()
		if int(nowPassed-passed) != len(inner) || (len(inner) == 0) != (nowDropped > dropped) {
			t.Errorf("%d frames left, %d counted, %d dropped", len(inner), nowPassed-passed, nowDropped-dropped)
		}
		total := 0
		for _, p := range inner {
			eth, err := encap.ParseEthernet(p)
			if err != nil || len(p)-eth.L3Offset() > int(testMTU) {
				t.Errorf("a frame of %d bytes left: %v", len(p), err)
			}
			if frame.VNet.GSO() == encap.VnetGSONone {
				continue
			}
			// A segment's checksum is wrong by what the partial one was wrong.
			if !headerSumsUp(p) || sumError(p) != partialSumError(data) {
				t.Errorf("the checksum is wrong by %#x, the partial one was by %#x: %x", sumError(p), partialSumError(data), p)
			}
			at, _ := encap.FindTransport(p)
			total += at.End - at.L4
		}
		if at, ok := encap.FindTransport(data); ok && len(inner) > 1 {
			header := encap.UDPHeaderLen
			if at.Proto == encap.ProtoTCP {
				header = int(data[at.L4+12]>>4) * 4
			}
			if got, want := total-len(inner)*header, at.End-at.L4-header; got != want {
				t.Errorf("%d bytes of payload left, want %d", got, want)
			}
		}
	})
}

// headerSumsUp reports whether the IPv4 header's checksum is right, if there is one.
func headerSumsUp(frame []byte) bool {
	t, ok := encap.FindTransport(frame)
	return ok && (t.V6 || slowSum(frame[t.L3:t.L4]) == 0xffff)
}

// sumError is by how much the sum that a TCP or UDP checksum was made of was wrong.
func sumError(frame []byte) uint16 {
	t, _ := encap.FindTransport(frame)
	pseudo := slowPseudo(frame, t.L3, t.L4, t.V6)
	sum := slowSum([]byte{byte(pseudo >> 8), byte(pseudo)}, frame[t.L4:t.End])
	return ^sum % 0xffff // both zeros are one
}

// partialSumError is by how much a partial checksum, the sum of the pseudo-header, is
// wrong.
func partialSumError(frame []byte) uint16 {
	t, _ := encap.FindTransport(frame)
	field := t.L4 + 16
	if t.Proto == encap.ProtoUDP {
		field = t.L4 + 6
	}
	pseudo := ^slowPseudo(frame, t.L3, t.L4, t.V6)
	return slowSum([]byte{byte(pseudo >> 8), byte(pseudo)}, frame[field:field+2]) % 0xffff
}

// FuzzInbound takes any datagram in, as one payload or a run. The backend checks
// each frame written; here each payload is counted once.
func FuzzInbound(f *testing.F) {
	s := flowSpec{src: macB, dst: macA, tcpFlags: encap.TCPACK}
	var run []byte
	for _, segment := range s.segments(f, pattern(400), 100) {
		run = append(run, vxlan(testVNI, segment)...)
	}
	f.Add(run, uint16(encap.VXLANHeaderLen+s.payloadAt()+100), uint8(encap.ECT0))
	f.Add(vxlan(testVNI, s.partial(f, pattern(2000)).Data), uint16(0), uint8(encap.CE))
	udp := flowSpec{src: macB, dst: macA, udp: true, v6: true, tags: 2}
	f.Add(vxlan(testVNI, udp.partial(f, pattern(600)).Data), uint16(100), uint8(0))
	f.Add(vxlan(testVNI, plainFrame(macA, macB, "hello").Data), uint16(0), uint8(encap.CE))
	f.Add(vxlan(testVNI+1, plainFrame(macA, macB, "hello").Data), uint16(9), uint8(0))
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Add(probe(), uint16(0), uint8(0))
	f.Add(append(probe(), probe()...), uint16(len(probe())), uint8(0))
	r, to := fuzzPaths(f)
	f.Fuzz(func(t *testing.T, data []byte, segSize uint16, tos uint8) {
		to.TB = t
		if len(data) > netio.MaxDatagram {
			return
		}
		passed, dropped := r.totals()
		probes := r.Engine.Stats().Networks[0].ProbesReceived
		written := r.in(netio.Datagram{From: addrB, Data: data, SegSize: int(segSize), TOS: tos})
		nowPassed, nowDropped := r.totals()
		probed := r.Engine.Stats().Networks[0].ProbesReceived > probes
		if nowPassed+nowDropped == passed+dropped && !probed && len(data) > 0 {
			t.Error("the datagram was counted nowhere")
		}
		if (len(written) > 0) != (nowPassed > passed) {
			t.Errorf("%d frames written, %d counted", len(written), nowPassed-passed)
		}
		for _, w := range written {
			if w.VNet.GSO() != encap.VnetGSONone {
				cut(t, w) // which is particular about the metadata
			}
		}
		if _, err := r.Engine.Flush(dataplane.Match{}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestZeroLengthDatagram: UDP may carry nothing, and that is counted too.
func TestZeroLengthDatagram(t *testing.T) {
	r := newPaths(t, testNetwork(addrA, addrB))
	defer r.Close()
	r.u.Deliver(netip.AddrPortFrom(addrA, testPort), netio.Datagram{From: addrB})
	if err := r.Inbound(); err != nil {
		t.Fatal(err)
	}
	if n := r.dropped(dataplane.DropTooShort); n != 1 {
		t.Errorf("%d dropped as too_short, want 1", n)
	}
}
