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

// TestWhole: a GSO packet leaves as it was read where the wire takes it, behind
// what waits of its flow, and cut where it does not; nothing but a GSO packet is
// offered.
func TestWhole(t *testing.T) {
	tcp := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}
	udp6 := flowSpec{src: macA, dst: macB, udp: true, v6: true, tags: 1}
	small, big, big6 := tcp.partial(t, pattern(10)), tcp.gsoPacket(t, pattern(5000), 1000), udp6.gsoPacket(t, pattern(3000), 1000)
	one := tcp.gsoPacket(t, pattern(1000), 1000)
	for name, c := range map[string]struct {
		frames []netiotest.Frame
		takes  bool
		want   string // w = whole, c = a send
		change func(*dataplane.Network)
	}{
		"taken":             {frames: []netiotest.Frame{big, big6}, takes: true, want: "ww"},
		"refused":           {frames: []netiotest.Frame{big, big6}, want: "wwcc"},
		"in order":          {frames: []netiotest.Frame{small, big, small}, takes: true, want: "cwc"},
		"another flow":      {frames: []netiotest.Frame{small, big6}, takes: true, want: "wc"},
		"one segment":       {frames: []netiotest.Frame{one}, takes: true, want: "c"},
		"may be fragmented": {frames: []netiotest.Frame{big}, takes: true, want: "c", change: func(n *dataplane.Network) { n.DF = false }},
	} {
		t.Run(name, func(t *testing.T) {
			n := testNetwork(addrA, addrB)
			n.TTL, n.TOS = 9, dataplane.TOS{Value: 0x20}
			if c.change != nil {
				c.change(&n)
			}
			r, e := nullPaths(t, n)
			e.frames = c.frames
			var got []byte
			e.onWhole = func(w *netio.Unsegmented) bool {
				got = append(got, 'w')
				f := big
				if w.VNet.GSO() == encap.VnetGSOUDPL4 {
					f = big6
				}
				want := netio.Unsegmented{
					To: netip.AddrPortFrom(addrB, n.Port), Flow: w.Flow, VNI: n.VNI, Data: w.Data,
					VNet: f.VNet, L3: w.L3, TOS: 0x20, TTL: 9,
				}
				if !bytes.Equal(w.Data, f.Data) || w.To != want.To || w.VNet != want.VNet || w.VNI != want.VNI ||
					w.TOS != want.TOS || w.TTL != want.TTL {
					t.Errorf("whole %+v, want %+v", *w, want)
				}
				return c.takes
			}
			e.onSend = func(s []netio.Send) {
				for range s {
					got = append(got, 'c')
				}
			}
			if err := r.Outbound(); err != nil {
				t.Fatal(err)
			}
			if string(got) != c.want {
				t.Errorf("left as %s, want %s", got, c.want)
			}
			frames, octets := uint64(0), uint64(0)
			for _, f := range c.frames {
				for _, s := range cut(t, f) {
					frames++
					octets += uint64(len(s))
				}
			}
			if s := r.Engine.Stats().Networks[0]; s.TxPackets != frames || s.TxBytes != octets {
				t.Errorf("counted %d frames, %d bytes; want %d, %d", s.TxPackets, s.TxBytes, frames, octets)
			}
		})
	}
}

// TestWholeArrives: an engine that receives an unsegmented GSO packet hands it to its
// TAP as one, with its metadata.
func TestWholeArrives(t *testing.T) {
	_, a, b := newPair(t)
	a.TakeUnsegmented(true)
	f := flowSpec{src: macA, dst: macB, tcpFlags: encap.TCPACK}.gsoPacket(t, pattern(5000), 1396)
	a.TAP("vx0").Inject(f)
	got := b.TAP("vx0").Wait(1)[0]
	if !bytes.Equal(got.Data, f.Data) || got.VNet.GSO() != encap.VnetGSOTCPv4 {
		t.Errorf("%+v of %d bytes", got.VNet, len(got.Data))
	}
}
