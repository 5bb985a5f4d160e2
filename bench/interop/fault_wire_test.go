package interop

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/dataplane"
	"overtap/encap"
)

// imposter is the source of frames that faults send.
const imposter encap.MAC = 0x0242_0000_0066

// wireFaults are what comes from the underlay amiss: by a peer (b), or by a host
// that is none (c).
var wireFaults = []fault{
	{name: "truncated", build: besideKernel, quiet: true, strike: func(s *scene) {
		whole := vxlan(8, 100, s.frame())
		const most = encap.VXLANHeaderLen + encap.EthernetHeaderLen
		counts := [most]int{}
		s.pelt(s.peer(), func(i int) []byte {
			counts[i%most]++
			return whole[:i%most]
		})
		header, frame := 0, 0
		for length, n := range counts {
			if length < encap.VXLANHeaderLen {
				header += n
			} else {
				frame += n
			}
		}
		s.expects("", dataplane.Inbound, dataplane.DropTooShort, header)
		s.expects("blue", dataplane.Inbound, dataplane.DropTooShort, frame)
	}},
	{name: "oversized", build: besideKernel, quiet: true, strike: func(s *scene) {
		sizes := []int{int(s.a.MTU) + 1, 9000, 65000}
		n := s.pelt(s.peer(), func(i int) []byte {
			return vxlan(8, 100, ethernet(s.a.MAC, imposter, nil, unix.ETH_P_IP, ipv4(0, sizes[i%len(sizes)], s.b.IPv4, s.a.IPv4)))
		})
		s.expects("blue", dataplane.Inbound, dataplane.DropTooBig, n)
	}},
	{name: "garbage", build: besideKernel, quiet: true, strike: func(s *scene) {
		seed := rand.Uint64()
		s.t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		short, flagless, unknown := 0, 0, 0
		s.pelt(s.peer(), func(int) []byte {
			b := make([]byte, random.IntN(1400))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			switch {
			case len(b) < encap.VXLANHeaderLen:
				short++
			case b[0]&8 == 0:
				flagless++
			default:
				unknown++
				b[4] |= 0x80 // not 100
			}
			return b
		})
		s.expects("", dataplane.Inbound, dataplane.DropTooShort, short)
		s.expects("", dataplane.Inbound, dataplane.DropVXLANInvalidHdr, flagless)
		s.expects("", dataplane.Inbound, dataplane.DropVXLANVNINotFound, unknown)
	}},
	{name: "wrong VNI", build: besideKernel, quiet: true, strike: func(s *scene) {
		n := s.pelt(s.peer(), func(int) []byte { return vxlan(8, 101, s.frame()) })
		s.expects("", dataplane.Inbound, dataplane.DropVXLANVNINotFound, n)
	}},
	{name: "unlisted senders", build: besideKernel, quiet: true, strike: func(s *scene) {
		n := s.pelt(s.unlisted(), func(int) []byte { return vxlan(8, 100, s.frame()) })
		s.expects("blue", dataplane.Inbound, dataplane.DropPeerNotAdmitted, n)
		if e, ok := s.d.entry("blue", imposter); ok {
			s.t.Errorf("learned from an unlisted sender: %+v", e)
		}
	}},
	{name: "a container as a peer", build: besideKernel, quiet: true, strike: func(s *scene) {
		// A second container, so that the honest one's queue stays its own.
		c := s.second()
		raw := openRaw(s.t, c, netlab.ContainerDev)
		for _, of := range []string{"all", netlab.SiteBridge} {
			check(s.t, s.a.Host.Sysctl("net/ipv4/conf/"+of+"/rp_filter", "0"))
		}
		to := must[encap.MAC](s.t)(s.a.Host.MAC(netlab.SiteBridge))
		from := must[encap.MAC](s.t)(c.MAC(netlab.ContainerDev))
		n := s.repeat(func(i int) {
			_, p := outerPacket(s.b.Underlay, s.a.Underlay, encap.ProtoUDP,
				outerUDP(s.b.Underlay, s.a.Underlay, uint16(50000+i%1000), 4789, vxlan(8, 100, s.frame())))
			raw.send(ethernet(to, from, nil, unix.ETH_P_IP, p))
		})
		s.expects("blue", dataplane.Inbound, dataplane.DropFromOverlay, n)
		if e, ok := s.d.entry("blue", imposter); ok {
			s.t.Errorf("learned from a container: %+v", e)
		}
	}},
	{name: "reserved bits", build: besideKernel, quiet: true, strike: func(s *scene) {
		n := s.pelt(s.peer(), func(int) []byte { return vxlan(0xfa, 100, s.frame()) })
		s.arrived(n)
		if got := s.network().ReservedBits; got != uint64(n) && socketDrops(s.d.stats()) == 0 {
			s.t.Errorf("%d counted as reserved bits, want %d", got, n)
		}
	}},
	{name: "reserved bits refused", build: besideKernel, lines: []string{`reserved = "drop"`}, quiet: true, strike: func(s *scene) {
		n := s.pelt(s.peer(), func(int) []byte { return vxlan(0xfa, 100, s.frame()) })
		s.expects("blue", dataplane.Inbound, dataplane.DropVXLANInvalidHdr, n)
	}},
	{name: "VXLAN-GPE", build: besideKernel, quiet: true, strike: func(s *scene) {
		n := s.pelt(s.peer(), func(i int) []byte {
			if i%2 == 0 {
				return vxlan(0x0c, 100, s.frame())
			}
			return vxlan(0x0c, 100, ipv4(0, 100, s.b.IPv4, s.a.IPv4))
		})
		s.expects("blue", dataplane.Inbound, dataplane.DropVXLANGPE, n)
		if e, ok := s.d.entry("blue", imposter); ok {
			s.t.Errorf("learned from VXLAN-GPE: %+v", e)
		}
	}},
	{name: "zero checksum", build: besideKernel, quiet: true, strike: func(s *scene) {
		v := s.peer()
		check(s.t, unix.SetsockoptInt(v.fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1))
		s.arrived(s.pelt(v, func(int) []byte { return vxlan(8, 100, s.frame()) }))
	}},
	{name: "zero checksum over IPv6", build: besideKernel, v6: true, quiet: true, strike: func(s *scene) {
		const noCheck6TX = 101 // UDP_NO_CHECK6_TX of linux/udp.h
		v := s.peer()
		check(s.t, unix.SetsockoptInt(v.fd, unix.IPPROTO_UDP, noCheck6TX, 1))
		before := must[map[string]uint64](s.t)(s.a.Host.SNMP())["Udp6InErrors"]
		n := s.pelt(v, func(int) []byte { return vxlan(8, 100, s.frame()) })
		eventually(s.t, "the kernel counts them", func() error {
			if got := must[map[string]uint64](s.t)(s.a.Host.SNMP())["Udp6InErrors"] - before; got < uint64(n) {
				return fmt.Errorf("%d, want %d", got, n)
			}
			return nil
		})
		if e, ok := s.d.entry("blue", imposter); ok {
			s.t.Errorf("learned by a datagram without a checksum: %+v", e)
		}
	}},
	{name: "damaged inside", build: besideKernel, quiet: true, strike: strikeDamage},
	{name: "IP fragments", build: besideKernel, quiet: true, strike: strikeFragments},
	{name: "lying lengths", build: besideKernel, strike: strikeLies},
}

