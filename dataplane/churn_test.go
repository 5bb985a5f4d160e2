package dataplane_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"overtap/dataplane"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// TestMixedLoadUnderChurn has GSO packets and small frames of many flows go both
// ways between engines of several workers, while networks, peers and entries of
// both are changed all the time. Every byte arrives once.
func TestMixedLoadUnderChurn(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	a, b := bareHost(t, u, addrA, 4), bareHost(t, u, addrB, 4)
	networks := func(h *host, peer netip.Addr, turn int) []dataplane.Network {
		n := testNetwork(h.addr, peer)
		if turn%2 == 1 {
			n.Peers = append(n.Peers, dataplane.Peer{Address: unlisted})
			n.FDB = []dataplane.StaticEntry{{MAC: macC, Peer: unlisted}}
			n.TTL = 32
			return []dataplane.Network{n, renamed(testNetwork(h.addr, peer), "red", "vx1", 200)}
		}
		return []dataplane.Network{n}
	}
	ends := []*host{a, b}
	for i, h := range ends {
		h.apply(networks(h, ends[1-i].addr, 0)...)
	}
	done, churned := make(chan struct{}), make(chan int)
	go func() {
		turn := 1
		for ; ; turn++ {
			select {
			case <-done:
				churned <- turn
				return
			default:
			}
			for i, h := range ends {
				if _, err := h.Apply(dataplane.Desired{Networks: networks(h, ends[1-i].addr, turn)}); err != nil {
					t.Errorf("turn %d: %v", turn, err)
				}
			}
		}
	}()

	const flows, turns, size, segments = 8, 12, 1000, 40
	for turn := range turns {
		for i, h := range ends {
			src, dst := macA, macB
			if i == 1 {
				src, dst = macB, macA
			}
			for f := range flows {
				// The payload says which flow and turn it is, in each segment.
				payload := make([]byte, segments*size)
				for at := 0; at < len(payload); at += 4 {
					binary.BigEndian.PutUint32(payload[at:], uint32(f<<24|turn<<16|at/4))
				}
				s := flowSpec{src: src, dst: dst, tcpFlags: encap.TCPACK, tos: uint8(f << 3), seq: uint32(turn * len(payload))}
				h.TAP("vx0").Inject(s.gsoPacket(t, payload, size))
				small := flowSpec{src: src, dst: dst, udp: true, tos: uint8(f << 3)}
				h.TAP("vx0").Inject(small.partial(t, payload[:20+f]))
			}
		}
		time.Sleep(time.Millisecond)
	}
	for i, h := range ends {
		peer := ends[1-i]
		eventually(t, "all arrive", func() bool {
			n := h.blue()
			return n.RxPackets == flows*turns*(segments+1) || n.RxPackets+dropsOf(h)+dropsOf(peer) > flows*turns*(segments+1)
		})
		seen := make(map[uint32]int)
		for _, frame := range cutAll(t, h.TAP("vx0").Written()) {
			tr, ok := encap.FindTransport(frame)
			if !ok || !sumsUp(frame) {
				t.Fatalf("a frame with wrong sums: % x", frame[:min(len(frame), 80)])
			}
			at := tr.L4 + encap.UDPHeaderLen
			if tr.Proto == encap.ProtoTCP {
				at = tr.L4 + encap.TCPHeaderLen
				for p := frame[at:tr.End]; len(p) >= 4; p = p[4:] {
					seen[binary.BigEndian.Uint32(p)]++
				}
				continue
			}
			seen[1<<31|binary.BigEndian.Uint32(frame[at:])]++
		}
		if want := flows * turns * (segments*size/4 + 1); len(seen) != want {
			t.Errorf("%s has %d different words, want %d", h.addr, len(seen), want)
		}
		for word, n := range seen {
			if n != 1 {
				t.Fatalf("%s has word %#x %d times", h.addr, word, n)
			}
		}
	}
	close(done)
	if n := <-churned; n < 4 {
		t.Errorf("only %d changes", n)
	}
}

// dropsOf is how many frames the host dropped.
func dropsOf(h *host) (n uint64) {
	for _, d := range h.Stats().Drops {
		n += d.Count
	}
	return n
}
