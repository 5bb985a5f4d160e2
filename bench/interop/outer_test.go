package interop

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// outside is a VXLAN packet taken apart.
type outside struct {
	tos, ttl uint8
	df       bool // an IPv6 packet always has it
	inner    []byte
}

// takeApart returns the VXLAN packet for port 4789 that the frame is.
func takeApart(frame []byte) (o outside, ok bool) {
	t, ok := encap.FindTransport(frame)
	if !ok || t.Proto != encap.ProtoUDP {
		return o, false
	}
	udp, err := encap.ParseUDP(frame[t.L4:t.End])
	if err != nil || udp.DstPort() != 4789 {
		return o, false
	}
	o.inner = frame[t.L4+encap.UDPHeaderLen+encap.VXLANHeaderLen:]
	if t.V6 {
		ip := encap.IPv6(frame[t.L3:])
		o.tos, o.ttl, o.df = ip.TrafficClass(), ip.HopLimit(), true
	} else {
		ip := encap.IPv4(frame[t.L3:])
		o.tos, o.ttl, o.df = ip.TOS(), ip.TTL(), ip.DF()
	}
	return o, true
}

// TestOuterHeader looks at what leaves a host by the wire: TTL, DF and DSCP are
// as configured, the ECN codepoint is the inner packet's (RFC 6040 section 4.1),
// and the inner packet is untouched, of single frames and of GSO packets, cut
// and unsegmented.
func TestOuterHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v6    bool
		lines []string
		whole bool // GSO packets leave unsegmented
		dscp  func(inner uint8) uint8
		ttl   uint8
		df    bool
	}{
		{dscp: inherited, ttl: 64, df: true, whole: true},
		{v6: true, dscp: inherited, ttl: 64, df: true, whole: true},
		{dscp: inherited, ttl: 64, df: true},
		{lines: []string{"ttl = 9", "tos = 0x28", "df = false"}, dscp: fixed28, ttl: 9},
		{lines: []string{"ttl = 9", "tos = 0x28"}, whole: true, dscp: fixed28, ttl: 9, df: true},
		{v6: true, lines: []string{"ttl = 9", "tos = 0x28"}, dscp: fixed28, ttl: 9, df: true},
	} {
		t.Run(fmt.Sprintf("v6=%t,whole=%t,%v", c.v6, c.whole, c.lines), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: c.v6}))
			a, b := sites[0], sites[1]
			kernel.end(t, b, blue(b, sites...), sites)
			conf := at(a, blue(a, sites...).with(c.lines...))
			conf.engine = append(conf.engine, fmt.Sprintf("tunnel_gso = %t", c.whole))
			start(t, a.Host, conf)
			for _, f := range flows(a, b) {
				f.ping(t, netlab.PingOptions{}) // every neighbour is known from here on
			}
			ear, mouth := openRaw(t, b.Host, netlab.UnderlayDev), openRaw(t, a.Container, netlab.ContainerDev)
			judge := func(o outside) error {
				inner, isIP := encap.InnerTOS(o.inner)
				want := c.dscp(inner)&^encap.ECNMask | inner&encap.ECNMask
				if !isIP {
					want = c.dscp(0) &^ encap.ECNMask
				}
				if o.tos != want || o.ttl != c.ttl || o.df != (c.df || c.v6) {
					return fmt.Errorf("inner TOS %#x: outer TOS %#x, want %#x; TTL %d; DF %t", inner, o.tos, want, o.ttl, o.df)
				}
				return nil
			}

			const station encap.MAC = 0x0242_0000_0078
			for ecn := range uint8(4) {
				for _, frame := range [][]byte{
					ethernet(b.MAC, station, nil, unix.ETH_P_IP, ipv4(0xb8|ecn, 100, a.IPv4, b.IPv4)),
					ethernet(b.MAC, station, nil, unix.ETH_P_IPV6, ipv6(0xb8|ecn, 100, a.IPv6, b.IPv6)),
				} {
					mouth.send(frame)
					got := ear.arrivals(1, func(s seen) bool {
						o, ok := takeApart(s.data)
						return ok && bytes.Equal(o.inner, frame)
					})
					if len(got) != 1 {
						t.Fatalf("inner ECN %d: %d packets with that frame as it was", ecn, len(got))
					}
					if o, _ := takeApart(got[0].data); judge(o) != nil {
						t.Errorf("inner ECN %d: %v", ecn, judge(o))
					}
				}
			}

			// Bulk of ECN-capable TCP: data are ECT(0), pure ACKs are not.
			for _, h := range []*netlab.Host{a.Container, b.Container} {
				check(t, h.Sysctl("net/ipv4/tcp_ecn", "1"))
			}
			for _, f := range flows(a, b)[:2] {
				ear.read()
				f.tcp(t, 4<<20)
				capable, large := 0, 0
				for _, s := range ear.read() {
					o, ok := takeApart(s.data)
					if s.outgoing || !ok {
						continue
					}
					if err := judge(o); err != nil {
						t.Fatalf("%v: %v", f, err)
					}
					if inner, _ := encap.InnerTOS(o.inner); inner&encap.ECNMask == encap.ECT0 {
						capable++
					}
					// A run of packets is one here, of which this is the first.
					if in, _ := encap.FindTransport(o.inner); in.End > 2*int(a.MTU) {
						large++
					}
				}
				if capable == 0 || (large > 0) != c.whole {
					t.Errorf("%v: %d packets of ECT(0), %d GSO packets", f, capable, large)
				}
			}
		})
	}
}

func inherited(inner uint8) uint8 { return inner }

func fixed28(uint8) uint8 { return 0x28 }