// peer sends from b's address, unlisted sender from c's.
func (s *scene) peer() *vtep     { return newVTEP(s.t, s.b.Host, s.b.Underlay, s.a.Underlay, 4789) }
func (s *scene) unlisted() *vtep { return newVTEP(s.t, s.c.Host, s.c.Underlay, s.a.Underlay, 4789) }

// frame is one for the container of a without an answer.
func (s *scene) frame() []byte {
	return ethernet(s.a.MAC, imposter, nil, etherTest, marked(60, "fault"))
}

// pelt sends datagrams, some 5000 a second, for as long as a fault lasts, and
// returns how many.
func (s *scene) pelt(v *vtep, datagram func(i int) []byte) (n int) {
	s.t.Helper()
	return s.repeat(func(i int) { v.send(0, datagram(i)) })
}

// repeat calls send again and again for as long as a fault lasts, and returns how
// often.
func (s *scene) repeat(send func(i int)) (n int) {
	s.t.Helper()
	for end := time.Now().Add(lasting()); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for range 50 {
			send(n)
			n++
		}
	}
	return n
}

// arrived wants n frames to have been delivered, and their source to be known.
func (s *scene) arrived(n int) {
	s.t.Helper()
	s.delivered(n)
	if _, ok := s.d.entry("blue", imposter); !ok {
		s.t.Error("their source is not learned")
	}
}

// strikeFragments sends datagrams in two IP fragments: in order, the wrong way
// round, and the first half alone, which keeps the kernel waiting for the second.
func strikeFragments(s *scene) {
	fd := -1
	check(s.t, s.b.Host.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: s.a.Underlay.As4()}
	ear := openRaw(s.t, s.a.Container, "eth0")
	frame := s.frame()
	whole, id := 0, uint16(1)
	for end := time.Now().Add(lasting()); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for kind := range 3 {
			halves := fragments(s.b.Underlay, s.a.Underlay, id, vxlan(8, 100, frame))
			id++
			switch kind {
			case 1:
				slices.Reverse(halves)
			case 2:
				halves = halves[:1]
			}
			for _, p := range halves {
				check(s.t, unix.Sendto(fd, p, 0, to))
			}
			if kind != 2 {
				whole++
			}
		}
	}
	if got := len(ear.arrivals(whole, same(frame))); got != whole {
		s.t.Errorf("%d frames arrived, want the %d whole ones", got, whole)
	}
}

