package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/guest"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic/echo"
	"overtap/dataplane"
	"overtap/encap"
)

// guestTunnel is overtap's tunnel to the ipip device of a guest's kernel:
//
//	10.1.1.2 ─ br0 ─ host a ─ tun0 ═══ tun0 ─ guest 10.1.2.2
//	                   192.0.2.1   192.0.2.2
type guestTunnel struct {
	*foreign
	a, a1        *netlab.Host
	d            *daemon
	ours, theirs netip.Addr // of the underlay
	here, there  netip.Addr // of the container and the guest
}

// newGuestTunnel starts overtap with more in the tunnel's table, and gives more
// words to the guest's ip tunnel add.
func newGuestTunnel(t *testing.T, more string, engine []string, words string) *guestTunnel {
	t.Helper()
	a := must[*netlab.Host](t)(netlabtest.New(t).AddHost("a"))
	w := &guestTunnel{foreign: newForeign(t, a), a: a, ours: netlab.UnderlayAddr(1, false), theirs: netlab.UnderlayAddr(2, false)}
	w.join(words)
	w.start(more, engine)
	return w
}

// join makes all but overtap.
func (w *guestTunnel) join(words string) {
	t := w.t
	t.Helper()
	w.here, w.there = inner(0, 2, false), inner(1, 2, false)
	check(t, w.a.Sysctl("net/ipv4/ip_forward", "1"))
	check(t, w.a.AddBridge("br0", tunnelMTU))
	check(t, w.a.AddAddr("br0", netip.PrefixFrom(inner(0, 1, false), 24)))
	w.a1 = must[*netlab.Host](t)(w.a.AddContainer(netlab.ContainerSpec{
		Name: "a1", Bridge: "br0", MTU: tunnelMTU,
		Addrs: []netip.Prefix{netip.PrefixFrom(w.here, 24)}, Gateway: inner(0, 1, false),
	}))
	check(t, w.g.IPIP(w.limit(), guest.IPIPSpec{Name: "tun0", Local: w.theirs, Remote: w.ours, MTU: tunnelMTU, More: words}))
	w.addr("tun0", netip.PrefixFrom(w.there, 32))
	w.run("ip route add %v dev tun0; ip route add 172.31.0.1 dev tun0", innerPrefix(0, false))
}

func (w *guestTunnel) start(more string, engine []string) {
	w.t.Helper()
	w.d = start(w.t, w.a, config{
		underlay: w.ours,
		engine:   engine,
		last: fmt.Sprintf("[[ipip]]\nname = \"tun0\"\naddresses = [\"172.31.0.1/32\"]\n%s\n[[ipip.route]]\nprefix = %q\npeer = %q\n",
			more, innerPrefix(1, false), w.theirs),
	})
}

// Every kind of traffic, begun at each end, with the kernel's own ipip.
func TestGuestIPIP(t *testing.T) {
	for name, c := range map[string]struct {
		offload netlab.Offload
		engine  []string
	}{
		"all":        {netlab.AllOffloads, nil},
		"no uplink":  {netlab.AllOffloads, []string{"tunnel_gso = false"}},
		"plain TUN":  {netlab.AllOffloads, []string{"offload = false"}},
		"no offload": {netlab.NoOffloads, []string{"workers = 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newGuestTunnel(t, "check_source = true", c.engine, "")
			check(t, w.a.SetOffload(netlab.UnderlayDev, c.offload))
			echoAt(t, w.a1, w.here)
			reaches(t, w.a1, w.there)
			before := w.sums()
			w.exchange(w.a1, w.here, w.there, tunnelMTU, 4<<20)
			// The host itself, by its address on the TUN.
			reaches(t, w.a, w.there)
			w.run("ping -c 1 -W %d 172.31.0.1", int(patience.Seconds()))
			if after := w.sums(); after != before {
				t.Errorf("wrong checksums in the guest before:\n%s\nafter:\n%s", before, after)
			}
			check(t, refusedSums(t, w.a1))
			if drops := w.d.dropped(); len(drops) > 0 {
				t.Errorf("dropped: %+v", drops)
			}
		})
	}
}

// packet makes a UDP datagram that the guest refuses, with these fields of the
// IPv4 header and, in its payload, the number n.
func packet(src, dst netip.Addr, tos, ttl uint8, df bool, n byte) []byte {
	const payload = 40
	b := ipv4(tos, 20+8+payload, src, dst)
	b[8], b[9] = ttl, unix.IPPROTO_UDP
	if df {
		b[6] = 0x40
	}
	b[4], b[5] = 0x77, n
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b[:20], 0)))
	binary.BigEndian.PutUint16(b[20:], 7777)
	binary.BigEndian.PutUint16(b[22:], 9)
	binary.BigEndian.PutUint16(b[24:], 8+payload)
	b[28] = n
	return b
}

