package interop

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
)

// off is the last part of a file in which these keys of [offload] are "off".
func off(keys ...string) string {
	s := "[offload]\n"
	for _, key := range keys {
		s += key + " = \"off\"\n"
	}
	return s
}

// offloads are the states of the daemon's offloads, by name.
func (d *daemon) offloads() map[string]dataplane.OffloadState {
	d.t.Helper()
	states := make(map[string]dataplane.OffloadState)
	for _, o := range d.status().Offloads {
		states[o.Name] = o.State
	}
	return states
}

// longest is the length of the longest frame that match selects.
func (r *raw) longest(match func(seen) bool) int {
	r.t.Helper()
	most := 0
	for _, s := range r.read() {
		if match(s) {
			most = max(most, len(s.data))
		}
	}
	return most
}

// udpSocket is a socket in the container, bound to port 9.
func udpSocket(t testing.TB, h *netlab.Host, addr netip.Addr) int {
	t.Helper()
	fd := -1
	check(t, h.Do(func() (err error) {
		family := unix.AF_INET
		if addr.Is6() {
			family = unix.AF_INET6
		}
		if fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.Bind(fd, sockaddr(addr, 9))
	}))
	return fd
}

// Each key of [offload] switches its offload off: what would pass as one packet by
// it passes in packets of the MTU or as it was sent, the bytes are the same both
// ways, and status says so. Without a key the same place shows what is switched off.
func TestOffloadKeys(t *testing.T) {
	t.Parallel()
	const on, isOff = dataplane.OffloadOn, dataplane.OffloadOff
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			name string
			last string
			// What may be longer than a packet of the MTU: TCP at the TAP, UDP that the
			// container sends at the TAP, what leaves by the underlay, UDP that arrives.
			tap, uso, wire, joined bool
			states                 map[string]dataplane.OffloadState
		}{
			{"none", "", true, true, true, true, nil},
			{"tap_gso", off("tap_gso"), false, false, true, false, map[string]dataplane.OffloadState{"tap_gso": isOff, "tap_uso": isOff, "join_udp": isOff}},
			{"tap_uso", off("tap_uso"), true, false, true, false, map[string]dataplane.OffloadState{"tap_uso": isOff, "join_udp": isOff}},
			{"udp_segment", off("udp_segment"), true, true, false, true, map[string]dataplane.OffloadState{"udp_segment": isOff}},
			{"udp_gro", off("udp_gro"), true, true, true, true, map[string]dataplane.OffloadState{"udp_gro": isOff}},
			{"join_udp", off("join_udp"), true, true, true, false, map[string]dataplane.OffloadState{"join_udp": isOff}},
			{"all by engine.offload", "[engine]\noffload = false\n", false, false, false, false, map[string]dataplane.OffloadState{
				"tap_gso": isOff, "tap_uso": isOff, "udp_segment": isOff, "udp_gro": isOff, "join_udp": isOff}},
		} {
			t.Run(fmt.Sprintf("%s, v6=%t", c.name, v6), func(t *testing.T) {
				lab := netlabtest.New(t)
				sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6}))
				a, b := sites[0], sites[1]
				kernel.end(t, b, blue(b, sites...), sites)
				conf := at(a, blue(a, sites...))
				conf.engine, conf.last = []string{"tunnel_gso = false"}, c.last
				if rest, ok := strings.CutPrefix(c.last, "[engine]\n"); ok {
					conf.engine, conf.last = []string{rest}, ""
				}
				d := start(t, a.Host, conf)
				states := map[string]dataplane.OffloadState{"tap_gso": on, "tap_uso": on, "udp_segment": on, "udp_gro": on, "join_udp": on}
				maps.Copy(states, c.states)
				if got := d.offloads(); !maps.Equal(got, states) {
					t.Errorf("status says %v, want %v", got, states)
				}
				for name, state := range states {
					if text := d.verb("status"); state == isOff && !strings.Contains(text, name+": off, ") {
						t.Errorf("status does not say that %s is off:\n%s", name, text)
					}
				}

				mtu := int(a.MTU) + 14
				tap, wire := openRaw(t, a.Host, "vx-blue"), openRaw(t, a.Host, netlab.UnderlayDev)
				outgoing := func(s seen) bool { return s.outgoing }
				exchange(t, a, b, 1<<20)
				if got := tap.longest(func(seen) bool { return true }); got > mtu != c.tap {
					t.Errorf("the longest frame at the TAP has %d bytes, one of the MTU %d", got, mtu)
				}
				whole := mtu + 50 // a datagram, of either family
				if v6 {
					whole += 20
				}
				if got := wire.longest(outgoing); got > whole != c.wire {
					t.Errorf("the longest frame that left has %d bytes, one datagram %d", got, whole)
				}

				// UDP of the container's own by UDP_SEGMENT.
				const size, count = 1000, 40
				ends := []netip.Addr{a.IPv4, b.IPv4}
				if v6 {
					ends = []netip.Addr{a.IPv6, b.IPv6}
				}
				sends := udpSocket(t, a.Container, ends[0])
				far := openRaw(t, b.Container, netlab.ContainerDev)
				check(t, unix.SetsockoptInt(sends, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size))
				check(t, unix.Sendto(sends, marked(count*size, ""), 0, sockaddr(ends[1], 9)))
				isUDP := func(s seen) bool { return len(s.data) >= size && s.etherType() != etherTest }
				for got := 0; got < count*size; {
					for _, s := range far.arrivals(1, isUDP) {
						got += len(s.data) / size * size
					}
					if t.Failed() {
						return
					}
				}
				if got := tap.longest(func(s seen) bool { return s.outgoing && isUDP(s) }); got > mtu != c.uso {
					t.Errorf("the longest frame of UDP at the TAP has %d bytes, want one longer than %d: %t", got, mtu, c.uso)
				}

				// UDP that arrives, while the daemon does not look: in one batch then.
				back := udpSocket(t, b.Container, ends[1])
				near := openRaw(t, a.Container, netlab.ContainerDev)
				d.suspend()
				for range count {
					check(t, unix.Sendto(back, marked(size, ""), 0, sockaddr(ends[0], 9)))
				}
				d.signal(unix.SIGCONT)
				frames, payload := 0, 0
				for payload < count*size {
					for _, s := range near.arrivals(1, isUDP) {
						frames++
						payload += len(s.data) / size * size
					}
				}
				if payload != count*size || frames < count != c.joined {
					t.Errorf("%d datagrams arrived as %d frames with %d bytes of payload, want them joined: %t", count, frames, payload, c.joined)
				}
			})
		}
	}
}

