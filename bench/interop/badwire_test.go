package interop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// vtep sends hand-made datagrams from a host's address to a VXLAN port.
type vtep struct {
	t  testing.TB
	fd int
	v6 bool
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is6() {
		return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
	}
	return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
}

func newVTEP(t testing.TB, h *netlab.Host, from, to netip.Addr, port uint16) *vtep {
	t.Helper()
	v := &vtep{t: t, fd: -1, v6: from.Is6()}
	check(t, h.Do(func() (err error) {
		family := unix.AF_INET
		if v.v6 {
			family = unix.AF_INET6
		}
		if v.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(v.fd) })
		if err := unix.Bind(v.fd, sockaddr(from, 0)); err != nil {
			return err
		}
		return unix.Connect(v.fd, sockaddr(to, port))
	}))
	return v
}

// send sends one datagram with the outer TOS or traffic class.
func (v *vtep) send(tos uint8, datagram []byte) {
	v.t.Helper()
	level, opt := unix.IPPROTO_IP, unix.IP_TOS
	if v.v6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	check(v.t, unix.SetsockoptInt(v.fd, level, opt, int(tos)))
	_, err := unix.Write(v.fd, datagram)
	check(v.t, err)
}

// vxlan puts a header with that first byte and VNI before a frame.
func vxlan(flags byte, vni encap.VNI, frame []byte) []byte {
	b := make([]byte, encap.VXLANHeaderLen, encap.VXLANHeaderLen+len(frame))
	encap.PutVXLAN(b, vni)
	b[0] = flags
	return append(b, frame...)
}

// ipv4 makes a packet of a protocol for experiments (RFC 3692) with that TOS
// and total length.
func ipv4(tos uint8, length int, src, dst netip.Addr) []byte {
	b := make([]byte, length)
	b[0], b[1], b[8], b[9] = 0x45, tos, 64, 253
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b[:20], 0)))
	return b
}

// ipv6 is ipv4 for IPv6.
func ipv6(class uint8, length int, src, dst netip.Addr) []byte {
	b := make([]byte, length)
	binary.BigEndian.PutUint32(b, 6<<28|uint32(class)<<20)
	binary.BigEndian.PutUint16(b[4:], uint16(length-encap.IPv6HeaderLen))
	b[6], b[7] = 253, 64
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return b
}

// What a peer, or who pretends to be one, sends amiss is dropped and counted
// under its name, and the honest traffic goes on.
func TestBadInputFromTheWire(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "v4", true: "v6"}[v6], func(t *testing.T) { testBadInput(t, v6) })
	}
}

