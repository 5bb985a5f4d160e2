package dataplane_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// withSum makes the transport checksum of the flow's packet right again.
func (s flowSpec) withSum(frame []byte) []byte {
	field := frame[s.l4()+s.sumOffset():]
	binary.BigEndian.PutUint16(field, slowPseudo(frame, s.l3(), s.l4(), s.v6))
	t, _ := encap.FindTransport(frame)
	binary.BigEndian.PutUint16(field, ^slowSum(frame[s.l4():t.End]))
	return frame
}

// coalesced takes the frames in by one batch, wants the containers to see them
// byte for byte, and returns what was written to the TAP.
func (r *paths) coalesced(frames [][]byte) []netiotest.Frame {
	r.tb.Helper()
	for _, f := range frames {
		r.u.Deliver(netip.AddrPortFrom(addrA, r.net.Port), netio.Datagram{From: addrB, Data: vxlan(testVNI, f)})
	}
	if err := r.Inbound(); err != nil {
		r.tb.Fatal(err)
	}
	written := r.tap.Written()
	if got := cutAll(r.tb, written); !slices.EqualFunc(got, frames, bytes.Equal) {
		r.tb.Errorf("%d frames arrived of %d, or others; drops %+v", len(got), len(frames), r.Engine.Stats().Drops)
	}
	return written
}

// TestTrainsKeepWhatDiffers sends three segments in a row of which the second
// differs in one field that a GSO packet has but once.
func TestTrainsKeepWhatDiffers(t *testing.T) {
	const timestamps = encap.TCPHeaderLen + 2 // behind two NOPs
	for _, c := range []struct {
		name    string
		at      int // of the byte that differs, in the TCP header
		written int
	}{
		{"nothing", -1, 1},
		{"acknowledgement, first byte", 8, 3},
		{"acknowledgement, last byte", 11, 3},
		{"window, first byte", 14, 3},
		{"window, last byte", 15, 3},
		{"timestamp", timestamps + 5, 3},
		{"echoed timestamp", timestamps + 9, 3},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, v6=%t", c.name, v6), func(t *testing.T) {
				r := newPaths(t, testNetwork(addrA, addrB))
				defer r.Close()
				s := flowSpec{src: macB, dst: macA, v6: v6, tcpFlags: encap.TCPACK, tcpOptions: 12}
				frames := s.segments(t, pattern(3000), 1000)
				for i, f := range frames {
					copy(f[s.l4()+timestamps:], []byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8})
					if i == 1 && c.at >= 0 {
						f[s.l4()+c.at] ^= 1
					}
					s.withSum(f)
				}
				if got := r.coalesced(frames); len(got) != c.written {
					t.Errorf("%d frames written, want %d", len(got), c.written)
				}
			})
		}
	}
}

// TestTrainsStayBelow64KiB sends more of a flow in one batch than the length
// field of an IP packet can say.
func TestTrainsStayBelow64KiB(t *testing.T) {
	n := testNetwork(addrA, addrB)
	n.MTU = 9000
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			t.Run(fmt.Sprintf("v6=%t udp=%t", v6, udp), func(t *testing.T) {
				r := newPaths(t, n)
				defer r.Close()
				s := flowSpec{src: macB, dst: macA, v6: v6, udp: udp, tcpFlags: encap.TCPACK}
				const size = 8900
				written := r.coalesced(s.segments(t, pattern(20*size), size))
				if len(written) != 3 { // 7, 7 and 6 segments
					t.Errorf("%d frames written, want 3", len(written))
				}
				for _, f := range written {
					if ip := len(f.Data) - s.l3(); ip > 65535 {
						t.Errorf("an IP packet of %d bytes", ip)
					}
				}
			})
		}
	}
}

// TestExtensionHeadersDiffer sends two packets of one flow whose extension
// headers have the same bytes and are of different kinds: only the IPv6 header
// distinguishes hop-by-hop options from destination options.
func TestExtensionHeadersDiffer(t *testing.T) {
	const nextHeaderAt, hopByHop = 6, 0
	for _, udp := range []bool{false, true} {
		t.Run(fmt.Sprintf("udp=%t", udp), func(t *testing.T) {
			s := flowSpec{src: macB, dst: macA, v6: true, udp: udp, ipOptions: 8, tcpFlags: encap.TCPACK}
			same := newPaths(t, testNetwork(addrA, addrB))
			defer same.Close()
			frames := s.segments(t, pattern(2000), 1000)
			if got := same.coalesced(frames); len(got) != 1 {
				t.Errorf("alike: %d frames written, want 1", len(got))
			}
			other := newPaths(t, testNetwork(addrA, addrB))
			defer other.Close()
			frames[1][s.l3()+nextHeaderAt] = hopByHop
			if got := other.coalesced(frames); len(got) != 2 {
				t.Errorf("different: %d frames written, want 2", len(got))
			}
		})
	}
}
