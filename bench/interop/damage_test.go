package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/encap"
)

// damaged returns a TCP or UDP packet from src to dst whose last byte is another
// than its checksum says. Those with consecutive numbers follow each other in one
// flow.
func damaged(proto uint8, src, dst netip.Addr, number int) []byte {
	const payload = 600
	headers, field := encap.UDPHeaderLen, 6
	if proto == encap.ProtoTCP {
		headers, field = encap.TCPHeaderLen, 16
	}
	build, l4 := ipv4, encap.IPv4HeaderLen
	if src.Is6() {
		build, l4 = ipv6, encap.IPv6HeaderLen
	}
	b := build(0, l4+headers+payload, src, dst)
	length := uint32(len(b) - l4)
	var sum uint64
	if src.Is6() {
		b[6] = proto
		sum = encap.PseudoSum6(src.As16(), dst.As16(), proto, length)
	} else {
		b[6], b[9] = 0x40, proto // DF
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b[:l4], 0)))
		sum = encap.PseudoSum4(src.As4(), dst.As4(), proto, length)
	}
	h := b[l4:]
	binary.BigEndian.PutUint16(h, 40001)
	binary.BigEndian.PutUint16(h[2:], 40002)
	if proto == encap.ProtoTCP {
		binary.BigEndian.PutUint32(h[4:], uint32(number*payload))
		h[12], h[13] = encap.TCPHeaderLen/4<<4, encap.TCPACK
	} else {
		binary.BigEndian.PutUint16(h[4:], uint16(length))
	}
	binary.BigEndian.PutUint16(h[field:], ^encap.Fold(encap.Sum(h, sum)))
	b[len(b)-1] ^= 0xff
	return b
}

// sendRun sends datagrams of one length by one call, for the receiver's UDP_GRO.
func (v *vtep) sendRun(datagrams ...[]byte) {
	v.t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	h := unix.Cmsghdr{Level: unix.IPPROTO_UDP, Type: unix.UDP_SEGMENT}
	h.SetLen(unix.CmsgLen(2))
	_, err := binary.Encode(oob, binary.NativeEndian, struct {
		Len         uint64
		Level, Type int32
		Size        uint16
	}{h.Len, h.Level, h.Type, uint16(len(datagrams[0]))})
	check(v.t, err)
	check(v.t, unix.Sendmsg(v.fd, slices.Concat(datagrams...), oob, nil, 0))
}

// strikeDamage sends packets that were damaged before they were encapsulated: the
// outer checksum is right. The container's stack sees every one of them, alone or
// in a run, whatever was joined on the way.
func strikeDamage(s *scene) {
	const run = 16
	v := s.peer()
	counters := func() map[string]uint64 { return must[map[string]uint64](s.t)(s.a.Container.SNMP()) }
	before := counters()
	sent := map[string]uint64{}
	for end := time.Now().Add(lasting()); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, c := range []struct {
			proto    uint8
			src, dst netip.Addr
			counter  string
		}{
			{encap.ProtoUDP, s.b.IPv4, s.a.IPv4, "UdpInCsumErrors"},
			{encap.ProtoUDP, s.b.IPv6, s.a.IPv6, "Udp6InCsumErrors"},
			{encap.ProtoTCP, s.b.IPv4, s.a.IPv4, "TcpInCsumErrors"},
			{encap.ProtoTCP, s.b.IPv6, s.a.IPv6, "TcpInCsumErrors"},
		} {
			etherType := uint16(unix.ETH_P_IP)
			if c.src.Is6() {
				etherType = unix.ETH_P_IPV6
			}
			var datagrams [][]byte
			for i := range run {
				datagrams = append(datagrams, vxlan(8, 100, ethernet(s.a.MAC, imposter, nil, etherType, damaged(c.proto, c.src, c.dst, i))))
			}
			v.sendRun(datagrams...)
			for _, d := range datagrams {
				v.send(0, d)
			}
			sent[c.counter] += 2 * run
		}
	}
	eventually(s.t, "the container's stack sees the damage", func() error {
		now, queue := counters(), socketDrops(s.d.stats())-socketDrops(s.before)
		for counter, want := range sent {
			if got := now[counter] - before[counter]; got > want || got+queue < want {
				return fmt.Errorf("%d counted as %s, want %d; %d were dropped before the daemon", got, counter, want, queue)
			}
		}
		return nil
	})
}

// TestDamagedInsideIPIP is the same for IP-in-IP, whose outer packet has no checksum
// of its payload: the container's stack sees the damage, whether the TUN takes GSO
// packets or not.
func TestDamagedInsideIPIP(t *testing.T) {
	t.Parallel()
	for name, engine := range map[string][]string{"offloads": nil, "plain": {"offload = false"}} {
		t.Run(name, func(t *testing.T) {
			w := newTunnelled(t, 2, "", engine...)
			fd := -1
			check(t, w.hosts[1].Do(func() (err error) {
				fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IPIP)
				return err
			}))
			defer unix.Close(fd)
			check(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: netlab.UnderlayAddr(2, false).As4()}))
			check(t, unix.Connect(fd, &unix.SockaddrInet4{Addr: netlab.UnderlayAddr(1, false).As4()}))
			w.flows()[0].ping(t, netlab.PingOptions{Count: 1})

			const each = 200
			counters := func() map[string]uint64 { return must[map[string]uint64](t)(w.containers[0].SNMP()) }
			before := counters()
			for _, proto := range []uint8{encap.ProtoUDP, encap.ProtoTCP} {
				for i := range each {
					_, err := unix.Write(fd, damaged(proto, inner(1, 2, false), inner(0, 2, false), i))
					check(t, err)
				}
			}
			eventually(t, "the container's stack sees the damage", func() error {
				now := counters()
				for _, counter := range []string{"UdpInCsumErrors", "TcpInCsumErrors"} {
					if got := now[counter] - before[counter]; got != each {
						return fmt.Errorf("%d counted as %s, want %d", got, counter, each)
					}
				}
				return nil
			})
		})
	}
}