// What the guest's kernel sees around and in the tunnel's packets: TTL, TOS, ECN
// and Don't Fragment of the outer header, and the inner packet as it was sent.
func TestGuestIPIPHeaders(t *testing.T) {
	type fields struct {
		tos, ttl uint8
		df       bool
	}
	// Every codepoint of ECN with and without DSCP: RFC 6040 section 4.1, normal
	// mode, copies all of them.
	var inside []fields
	for ecn := range uint8(4) {
		inside = append(inside, fields{ecn, 64, true}, fields{0xb8 | ecn, 2, false})
	}
	for name, c := range map[string]struct {
		more string
		want func(fields) fields
	}{
		"inherit":    {"", func(in fields) fields { return fields{in.tos, 64, true} }},
		"own values": {"ttl = 9\ntos = 0x20\n", func(in fields) fields { return fields{0x20 | in.tos&3, 9, true} }},
		"df":         {"df = false\n", func(in fields) fields { return fields{in.tos, 64, in.df} }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newGuestTunnel(t, c.more, nil, "")
			reaches(t, w.a1, w.there)
			gateway := must[encap.MAC](t)(w.a.MAC("br0"))
			own := must[encap.MAC](t)(w.a1.MAC(netlab.ContainerDev))
			sender := openRaw(t, w.a1, netlab.ContainerDev)
			outer, in := w.capture(guest.Dev, len(inside)), w.capture("tun0", len(inside))
			for i, f := range inside {
				sender.send(ethernet(gateway, own, nil, unix.ETH_P_IP, packet(w.here, w.there, f.tos, f.ttl, f.df, byte(i))))
			}
			inners := in()
			for i, p := range outer() {
				// The host, a router, takes one hop off (RFC 2003 section 3.1).
				sent := packet(w.here, w.there, inside[i].tos, inside[i].ttl-1, inside[i].df, byte(i))
				p = p[encap.EthernetHeaderLen:]
				got := fields{p[1], p[8], p[6]&0x40 != 0}
				if want := c.want(inside[i]); got != want || p[9] != unix.IPPROTO_IPIP || p[6]&0xbf != 0 {
					t.Errorf("inner %+v: outer %+v, protocol %d; want %+v", inside[i], got, p[9], want)
				}
				if !bytes.Equal(p[20:], sent) {
					t.Errorf("inner %+v: encapsulated is\n% x, want\n% x", inside[i], p[20:], sent)
				}
				if !bytes.Equal(inners[i], sent) {
					t.Errorf("inner %+v: the guest's tun0 has\n% x, want\n% x", inside[i], inners[i], sent)
				}
			}
		})
	}
}

// Congestion that is marked on the way is shown to the inner receiver, by each
// end's rules (RFC 6040 section 4.2).
func TestGuestIPIPCongestion(t *testing.T) {
	w := newGuestTunnel(t, "", nil, "ttl 5 tos inherit")
	reaches(t, w.a1, w.there)
	own := must[encap.MAC](t)(w.a1.MAC(netlab.ContainerDev))
	gateway := must[encap.MAC](t)(w.a.MAC("br0"))
	wire, sender := openRaw(t, w.a, netlab.UnderlayDev), openRaw(t, w.a1, netlab.ContainerDev)
	way := openRaw(t, w.g.Host(), "port0")
	// An echo's answer has the TOS of its request (kernel icmp_reply), which the
	// guest's ipip copies outside.
	for _, tos := range []uint8{0, 1, 2, 3, 0xba} {
		request := ipv4(tos, 20+8, w.here, w.there)
		request[9], request[20] = unix.IPPROTO_ICMP, 8
		binary.BigEndian.PutUint16(request[10:], 0)
		binary.BigEndian.PutUint16(request[10:], ^encap.Fold(encap.Sum(request[:20], 0)))
		binary.BigEndian.PutUint16(request[22:], ^uint16(8<<8))
		sender.send(ethernet(gateway, own, nil, unix.ETH_P_IP, request))
		answer := sender.arrivals(1, func(s seen) bool {
			return s.etherType() == unix.ETH_P_IP && bytes.Equal(s.data[26:30], w.there.AsSlice())
		})
		if len(answer) != 1 || answer[0].data[15] != tos || answer[0].data[34] != 0 {
			t.Fatalf("TOS %#x: %d answers %v", tos, len(answer), answer)
		}
		outside := wire.arrivals(1, func(s seen) bool {
			return s.etherType() == unix.ETH_P_IP && s.data[23] == unix.IPPROTO_IPIP
		})
		want := tos
		if tos&3 == 3 {
			want = tos&^3 | 2 // kernel INET_ECN_encapsulate: congestion is not signalled twice
		}
		if len(outside) != 1 || outside[0].data[15] != want || outside[0].data[22] != 5 {
			t.Errorf("TOS %#x: outside %v, want TOS %#x", tos, outside, want)
		}
		// The guest's own packet again, marked on the way.
		for _, o := range outside {
			marked := bytes.Clone(o.data)
			marked[15] |= 3
			binary.BigEndian.PutUint16(marked[24:], 0)
			binary.BigEndian.PutUint16(marked[24:], ^encap.Fold(encap.Sum(marked[14:34], 0)))
			wants := 1
			if tos&3 == 0 {
				wants = 0
			}
			before := w.d.drops("tun0", dataplane.Inbound, dataplane.DropIPTunnelECN)
			way.send(marked)
			eventually(t, "the marked packet", func() error {
				if n := w.d.drops("tun0", dataplane.Inbound, dataplane.DropIPTunnelECN) - before; n != uint64(1-wants) {
					return fmt.Errorf("%d dropped as %v, want %d", n, dataplane.DropIPTunnelECN, 1-wants)
				}
				return nil
			})
			got := sender.arrivals(wants, func(s seen) bool {
				return s.etherType() == unix.ETH_P_IP && bytes.Equal(s.data[26:30], w.there.AsSlice())
			})
			if len(got) != wants {
				t.Fatalf("TOS %#x, marked outside: %d packets arrive, want %d", tos, len(got), wants)
			}
			for _, g := range got {
				if h := g.data[14:34]; h[1] != tos|3 || encap.Fold(encap.Sum(h, 0)) != 0xffff {
					t.Errorf("TOS %#x, marked outside: % x arrives", tos, h)
				}
			}
			wire.read()
		}
	}
}