func testBadInput(t *testing.T, v6 bool) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	strict := network{name: "strict", vni: 101, port: 4789, peers: []netip.Addr{b.Underlay}}.with(`reserved = "drop"`)
	d := start(t, a.Host, at(a, blue(a, sites...), strict))
	tap := d.status().Networks[0].MAC

	unlisted := netlab.UnderlayAddr(77, v6)
	check(t, b.Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(unlisted, map[bool]int{false: 24, true: 64}[v6])))
	good := newVTEP(t, b.Host, b.Underlay, a.Underlay, 4789)
	bad := newVTEP(t, b.Host, unlisted, a.Underlay, 4789)
	ear := openRaw(t, a.Container, netlab.ContainerDev)

	const station encap.MAC = 0x0242_0000_0077
	frame := func(dst, src encap.MAC) []byte { return ethernet(dst, src, nil, etherTest, marked(60, "")) }
	ip := func(tos uint8, length int) []byte {
		return ethernet(a.MAC, station, nil, unix.ETH_P_IP, ipv4(tos, length, b.IPv4, a.IPv4))
	}
	ip6 := func(tos uint8, length int) []byte {
		return ethernet(a.MAC, station, nil, unix.ETH_P_IPV6, ipv6(tos, length, b.IPv6, a.IPv6))
	}
	honest := frame(a.MAC, station)
	const gpeStation encap.MAC = 0x0242_0000_0078
	gpe := frame(a.MAC, gpeStation)
	const ce = 3
	cases := []struct {
		what     string
		from     *vtep
		tos      uint8
		datagram []byte
		network  string
		reason   dataplane.Drop
	}{
		{"header cut off", good, 0, []byte{8, 0, 0, 0, 0, 0, 100}, "", dataplane.DropTooShort},
		{"nothing at all", good, 0, nil, "", dataplane.DropTooShort},
		{"no frame", good, 0, vxlan(8, 100, nil), "blue", dataplane.DropTooShort},
		{"frame cut off", good, 0, vxlan(8, 100, honest[:13]), "blue", dataplane.DropTooShort},
		{"no I flag", good, 0, vxlan(0, 100, honest), "", dataplane.DropVXLANInvalidHdr},
		{"all but the I flag", good, 0, vxlan(0xf7, 100, honest), "", dataplane.DropVXLANInvalidHdr},
		{"reserved flags", good, 0, vxlan(0x48, 101, honest), "strict", dataplane.DropVXLANInvalidHdr},
		{"VXLAN-GPE", good, 0, vxlan(0x0c, 100, gpe), "blue", dataplane.DropVXLANGPE},
		{"VXLAN-GPE where reserved bits are dropped", good, 0, vxlan(0x0c, 101, gpe), "strict", dataplane.DropVXLANGPE},
		{"VXLAN-GPE with IPv4 inside", good, 0, vxlan(0x0c, 100, ipv4(0, 100, b.IPv4, a.IPv4)), "blue", dataplane.DropVXLANGPE},
		{"OAM of VXLAN-GPE", good, 0, vxlan(0x09, 100, gpe), "blue", dataplane.DropVXLANGPE},
		{"unknown VNI", good, 0, vxlan(8, 999, honest), "", dataplane.DropVXLANVNINotFound},
		{"unlisted sender", bad, 0, vxlan(8, 100, honest), "blue", dataplane.DropPeerNotAdmitted},
		{"unlisted sender without a frame", bad, 0, vxlan(8, 100, nil), "blue", dataplane.DropPeerNotAdmitted},
		{"multicast source", good, 0, vxlan(8, 100, frame(a.MAC, 0x0100_5e00_0001)), "blue", dataplane.DropMACInvalidSource},
		{"broadcast source", good, 0, vxlan(8, 100, frame(a.MAC, encap.BroadcastMAC)), "blue", dataplane.DropMACInvalidSource},
		{"zero source", good, 0, vxlan(8, 100, frame(a.MAC, 0)), "blue", dataplane.DropMACInvalidSource},
		{"our TAP's source", good, 0, vxlan(8, 100, frame(a.MAC, tap)), "blue", dataplane.DropLocalMAC},
		{"spanning tree", good, 0, vxlan(8, 100, frame(0x0180_c200_0000, station)), "blue", dataplane.DropBridgeControl},
		{"LLDP", good, 0, vxlan(8, 100, frame(0x0180_c200_000e, station)), "blue", dataplane.DropBridgeControl},
		{"congestion on not-ECT", good, ce, vxlan(8, 100, ip(0, 100)), "blue", dataplane.DropIPTunnelECN},
		{"congestion on not-ECT of IPv6", good, ce, vxlan(8, 100, ip6(0xb8, 100)), "blue", dataplane.DropIPTunnelECN},
		{"larger than the MTU", good, 0, vxlan(8, 100, ip(0, int(a.MTU)+1)), "blue", dataplane.DropTooBig},
		{"larger, and no IP", good, 0, vxlan(8, 100,
			ethernet(a.MAC, station, nil, etherTest, marked(int(a.MTU)+100, ""))), "blue", dataplane.DropTooBig},
	}
	for _, c := range cases {
		before := d.drops(c.network, dataplane.Inbound, c.reason)
		for range 3 {
			c.from.send(c.tos, c.datagram)
		}
		eventually(t, c.what, func() error {
			if got := d.drops(c.network, dataplane.Inbound, c.reason) - before; got != 3 {
				return fmt.Errorf("%d counted as %v in network %q, want 3: %+v",
					got, c.reason, c.network, d.dropped())
			}
			return nil
		})
	}
	total := uint64(0)
	for _, r := range d.dropped() {
		total += r.Count
	}
	if want := uint64(3 * len(cases)); total != want {
		t.Errorf("%d drops in all, want %d: %+v", total, want, d.dropped())
	}
	if e, ok := d.entry("blue", tap); ok {
		t.Errorf("our TAP's address was learned: %+v", e)
	}
	for _, network := range []string{"blue", "strict"} {
		if e, ok := d.entry(network, gpeStation); ok {
			t.Errorf("the source of a VXLAN-GPE packet was learned: %+v", e)
		}
	}
	if got := ear.arrivals(0, func(s seen) bool { return s.src() == station || s.etherType() == etherTest }); len(got) > 0 {
		t.Errorf("%d of these frames arrived in the container", len(got))
	}

	t.Run("what is not amiss arrives", func(t *testing.T) {
		good.send(0, vxlan(8, 100, honest))
		good.send(0, vxlan(0xfa, 100, honest)) // reserved flags are ignored, GBP's among them
		good.send(ce, vxlan(8, 100, honest))   // not IP: nothing to mark
		if got := ear.arrivals(3, same(honest)); len(got) != 3 {
			t.Errorf("%d frames arrived, want 3", len(got))
		}
		if got := d.stats().Networks[0].ReservedBits; got != 1 {
			t.Errorf("%d counted for reserved bits, want 1", got)
		}
		// RFC 6040 section 4.2, figure 4: by inner codepoint, then by outer. What
		// is not here is dropped, as above.
		const ect1, ect0 = 1, 2
		for inner, row := range map[uint8]map[uint8]uint8{
			0:    {0: 0, ect0: 0, ect1: 0},
			ect0: {0: ect0, ect0: ect0, ect1: ect1, ce: ce},
			ect1: {0: ect1, ect0: ect1, ect1: ect1, ce: ce},
			ce:   {0: ce, ect0: ce, ect1: ce, ce: ce},
		} {
			for outer, want := range row {
				for _, packet := range []func(uint8, int) []byte{ip, ip6} {
					good.send(0x28|outer, vxlan(8, 100, packet(0xb8|inner, 100)))
					got := ear.arrivals(1, func(s seen) bool { return s.src() == station })
					if want := packet(0xb8|want, 100); len(got) != 1 || !slices.Equal(got[0].data, want) {
						t.Errorf("outer ECN %d, inner %d: %d frames %v, want % x", outer, inner, len(got), got, want)
					}
				}
			}
		}
	})
	for _, f := range flows(a, b) {
		f.ping(t, netlab.PingOptions{Count: 3})
	}
}
