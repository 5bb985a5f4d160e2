package interop

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// without makes what the socket sends leave without a UDP checksum.
func (v *vtep) without() *vtep {
	const noCheck6TX = 101 // UDP_NO_CHECK6_TX of linux/udp.h
	check(v.t, unix.SetsockoptInt(v.fd, unix.IPPROTO_UDP, noCheck6TX, 1))
	return v
}

// Over IPv6 datagrams without UDP checksum are taken where the network or the peer
// says so, and refused by the kernel or under a name of their own else; a reload and
// a takeover change that on the sockets that are open.
func TestZeroChecksumsOverIPv6(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: true}))
	a, b := sites[0], sites[1]
	second := netlab.UnderlayAddr(77, true)
	check(t, b.Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(second, 64)))
	// conf is both networks, with a line each, and lines of the two peers of blue.
	conf := func(blueLine, redLine, peerLine, secondLine string) config {
		n := blue(a, sites...).with(blueLine)
		n.peers = nil
		r := network{name: "red", vni: 101, port: 4789, bridge: "br-red"}.with(redLine)
		c := at(a, r, n)
		for peer, line := range map[netip.Addr]string{b.Underlay: peerLine, second: secondLine} {
			c.last += fmt.Sprintf("[[vxlan.peer]]\naddress = %q\n%s\n", peer, line)
		}
		return c
	}
	const yes, no = "udp6zerocsumrx = true", "udp6zerocsumrx = false"
	s := &standing{t: t, a: a, b: b}
	c := conf("", `admit = "any"`, "", "")
	s.file, s.socket = prepare(t, c)
	s.start(c)
	first, other := newVTEP(t, b.Host, b.Underlay, a.Underlay, 4789).without(), newVTEP(t, b.Host, second, a.Underlay, 4789).without()
	whole := newVTEP(t, b.Host, b.Underlay, a.Underlay, 4789)
	ear := openRaw(t, a.Container, netlab.ContainerDev)
	number := 0
	// sends has a datagram come from each, and records what becomes of each.
	sends := func(vni encap.VNI, from *vtep) string {
		t.Helper()
		number++
		errors := s.d.stats().ChecksumErrors
		refused := func(network string) uint64 {
			return s.d.drops(network, dataplane.Inbound, dataplane.DropUDP6ZeroCsum)
		}
		name := map[encap.VNI]string{100: "blue", 101: "red"}[vni]
		received := func() uint64 {
			all := s.d.stats().Networks
			return all[slices.IndexFunc(all, func(n dataplane.NetworkStats) bool { return n.Network == name })].RxPackets
		}
		before, arrived := refused(name), received()
		from.send(0, vxlan(8, vni, ethernet(a.MAC, imposter, nil, etherTest, marked(200, "%d", number))))
		verdict := ""
		eventually(t, "a verdict", func() error {
			switch {
			case s.d.stats().ChecksumErrors == errors+1:
				verdict = "kernel"
			case refused(name) == before+1:
				verdict = "refused"
			case received() == arrived+1:
				verdict = "taken"
			default:
				return fmt.Errorf("nothing is counted: %+v", s.d.dropped())
			}
			return nil
		})
		return verdict
	}
	for _, step := range []struct {
		name string
		conf config
		take bool // by a takeover
		want []string
	}{
		{"none", c, false, []string{"kernel", "kernel", "kernel"}},
		{"blue", conf(yes, `admit = "any"`, "", ""), false, []string{"taken", "taken", "refused"}},
		{"blue but one peer", conf(yes, `admit = "any"`, "", no), false, []string{"taken", "refused", "refused"}},
		{"one peer", conf(no, `admit = "any"`, "", yes), true, []string{"refused", "taken", "refused"}},
		{"all", conf(yes, "admit = \"any\"\n"+yes, "", ""), false, []string{"taken", "taken", "taken"}},
		{"none again", c, true, []string{"kernel", "kernel", "kernel"}},
	} {
		if step.take {
			s.takeOver(step.conf)
		} else {
			s.write(step.conf)
			s.d.verb("reload")
		}
		got := []string{sends(100, first), sends(100, other), sends(101, first)}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
		if got := sends(100, whole); got != "taken" {
			t.Errorf("%s: with a checksum it is %s", step.name, got)
		}
	}
	if got := ear.arrivals(6+6, func(s seen) bool { return s.src() == imposter }); len(got) != 6+6 {
		t.Errorf("%d frames arrived in the container, want %d", len(got), 6+6)
	}
	text := s.d.verb("status")
	for _, want := range []string{"datagrams to this host refused so far for a wrong UDP checksum, or zero where that is not taken", "warning   the kernel refused "} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	var status struct {
		Errors uint64 `json:"udp_checksum_errors"`
	}
	check(t, json.Unmarshal([]byte(s.d.verb("status", "--json")), &status))
	snmp := must[map[string]uint64](t)(a.Host.SNMP())["Udp6InCsumErrors"]
	if status.Errors != snmp || snmp == 0 {
		t.Errorf("status counts %d, the kernel %d", status.Errors, snmp)
	}
}

// A kernel device that sends without checksum is a peer like others once its
// datagrams are taken: its GSO packets too, which come whole over a veth.
func TestZeroChecksumKernelPeer(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: true}))
	a, b := sites[0], sites[1]
	check(t, b.Host.AddVXLAN(netlab.VXLANSpec{
		Name: netlab.SiteVXLAN, VNI: 100, Local: b.Underlay, Flood: []netip.Addr{a.Underlay},
		ZeroChecksum: true, AcceptZeroSum6: true, Bridge: netlab.SiteBridge, MTU: int(b.MTU),
	}))
	// Beside it a network that takes none, so that a filter stands in the way.
	d := start(t, a.Host, at(a, blue(a, sites...).with("udp6zerocsumrx = true"), network{name: "red", vni: 101, port: 4789}))
	exchange(t, a, b, 4<<20)
	for _, drop := range d.dropped() {
		if drop.Network == "blue" {
			t.Errorf("dropped: %+v", drop)
		}
	}
}
