package encap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// TestFlowHashSame changes, one after another, what varies within a flow.
func TestFlowHashSame(t *testing.T) {
	frames := sampleFrames(t)
	for _, c := range []struct {
		name   string
		change []int // offsets of bytes
	}{
		// MACs, TOS, ID, fragment bits that make no fragment, TTL, header
		// checksum; then TCP's seq, ack, flags, window, checksum, options, payload.
		{"tcp4", []int{0, 11, 15, 18, 19, 22, 24, 25, 38, 41, 42, 47, 48, 50, 54, 70, 100}},
		{"udp4", []int{15, 18, 24, 38, 39, 40, 41, 42, 84}},
		// Traffic class, flow label, hop limit.
		{"tcp6", []int{0, 15, 16, 17, 21, 58, 67, 100}},
		{"udp6", []int{15, 16, 17, 21, 60, 104}},
		{"echo4", []int{34, 35, 36, 38, 39, 41, 60}},
		{"vlan", []int{14, 15, 19, 22}},
		{"qinq", []int{14, 15, 18, 19, 24, 25}},
		{"sctp4", []int{38, 39, 42, 80}},
		{"first fragment4", []int{18, 19, 34, 35, 36, 37, 38, 60}},
		{"fragment6", []int{57, 58, 62, 63, 64, 65}},
		{"arp", []int{14, 27, 30, 41}},
		{"llc", []int{14, 15, 20}},
	} {
		frame := frames[c.name]
		want := FlowHash(frame)
		for _, at := range c.change {
			changed := patched(frame, at, frame[at]^0x0c) // in IPv6's first word: flow label or traffic class
			equal(t, fmt.Sprintf("%s: hash with byte %d changed", c.name, at), FlowHash(changed), want)
		}
	}
	equal(t, "padding", FlowHash(frames["padded udp4"]), FlowHash(frames["udp4"]))
	equal(t, "a tag", FlowHash(frames["vlan"]), FlowHash(frames["udp4"]))
	equal(t, "two tags", FlowHash(frames["qinq"]), FlowHash(frames["tcp6"]))
	equal(t, "IP options", FlowHash(frames["options4"]), FlowHash(frames["udp4"]))
	equal(t, "extension headers", FlowHash(frames["extensions6"]), FlowHash(frames["udp6"]))
	equal(t, "fragments of a datagram", FlowHash(frames["first fragment4"]), FlowHash(frames["last fragment4"]))
}

// TestFlowHashDiffers changes what makes a flow.
func TestFlowHashDiffers(t *testing.T) {
	frames := sampleFrames(t)
	for _, c := range []struct {
		name   string
		change []int
	}{
		{"tcp4", []int{23, 26, 29, 30, 33, 34, 35, 36, 37}},
		{"udp4", []int{26, 29, 30, 33, 34, 35, 36, 37}},
		{"sctp4", []int{26, 33, 34, 35, 36, 37}},
		{"tcp6", []int{20, 22, 29, 37, 38, 45, 53, 54, 55, 56, 57}},
		{"udp6", []int{22, 37, 38, 53, 54, 57}},
		{"echo4", []int{23, 26, 29, 30, 33}},
		{"first fragment4", []int{23, 26, 33}},
		{"fragment6", []int{22, 53, 54}},
		{"arp", []int{0, 5, 6, 11, 13}},
		{"llc", []int{0, 5, 6, 11}},
		{"3 tags", []int{0, 5, 6, 11}},
	} {
		frame := frames[c.name]
		seen := map[uint32]int{FlowHash(frame): -1}
		for _, at := range c.change {
			h := FlowHash(patched(frame, at, frame[at]^0x01))
			if before, ok := seen[h]; ok {
				t.Errorf("%s: byte %d changed: same hash as with byte %d", c.name, at, before)
			}
			seen[h] = at
		}
	}
	equal(t, "hash of too short a frame", FlowHash(frames["arp"][:13]), 0)
	// Ports cut off: not read from beyond the packet.
	cut := patched(frames["padded udp4"][:60], 17, 23)
	equal(t, "ports in the padding", FlowHash(cut), FlowHash(patched(cut, 34, 1, 2, 3, 4, 5)))
}

