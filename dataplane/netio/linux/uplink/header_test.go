package uplink

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"overtap/dataplane/netio"
	"overtap/encap"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wholeTCP is 3000 bytes of inner TCP over IPv4, segments of 1448.
func wholeTCP(to string) *netio.Unsegmented {
	return &netio.Unsegmented{
		To: netip.MustParseAddrPort(to), VNI: 0x123456, TOS: 0xb8 | 2, TTL: 64,
		Data: make([]byte, 3000), L3: 14,
		VNet: encap.VnetHdr{
			GSOType: encap.VnetGSOTCPv4, HdrLen: 66, GSOSize: 1384, CsumStart: 34, CsumOffset: 16,
		},
	}
}

func TestUplinkHeader(t *testing.T) {
	for _, c := range []struct {
		name, src, to, want string
		change              func(*netio.Unsegmented)
	}{
		{"IPv4", "192.0.2.1", "192.0.2.2:4789", `
			09 21 7400 6805 5400 1000 0000 00000000 0000 0000 2200 4000
			000000000000 0300 ce05 0000 0800
			45ba 0bdc 0000 4000 4011 aa53 c0000201 c0000202
			c350 12b5 0bc8 8fdd
			08000000 12345600`, nil},
		{"IPv6", "2001:db8::1", "[2001:db8::2]:8472", `
			09 41 8800 6805 6800 1000 0000 00000000 0000 0000 3600 5400
			000000000000 0300 e205 0000 86dd
			6ba00000 0bc8 11 40 20010db8000000000000000000000001 20010db8000000000000000000000002
			c350 2118 0bc8 674e
			08000000 12345600`, nil},
		{"TCP over IPv6 with ECN, tagged", "192.0.2.1", "192.0.2.2:4789", `
			09 a4 8c00 5405 6c00 1000 0000 00000000 0000 0000 2200 4400
			000000000000 0300 d205 0000 0800
			4500 0bdc 0000 4000 0111 ea0d c0000201 c0000202
			c350 12b5 0bc8 8fdd
			08000000 12345600`, func(w *netio.Unsegmented) {
			w.TOS, w.TTL, w.L3 = 0, 1, 18
			w.VNet = encap.VnetHdr{
				GSOType: encap.VnetGSOTCPv6 | encap.VnetGSOECN, HdrLen: 90, GSOSize: 1364, CsumStart: 58, CsumOffset: 16,
			}
		}},
		{"UDP", "192.0.2.1", "192.0.2.2:4789", `
			09 25 5c00 b004 5400 0600 0000 00000000 0000 0000 2200 4000
			000000000000 0300 fe04 0000 0800
			45ba 0bdc 0000 4000 4011 aa53 c0000201 c0000202
			c350 12b5 0bc8 8fdd
			08000000 12345600`, func(w *netio.Unsegmented) {
			w.VNet = encap.VnetHdr{
				GSOType: encap.VnetGSOUDPL4, HdrLen: 42, GSOSize: 1200, CsumStart: 34, CsumOffset: 6,
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := wholeTCP(c.to)
			if c.change != nil {
				c.change(w)
			}
			h := header{src: netip.MustParseAddr(c.src).AsSlice(), port: 50000, worker: 3}
			b := bytes.Repeat([]byte{0xaa}, maxHeader)
			got := b[:h.put(b, w)]
			if want := unhex(t, c.want); !bytes.Equal(got, want) {
				t.Errorf("got\n%x, want\n%x", got, want)
			}
		})
	}
}

// TestUplinkHeaderTooLong: the outer packet's length field has 16 bits.
func TestUplinkHeaderTooLong(t *testing.T) {
	for _, c := range []struct {
		src, to string
		most    int
	}{
		{"192.0.2.1", "192.0.2.2:4789", 65535 - 20 - 8 - 8},
		{"2001:db8::1", "[2001:db8::2]:4789", 65535 - 8 - 8},
	} {
		w, h := wholeTCP(c.to), header{src: netip.MustParseAddr(c.src).AsSlice()}
		b := make([]byte, maxHeader)
		w.Data = make([]byte, c.most)
		if h.put(b, w) == 0 {
			t.Errorf("%s: %d bytes are refused", c.src, len(w.Data))
		}
		w.Data = make([]byte, c.most+1)
		if h.put(b, w) != 0 {
			t.Errorf("%s: %d bytes are taken", c.src, len(w.Data))
		}
	}
}

func BenchmarkUplinkHeader(b *testing.B) {
	w, h := wholeTCP("192.0.2.2:4789"), header{src: []byte{192, 0, 2, 1}}
	buf := make([]byte, maxHeader)
	b.ReportAllocs()
	for b.Loop() {
		h.put(buf, w)
	}
}