// fragments is a UDP datagram to port 4789, without a checksum, as two fragments
// (RFC 791 section 3.2).
func fragments(src, dst netip.Addr, id uint16, payload []byte) [][]byte {
	const first = 40 // bytes of the datagram, a multiple of 8
	udp := make([]byte, encap.UDPHeaderLen, encap.UDPHeaderLen+len(payload))
	binary.BigEndian.PutUint16(udp, 50000)
	binary.BigEndian.PutUint16(udp[2:], 4789)
	binary.BigEndian.PutUint16(udp[4:], uint16(cap(udp)))
	udp = append(udp, payload...)
	packet := func(part []byte, field uint16) []byte {
		b := make([]byte, 20, 20+len(part))
		b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(b[2:], uint16(cap(b)))
		binary.BigEndian.PutUint16(b[4:], id)
		binary.BigEndian.PutUint16(b[6:], field)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b, 0)))
		return append(b, part...)
	}
	const more = 0x2000
	return [][]byte{packet(udp[:first], more), packet(udp[first:], first/8)}
}

// lies are what the headers inside say of their lengths, and is not so. Each is
// done to a frame of IPv4 and TCP, but for the last, of UDP.
var lies = map[string]func(ip, l4 []byte){
	"total length beyond the frame":  func(ip, _ []byte) { binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+100)) },
	"total length of a GSO packet":   func(ip, _ []byte) { binary.BigEndian.PutUint16(ip[2:], uint16(8*len(ip))) },
	"total length of 65535":          func(ip, _ []byte) { binary.BigEndian.PutUint16(ip[2:], 65535) },
	"total length below the headers": func(ip, _ []byte) { binary.BigEndian.PutUint16(ip[2:], 22) },
	"total length of 0":              func(ip, _ []byte) { binary.BigEndian.PutUint16(ip[2:], 0) },
	"IP header beyond the packet":    func(ip, _ []byte) { ip[0] = 0x4f; binary.BigEndian.PutUint16(ip[2:], 40) },
	"IP header below the least":      func(ip, _ []byte) { ip[0] = 0x41 },
	"TCP header beyond the packet":   func(ip, l4 []byte) { l4[12] = 0xf0; binary.BigEndian.PutUint16(ip[2:], 40) },
	"TCP header below the least":     func(_, l4 []byte) { l4[12] = 0x10 },
	"UDP length beyond the packet":   func(ip, l4 []byte) { ip[9] = unix.IPPROTO_UDP; binary.BigEndian.PutUint16(l4[4:], 2000) },
	"UDP length below the header":    func(ip, l4 []byte) { ip[9] = unix.IPPROTO_UDP; binary.BigEndian.PutUint16(l4[4:], 3) },
}

// strikeLies sends runs of equal datagrams, so that they are received as runs,
// each with one of the lies.
func strikeLies(s *scene) {
	const run, size = 16, 200
	before := must[map[string]uint64](s.t)(s.a.Container.SNMP())
	v := s.peer()
	check(s.t, unix.SetsockoptInt(v.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, encap.VXLANHeaderLen+encap.EthernetHeaderLen+size))
	n := 0
	for end := time.Now().Add(lasting()); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, lie := range lies {
			var datagrams []byte
			for i := range run {
				ip := ipv4(0, size, s.b.IPv4, s.a.IPv4)
				ip[9] = unix.IPPROTO_TCP
				l4 := ip[20:]
				binary.BigEndian.PutUint32(l4, 50000<<16|9)
				binary.BigEndian.PutUint32(l4[4:], uint32(i*(size-40)))
				l4[12], l4[13] = 0x50, 0x10
				lie(ip, l4)
				binary.BigEndian.PutUint16(ip[10:], 0)
				binary.BigEndian.PutUint16(ip[10:], ^encap.Fold(encap.Sum(ip[:20], 0)))
				datagrams = append(datagrams, vxlan(8, 100, ethernet(s.a.MAC, imposter, nil, unix.ETH_P_IP, ip))...)
			}
			v.send(0, datagrams)
			n += run
		}
	}
	s.t.Logf("%d lies; dropped: %+v", n, s.d.dropped())
	after := must[map[string]uint64](s.t)(s.a.Container.SNMP())
	for _, name := range []string{"TcpInErrs", "UdpInErrors"} {
		if after[name] == before[name] {
			s.t.Errorf("the container's stack counts no %s: the lies did not arrive", name)
		}
	}
}