// TestFlowHashSpread sorts neighbouring flows into 64 buckets by the hash's low
// bits, its high bits and its middle: all must come out even.
func TestFlowHashSpread(t *testing.T) {
	const buckets = 64
	frames := sampleFrames(t)
	for _, c := range []struct {
		name   string
		frame  string
		vary   int // offset of two bytes
		stride int
	}{
		{"source ports", "tcp4", 34, 1},
		{"even source ports", "tcp4", 34, 2}, // Linux gives connect() every second
		{"destination ports", "udp4", 36, 1},
		{"source addresses", "echo4", 28, 1},
		{"destination addresses", "tcp4", 32, 1},
		{"IPv6 source ports", "tcp6", 54, 1},
		{"IPv6 source addresses", "udp6", 36, 1},
		{"IPv6 destination addresses", "udp6", 52, 1},
		{"MACs", "arp", 10, 1},
	} {
		var low, high, middle [buckets]int
		frame := bytes.Clone(frames[c.frame])
		flows := 0
		for n := 0; n < 1<<16; n += c.stride {
			binary.BigEndian.PutUint16(frame[c.vary:], uint16(n))
			h := FlowHash(frame)
			low[h%buckets]++
			high[uint64(h)*buckets>>32]++
			middle[h>>13%buckets]++
			flows++
		}
		want := float64(flows) / buckets
		for which, counts := range map[string][buckets]int{"low": low, "high": high, "middle": middle} {
			for i, got := range counts {
				if f := float64(got); f < 0.8*want || f > 1.2*want {
					t.Errorf("%s: %s bucket %d has %d flows, want %.0f within 20 %%", c.name, which, i, got, want)
				}
			}
		}
	}
}

// FuzzFlowHash lets gopacket say what the flow is, builds another frame of that
// flow and wants the same hash.
func FuzzFlowHash(f *testing.F) {
	seedFrames(f, 0)
	f.Fuzz(func(t *testing.T, frame []byte) {
		h := FlowHash(frame)
		equal(t, "hash of a copy", FlowHash(bytes.Clone(frame)), h)

		at, ok := gopacketTransport(frame)
		if mine, found := FindTransport(frame); !ok || !found || mine != at {
			return // FuzzFindTransport judges
		}
		twin := fromHex(t, "ffffffffffff 02000000 0001 8100 0fff")
		l4 := frame[at.L4:at.End]
		length := 4 + len(l4)
		if at.V6 {
			addrs := frame[at.L3+8 : at.L3+40]
			twin = append(twin, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, at.Proto, 1)
			twin = append(twin, addrs...)
			if at.Fragment {
				twin[18+6] = ipv6Fragment
				twin = append(twin, at.Proto, 0, 0, 1, 0, 0, 0, 0)
				length += 8
			}
			binary.BigEndian.PutUint16(twin[18+4:], uint16(length))
		} else {
			addrs := frame[at.L3+12 : at.L3+20]
			twin = append(twin, 0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 1, at.Proto, 0, 0)
			twin = append(twin, addrs...)
			if at.Fragment {
				twin[18+6] = 0x20
			}
			binary.BigEndian.PutUint16(twin[18+2:], uint16(IPv4HeaderLen+length))
		}
		if length > 60000 || !at.Fragment && len(l4) < 4 { // no room for the tail, or no ports to keep
			return
		}
		twin = append(append(twin, l4...), 1, 2, 3, 4)
		if mine, ok := FindTransport(twin); !ok || mine.Proto != at.Proto || mine.Fragment != at.Fragment {
			t.Fatalf("the twin is not what it should be: %+v, %t", mine, ok)
		}
		equal(t, "hash of a frame of the same flow", FlowHash(twin), h)
	})
}

func BenchmarkFlowHash(b *testing.B) {
	frames := sampleFrames(b)
	for _, name := range []string{"tcp4", "tcp6", "vlan", "echo4", "arp"} {
		b.Run(name, func(b *testing.B) {
			frame := frames[name]
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				sink += uint64(FlowHash(frame))
			}
		})
	}
}