// A narrow hop between overtap and the guest: inner senders at both ends are
// notified and adapt.
//
//	10.1.1.2 ─ host a 192.0.2.1 ═ router ═ 192.0.2.6 guest 10.1.2.2
//	                        1500          1400
func TestGuestIPIPPathMTU(t *testing.T) {
	lab := netlabtest.New(t)
	a, router := must[*netlab.Host](t)(lab.AddHost("a")), must[*netlab.Host](t)(lab.AddHost("router"))
	check(t, netlab.AddVeth(a, netlab.UnderlayDev, router, "to-a", 1500))
	w := &guestTunnel{foreign: joinForeign(t, router, "to-b", 1400), a: a, ours: netip.MustParseAddr("192.0.2.1"), theirs: netip.MustParseAddr("192.0.2.6")}
	check(t, router.Sysctl("net/ipv4/ip_forward", "1"))
	check(t, router.AddAddr("to-a", prefix("192.0.2.2/30")))
	check(t, router.AddAddr("to-b", prefix("192.0.2.5/30")))
	check(t, a.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(w.ours, 30)))
	check(t, a.AddRoute(prefix("192.0.2.4/30"), netip.MustParseAddr("192.0.2.2"), netlab.UnderlayDev))
	w.addr(guest.Dev, netip.PrefixFrom(w.theirs, 30))
	w.run("ip route add 192.0.2.0/30 via 192.0.2.5")
	w.join("")
	w.start("", nil)
	echoAt(t, w.a1, w.here)
	reaches(t, w.a1, w.there)

	const narrow = 1400 - 20
	check(t, echo.Stream(w.limit(), dial[*net.TCPConn](t, w.a1, "tcp", w.there), 4<<20))
	w.run("end stream %v %d", w.here, 4<<20)
	r := must[netlab.PingResult](t)(netlab.Ping(w.a1, w.there, netlab.PingOptions{Count: 3, Size: narrow - 28, DF: true, Timeout: patience}))
	if r.Received != 3 || r.Errors > 0 {
		t.Errorf("pings that fit: %v", r)
	}
	// From the first packet on that its sender can not cut.
	r = must[netlab.PingResult](t)(netlab.Ping(w.a1, w.there, netlab.PingOptions{Count: 3, Size: tunnelMTU - 28, DF: true, Timeout: time.Second}))
	if r.Received != 0 || r.Errors == 0 || !errors.Is(r.Err, unix.EMSGSIZE) || r.PathMTU != narrow {
		t.Errorf("pings too long for the path: %v, path MTU %d, want %v and %d", r, r.PathMTU, unix.EMSGSIZE, narrow)
	}
}

// Of several raw sockets each gets every packet of the protocol:
// another reader takes nothing from overtap, and needs no answer from it.
func TestRawSocketsEachGetACopy(t *testing.T) {
	w := newGuestTunnel(t, "", nil, "")
	var ears []*net.IPConn
	check(t, w.a.Do(func() error {
		for range 2 {
			c, err := net.ListenIP("ip4:4", &net.IPAddr{IP: w.ours.AsSlice()})
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			ears = append(ears, c)
		}
		return nil
	}))
	r := must[netlab.PingResult](t)(netlab.Ping(w.a1, w.there, netlab.PingOptions{Count: 5, Timeout: patience}))
	if r.Received != 5 || r.Duplicates > 0 {
		t.Errorf("with others looking: %v", r)
	}
	for i, c := range ears {
		b, got := make([]byte, 2000), 0
		check(t, c.SetReadDeadline(time.Now().Add(patience)))
		for got < 5 {
			n, _, err := c.ReadFrom(b)
			check(t, err)
			if n == 20+8+56 && b[9] == unix.IPPROTO_ICMP {
				got++
			}
		}
		check(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		if n, _, err := c.ReadFrom(b); err == nil {
			t.Errorf("socket %d gets %d bytes more", i, n)
		}
	}
}
