package dataplane_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// mixedFrame draws a mix of frames that pass, with how many frames on the wire
// they are, and of such that do not.
func mixedFrame(tb testing.TB, random *rand.Rand) (f netiotest.Frame, wire int) {
	s := flowSpec{
		src: macA + encap.MAC(random.IntN(20))<<8, dst: macB + encap.MAC(random.IntN(20))<<8,
		v6: random.IntN(2) == 0, udp: random.IntN(2) == 0, tcpFlags: encap.TCPACK,
		id: uint16(random.Uint32()), seq: random.Uint32(),
	}
	switch random.IntN(10) {
	case 0, 1, 2:
		n := 200 + random.IntN(15000)
		return s.gsoPacket(tb, pattern(n), 200+random.IntN(1000)), -1
	case 3:
		return plainFrame(encap.BroadcastMAC, s.src, "to all"), 1
	case 4:
		return plainFrame(macB, groupMAC, "never"), 1
	case 5:
		return plainFrame(macB, s.src, longText), 1
	case 6:
		return netiotest.Frame{Data: []byte("short")}, 1
	}
	return s.partial(tb, pattern(1+random.IntN(1300))), 1
}

// TestConservation loses, repeats and reorders datagrams between two hosts
// while both send a mix of everything, and wants each frame to be counted once
// on each side, as passed or as dropped, and those that arrive to be some that
// were sent.
func TestConservation(t *testing.T) {
	for _, gro := range []bool{false, true} {
		t.Run(fmt.Sprintf("gro=%t", gro), func(t *testing.T) {
			u, a, b := newPair(t)
			u.SetGRO(gro)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			u.SetFaults(netiotest.Faults{Seed: seed, Loss: 0.02, Duplicate: 0.02, Reorder: 0.05})
			random := rand.New(rand.NewPCG(seed, 0))
			offered := make(map[*host]uint64)
			sent := make(map[string]bool) // by transport and payload: GRO flows renumber the rest
			for i := range 2000 {
				h := []*host{a, b}[i%2]
				f, wire := mixedFrame(t, random)
				if wire < 0 {
					segments := cut(t, f)
					wire = len(segments)
					for _, s := range segments {
						sent[content(s)] = true
					}
				} else {
					for _, s := range cut(t, f) {
						sent[content(s)] = true
					}
				}
				h.TAP("vx0").Inject(f)
				offered[h] += uint64(wire)
			}
			for _, h := range []*host{a, b} {
				eventually(t, "all that was offered is counted", func() bool { return h.counted(dataplane.Outbound) == offered[h] })
			}
			u.Release()
			c := u.Carried()
			if c.Lost == 0 || c.Duplicated == 0 || c.Nowhere != 0 || c.Sent+c.Duplicated != c.Delivered+c.Lost {
				t.Errorf("the underlay lost count: %+v", c)
			}
			if got := a.blue().TxPackets + b.blue().TxPackets; got != uint64(c.Sent) {
				t.Errorf("%d frames counted as sent, %d were", got, c.Sent)
			}
			eventually(t, "all that was delivered is counted", func() bool {
				return a.counted(dataplane.Inbound)+b.counted(dataplane.Inbound) == uint64(c.Delivered)
			})
			for _, h := range []*host{a, b} {
				arrived := cutAll(t, h.TAP("vx0").Written())
				if uint64(len(arrived)) != h.blue().RxPackets {
					t.Errorf("%d frames arrived, %d are counted", len(arrived), h.blue().RxPackets)
				}
				for _, f := range arrived {
					if !sent[content(f)] {
						t.Fatalf("%x was never sent", f)
					}
				}
			}
			for _, h := range []*host{a, b} {
				for _, d := range h.drops() {
					if d.Direction == dataplane.Inbound {
						t.Errorf("what one host sent, the other dropped: %+v", d)
					}
				}
			}
		})
	}
}

// content is what of a frame no GRO flow changes: all but the IPv4 identifier and
// header checksum.
func content(frame []byte) string {
	frame = bytes.Clone(frame)
	if t, ok := encap.FindTransport(frame); ok && !t.V6 {
		copy(frame[t.L3+4:], []byte{0, 0})
		copy(frame[t.L3+10:], []byte{0, 0})
	}
	return string(frame)
}
