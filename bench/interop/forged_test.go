package interop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
	"overtap/encap"
)

// quoted is the start of a packet as an ICMP error quotes it.
type quoted struct {
	from, to netip.Addr
	proto    uint8
	src, dst uint16 // ports of UDP
}

func (q quoted) bytes() []byte {
	var b []byte
	if q.from.Is6() {
		b = make([]byte, encap.IPv6HeaderLen, encap.IPv6HeaderLen+encap.UDPHeaderLen)
		b[0], b[5], b[6], b[7] = 0x60, 200, q.proto, 64
		copy(b[8:], q.from.AsSlice())
		copy(b[24:], q.to.AsSlice())
	} else {
		b = make([]byte, encap.IPv4HeaderLen, encap.IPv4HeaderLen+encap.UDPHeaderLen)
		b[0], b[3], b[6], b[8], b[9] = 0x45, 220, 0x40, 64, q.proto
		copy(b[12:], q.from.AsSlice())
		copy(b[16:], q.to.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b, 0)))
	}
	b = binary.BigEndian.AppendUint16(b, q.src)
	b = binary.BigEndian.AppendUint16(b, q.dst)
	return append(b, 0, 200, 0, 0)
}

// forge sends Fragmentation Needed or Packet Too Big from the host to the one that
// would have sent the quoted packet.
func forge(t testing.TB, from *netlab.Host, q quoted, mtu uint16) {
	t.Helper()
	check(t, from.Do(func() error {
		family, proto := unix.AF_INET, unix.IPPROTO_ICMP
		var to unix.Sockaddr
		message := []byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}
		if q.from.Is6() {
			family, proto, to = unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: q.from.As16()}
			message[0], message[1] = 2, 0
		} else {
			to = &unix.SockaddrInet4{Addr: q.from.As4()}
		}
		message = append(message, q.bytes()...)
		if !q.from.Is6() { // the kernel sums ICMPv6 itself
			binary.BigEndian.PutUint16(message[2:], ^encap.Fold(encap.Sum(message, 0)))
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, message, 0, to)
	}))
}

// routeMTU is the path MTU from the host to the address, as its kernel has it.
func routeMTU(t testing.TB, h *netlab.Host, to netip.Addr) (mtu int) {
	t.Helper()
	check(t, h.Do(func() error {
		family, level, opt := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
		var sa unix.Sockaddr
		if to.Is6() {
			family, level, opt = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
			sa = &unix.SockaddrInet6{Addr: to.As16(), Port: 9}
		} else {
			sa = &unix.SockaddrInet4{Addr: to.As4(), Port: 9}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sa); err != nil {
			return err
		}
		mtu, err = unix.GetsockoptInt(fd, level, opt)
		return err
	}))
	return mtu
}

// forgeUntil forges until the kernel believes, as it reports no more than one
// exception in a while.
func forgeUntil(t testing.TB, from, at *netlab.Host, q quoted, mtu uint16, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("a path MTU of %d", want), func() error {
		forge(t, from, q, mtu)
		time.Sleep(10 * time.Millisecond)
		if got := routeMTU(t, at, q.to); got != want {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// TestForgedTooBig has a host that can reach another claim that the path to its
// peer takes 68 bytes (over IPv6: 1280). An error that quotes the port that is known
// to everyone finds a socket that only receives, and is not believed. One that
// guesses a source port is: then the route is locked at 552 bytes, and all goes on
// in packets without DF.
func TestForgedTooBig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v6     bool
		engine []string
	}{
		{},
		{engine: []string{"tunnel_gso = false"}},
		{engine: []string{"offload = false"}},
		{v6: true},
		{v6: true, engine: []string{"tunnel_gso = false"}},
	} {
		t.Run(fmt.Sprintf("v6=%t%v", c.v6, c.engine), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: c.v6}))
			a, b := sites[0], sites[1]
			kernel.end(t, b, blue(b, sites...), sites)
			conf := at(a, blue(a, sites...))
			conf.engine = c.engine
			d := start(t, a.Host, conf)
			exchange(t, a, b, 1<<20)
			low, forged := 552, uint16(68)
			if c.v6 {
				low, forged = 1280, 1280
			}

			// The sockets that receive: nothing to guess.
			known := quoted{from: a.Underlay, to: b.Underlay, proto: encap.ProtoUDP, src: 4789, dst: 4789}
			for range 20 {
				forge(t, b.Host, known, forged)
			}
			time.Sleep(50 * time.Millisecond)
			if got := routeMTU(t, a.Host, b.Underlay); got != 1500 {
				t.Errorf("an error that quotes the receiving socket's port: path MTU %d, want 1500", got)
			}

			// The sockets that send, and so the Uplink.
			sources := ask[struct {
				SourcePorts []uint16 `json:"source_ports"`
			}](d, "status").SourcePorts
			if len(sources) == 0 {
				t.Fatal("status names no source ports")
			}
			guessed := known
			guessed.src = sources[0]
			forgeUntil(t, b.Host, a.Host, guessed, forged, low)
			for _, f := range flows(a, b) {
				if c.v6 && f.from.Host == a.Container && f.from.Addr.Is4() {
					f.learns(t, low-encap.VXLANOverhead6) // which IPv4 goes down to
				} else {
					f.pings(t)
				}
				f.tcp(t, 1<<20)
			}
			n := d.stats().Networks[0]
			if !c.v6 && n.Answered != 0 {
				t.Errorf("%d senders got a path MTU that is too narrow for them", n.Answered)
			}
			if n.ClearedDF == 0 {
				t.Error("nothing left without DF")
			}
			if got := d.pathMTU(b); got != encap.UnderlayMTU(low) {
				t.Errorf("path MTU of the peer %d, want %d", got, low)
			}
			for _, r := range d.dropped() {
				if r.Direction == dataplane.Outbound && !(c.v6 && r.Reason == dataplane.DropTooBig) {
					t.Errorf("dropped: %+v", r)
				}
			}
		})
	}
}