// A reload refuses a change of [offload], and a daemon that takes over makes it, on
// the same device and sockets: off, and on again.
func TestOffloadsByTakeover(t *testing.T) {
	t.Parallel()
	s := stand(t, func(a *netlab.Site, sites []*netlab.Site) config { return at(a, blue(a, sites...)) })
	with := func(last string) config {
		c := at(s.a, blue(s.a, s.a, s.b))
		c.last = last
		return c
	}
	index := s.index("vx-blue")
	features := func(want bool) {
		t.Helper()
		f := must[map[string]bool](t)(s.a.Host.Features("vx-blue"))
		for _, name := range []string{"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"} {
			if f[name] != want {
				t.Errorf("%s of the TAP: %t, want %t", name, f[name], want)
			}
		}
		if !f["tx-checksum-ip-generic"] {
			t.Error("the TAP lost its checksum offload")
		}
	}
	features(true)
	s.write(with(off("tap_gso", "udp_segment", "udp_gro")))
	if _, err := s.d.try("reload"); err == nil || !strings.Contains(err.Error(), "[offload] cannot change while the daemon runs") {
		t.Errorf("a reload: %v", err)
	}
	features(true)
	for _, c := range []struct {
		last string
		off  bool
	}{{off("tap_gso", "udp_segment", "udp_gro"), true}, {"", false}} {
		s.takeOver(with(c.last))
		features(!c.off)
		for name, state := range s.d.offloads() {
			if isOff := state == dataplane.OffloadOff; isOff != c.off {
				t.Errorf("%s is %s", name, state)
			}
		}
		exchange(t, s.a, s.b, 1<<20)
		if now := s.index("vx-blue"); now != index {
			t.Errorf("the TAP is another: index %d, was %d", now, index)
		}
	}
}

// The keys hold for TUNs of IP-in-IP as well.
func TestIPIPOffloadKeys(t *testing.T) {
	t.Parallel()
	for _, keys := range [][]string{{"tap_gso"}, {"tap_uso"}, {"join_udp"}, {"udp_segment", "udp_gro"}} {
		t.Run(strings.Join(keys, ","), func(t *testing.T) {
			w := newTunnelled(t, 2, off(keys...))
			for _, d := range w.daemons {
				states := d.offloads()
				for _, key := range keys {
					if states[key] != dataplane.OffloadOff {
						t.Errorf("%s is %s", key, states[key])
					}
				}
			}
			tun := openRaw(t, w.hosts[0], "tun0")
			for _, f := range w.flows() {
				f.tcp(t, 1<<20)
				f.udps(t)
			}
			if got := tun.longest(func(seen) bool { return true }); got > tunnelMTU != (keys[0] != "tap_gso") {
				t.Errorf("the longest packet at the TUN has %d bytes, the MTU is %d", got, tunnelMTU)
			}
		})
	}
}