// TestForgedTooBigIPIP is the same for IP-in-IP, whose raw socket has no port to
// guess: what is claimed is believed.
func TestForgedTooBigIPIP(t *testing.T) {
	t.Parallel()
	for _, engine := range [][]string{nil, {"tunnel_gso = false"}, {"offload = false"}} {
		t.Run(fmt.Sprint(engine), func(t *testing.T) {
			w := newTunnelled(t, 2, "", engine...)
			for _, f := range w.flows() {
				reaches(t, f.from.Host, f.to.Addr)
				f.tcp(t, 1<<20)
			}
			self, peer := netlab.UnderlayAddr(1, false), netlab.UnderlayAddr(2, false)
			forgeUntil(t, w.hosts[1], w.hosts[0], quoted{from: self, to: peer, proto: encap.ProtoIPIP}, 68, 552)
			for _, f := range w.flows() {
				f.ping(t, netlab.PingOptions{Count: 3, Size: tunnelMTU - f.headers(), DF: true})
				f.tcp(t, 1<<20)
			}
			n := w.daemons[0].stats().Networks[0]
			if n.ClearedDF == 0 || n.Answered != 0 {
				t.Errorf("%d packets without DF, %d senders notified", n.ClearedDF, n.Answered)
			}
		})
	}
}

// TestFragmentsOnANarrowPath has containers send packets without DF, by ping, UDP
// and TCP, to a peer whose path takes 1400 bytes: they arrive, as with the kernel's
// devices, and as many fragments are counted.
func TestFragmentsOnANarrowPath(t *testing.T) {
	t.Parallel()
	const hop = 1400
	narrow := func(t testing.TB, h *netlab.Host, peer netip.Addr) {
		t.Helper()
		if out, err := h.Command("ip", "route", "replace", peer.String(), "dev", netlab.UnderlayDev, "mtu", fmt.Sprint(hop)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	arrives := func(t testing.TB, f flow) {
		t.Helper()
		check(t, f.from.Host.Sysctl("net/ipv4/ip_no_pmtu_disc", "1"))
		f.ping(t, netlab.PingOptions{Count: 5, Size: f.mtu - f.headers()})
		f.udp(t, traffic.UDPOptions{Size: f.mtu - encap.IPv4HeaderLen - encap.UDPHeaderLen, Count: 100})
		f.tcp(t, 4<<20)
	}
	for _, c := range []struct {
		v6     bool
		engine []string
	}{{}, {engine: []string{"offload = false"}}, {v6: true}} {
		t.Run(fmt.Sprintf("vxlan/v6=%t%v", c.v6, c.engine), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: c.v6}))
			a, b := sites[0], sites[1]
			kernel.end(t, b, blue(b, sites...), sites)
			conf := at(a, blue(a, sites...))
			conf.engine = c.engine
			d := start(t, a.Host, conf)
			narrow(t, a.Host, b.Underlay)
			for _, f := range flows(a, b) {
				if f.from.Host == a.Container && f.from.Addr.Is4() {
					arrives(t, f)
				}
			}
			check(t, fragmented(d))
		})
	}
	t.Run("ipip", func(t *testing.T) {
		w := newTunnelled(t, 2, "")
		narrow(t, w.hosts[0], netlab.UnderlayAddr(2, false))
		f := w.flows()[0]
		reaches(t, f.from.Host, f.to.Addr)
		arrives(t, f)
		check(t, fragmented(w.daemons[0]))
	})
}

// fragmented is an error unless packets were fragmented, and none dropped or
// answered.
func fragmented(d *daemon) error {
	n := d.stats().Networks[0]
	if n.Fragmented == 0 {
		return errors.New("nothing was fragmented")
	}
	if n.Answered != 0 {
		return fmt.Errorf("%d senders were notified, of packets without DF", n.Answered)
	}
	for _, r := range d.dropped() {
		if r.Reason == dataplane.DropTooBig {
			return fmt.Errorf("dropped: %+v", r)
		}
	}
	return nil
}
