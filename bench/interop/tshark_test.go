package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/netlab/wiretest"
	"overtap/bench/traffic"
	"overtap/encap"
)

// frameKinds returns the values of the fields that tell kinds of frames apart, as
// field=value, boolean ones as 0 and 1.
func frameKinds(t testing.TB, e *wiretest.Evidence) (list []string) {
	t.Helper()
	fields := []string{"arp.opcode", "icmp.type", "icmpv6.type", "tcp.flags.syn", "tcp.flags.fin", "ip.flags.mf",
		"ipv6.fraghdr.more", "vlan.id"}
	for i, line := range e.Fields("vxlan", fields...) {
		values := strings.Split(line, "\t")
		if len(values) != len(fields) {
			t.Fatalf("tshark's line %d has %d fields: %q", i, len(values), line)
		}
		for k, v := range values {
			// The outer packet's value comes first.
			for one := range strings.SplitSeq(v, ",") {
				one = strings.NewReplacer("True", "1", "False", "0").Replace(one)
				list = append(list, fields[k]+"="+one)
			}
		}
	}
	return list
}

// tshark finds nothing malformed and no wrong checksum in what overtap sends,
// and each inner flow keeps one source port of many.
//
// Nothing is left to a device where the frames are caught: they come to host b
// by a port of the underlay's switch that has no offload, so that the kernel
// cuts and sums there what still is whole. Where the underlay as such has no
// offload, that is done as host a sends.
func TestNothingWrongOnTheWire(t *testing.T) {
	t.Parallel()
	shark := wiretest.NewShark(t)
	for _, c := range []struct {
		name   string
		port   uint16
		site   netlab.SiteSpec
		peer   peer
		engine []string
		uplink bool // GSO packets leave unsegmented
	}{
		{name: "no offloads", port: 4789, site: netlab.SiteSpec{Offload: netlab.NoOffloads}, peer: kernel},
		{name: "no offloads, IPv6", port: 8472, site: netlab.SiteSpec{V6: true, Offload: netlab.NoOffloads}, peer: kernel},
		{name: "no offloads, plain TAP", port: 8472, site: netlab.SiteSpec{Offload: netlab.NoOffloads}, peer: kernel,
			engine: []string{"offload = false"}},
		{name: "no tunnel segmentation", port: 4789, site: netlab.SiteSpec{Offload: netlab.NoTunnelSegmentation}, peer: kernel},
		{name: "uplink", port: 4789, peer: kernel, uplink: true},
		{name: "uplink, IPv6", port: 8472, site: netlab.SiteSpec{V6: true}, peer: kernel, uplink: true},
		{name: "uplink, jumbo", port: 4789, site: netlab.SiteSpec{UnderlayMTU: 9000}, peer: kernel, uplink: true},
		{name: "uplink, jumbo, IPv6", port: 4789, site: netlab.SiteSpec{V6: true, UnderlayMTU: 9000}, peer: overtap, uplink: true},
		{name: "uplink, overtap", port: 4789, peer: overtap, uplink: true},
		{name: "cut", port: 4789, peer: overtap, engine: []string{"tunnel_gso = false"}},
		{name: "cut, IPv6, jumbo", port: 4789, site: netlab.SiteSpec{V6: true, UnderlayMTU: 9000}, peer: kernel,
			engine: []string{"tunnel_gso = false"}},
		{name: "plain TAP", port: 4789, peer: overtap, engine: []string{"offload = false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab := netlabtest.New(t)
			c.site.Count = 3 // such an underlay has a switch
			sites := must[[]*netlab.Site](t)(lab.Sites(c.site))
			sites = sites[:2]
			a, b := sites[0], sites[1]
			if c.site.Offload == netlab.NoOffloads {
				check(t, a.Host.SetFeatures(netlab.UnderlayDev, false, "tx-checksum-ip-generic"))
			}
			sw := must[*netlab.Host](t)(lab.Host("switch"))
			for _, s := range sites {
				check(t, sw.SetOffload(s.Host.Name(), netlab.NoOffloads))
				check(t, sw.SetFeatures(s.Host.Name(), false, "tx-checksum-ip-generic"))
			}
			n := blue(b, sites...)
			n.port = c.port
			c.peer.end(t, b, n, sites)
			ear := openRaw(t, b.Host, netlab.UnderlayDev)
			n = blue(a, sites...)
			n.port = c.port
			conf := at(a, n)
			conf.engine = c.engine
			d := start(t, a.Host, conf)
			for _, f := range flows(a, b) {
				f.pings(t)
				f.tcp(t, 1<<20)
				f.udps(t)
			}
			for _, f := range flows(a, b)[:2] { // from a
				for range 10 { // of a port each
					f.udp(t, traffic.UDPOptions{Count: 4})
				}
			}
			tags := []uint32{0x8100_002a}
			openRaw(t, a.Container, netlab.ContainerDev).send(
				ethernet(b.MAC, a.MAC, tags, 0x0800, ipv4(0, 100, a.IPv4, b.IPv4)),
				ethernet(encap.BroadcastMAC, a.MAC, tags, etherTest, marked(1000, "tagged")))
			judge(t, shark, c.port, ours(t, ear, a.Underlay, c.port))
			if lost := must[int](t)(ear.Lost()); lost > 0 {
				t.Errorf("the capture lacks %d frames", lost)
			}
			if up := d.uplink(); (up.Sent > 0) != c.uplink {
				t.Errorf("uplink %+v", up)
			}
		})
	}
}

// ours returns the datagrams that came from an address.
func ours(t *testing.T, ear *raw, from netip.Addr, port uint16) (frames [][]byte) {
	t.Helper()
	tagged := 0
	ear.arrivals(1, func(s seen) bool {
		p := gopacket.NewPacket(s.data, layers.LayerTypeEthernet, gopacket.NoCopy)
		network, udp := p.NetworkLayer(), p.Layer(layers.LayerTypeUDP)
		if network == nil || udp == nil || !bytes.Equal(network.NetworkFlow().Src().Raw(), from.AsSlice()) ||
			udp.(*layers.UDP).DstPort != layers.UDPPort(port) {
			return false
		}
		if s.unfinished {
			t.Errorf("the capture is of no use: a checksum is left to a device")
		}
		frames = append(frames, s.data)
		inner := udp.(*layers.UDP).Payload
		if len(inner) > 22 && binary.BigEndian.Uint16(inner[20:]) == 0x8100 {
			tagged++
		}
		return tagged == 2 // the last that was sent
	})
	return frames
}

// judge has tshark look at the frames.
func judge(t *testing.T, shark *wiretest.Shark, port uint16, frames [][]byte) {
	t.Helper()
	s := shark.Look(t, port, frames)
	for i, n := range s.Numbers(wiretest.Amiss) {
		if i < 3 {
			t.Errorf("frame %d of %d is amiss:\n%s", n, len(frames), s.Explain(n))
		}
	}
	if got := len(s.Numbers("vxlan.vni == 100 && eth.type")); got != len(frames) {
		t.Errorf("%d frames of %d are VXLAN of VNI 100", got, len(frames))
	}
	kinds := map[string]bool{}
	for _, k := range frameKinds(t, s) {
		kinds[k] = true
	}
	for _, want := range []string{
		"arp.opcode=1", "arp.opcode=2", "icmp.type=8", "icmp.type=0", "icmpv6.type=128", "icmpv6.type=129",
		"icmpv6.type=135", "icmpv6.type=136", "tcp.flags.syn=1", "tcp.flags.fin=1", "ip.flags.mf=1", "ipv6.fraghdr.more=1",
		"vlan.id=42",
	} {
		if !kinds[want] {
			t.Errorf("the capture has no frame of %s: %v", want, slices.Sorted(maps.Keys(kinds)))
		}
	}
	outer(t, frames)

	// tshark does look: one bit wrong at the end of a segment.
	full := s.Numbers("tcp.len > 1000")
	if len(full) == 0 {
		return
	}
	bad := bytes.Clone(frames[full[0]-1])
	bad[len(bad)-1] ^= 1
	s = shark.Look(t, port, [][]byte{frames[full[0]-1], bad})
	if got := s.Numbers(wiretest.Amiss); len(got) != 1 || got[0] != 2 {
		t.Errorf("of a good frame and one of a wrong checksum tshark refuses %v, want 2", got)
	}
}

// outer looks at what stands around the inner frames: a VXLAN header without a
// reserved bit, Don't Fragment, and source ports of the dynamic range, one for
// each inner flow and several in all.
func outer(t *testing.T, frames [][]byte) {
	t.Helper()
	ports := map[string]uint16{}
	distinct := map[uint16]bool{}
	for _, f := range frames {
		p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.NoCopy)
		udp := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		if h := udp.Payload[:encap.VXLANHeaderLen]; !bytes.Equal(h, []byte{8, 0, 0, 0, 0, 0, 100, 0}) {
			t.Fatalf("VXLAN header % x", h)
		}
		if ip, ok := p.NetworkLayer().(*layers.IPv4); ok && (ip.Flags != layers.IPv4DontFragment || ip.TTL != 64) {
			t.Fatalf("outer IPv4 flags %v, TTL %d, want DF and 64", ip.Flags, ip.TTL)
		}
		port := uint16(udp.SrcPort)
		if port < 49152 {
			t.Fatalf("source port %d, want 49152 to 65535", port)
		}
		distinct[port] = true
		flow := innerFlow(udp.Payload[encap.VXLANHeaderLen:])
		if was, ok := ports[flow]; ok && was != port {
			t.Errorf("flow %s: source ports %d and %d", flow, was, port)
		}
		ports[flow] = port
	}
	// Thirty flows or more on 32 ports: that they share fewer than ten has no
	// chance worth naming.
	if len(ports) < 30 || len(distinct) < 10 {
		t.Errorf("%d flows on %d source ports", len(ports), len(distinct))
	}
}

// innerFlow names the flow of an inner frame: what addresses it, and the ports
// where every packet of it has them.
func innerFlow(frame []byte) string {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	var key []string
	fragment := false
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.Ethernet:
			key = append(key, l.LinkFlow().String(), l.EthernetType.String())
		case *layers.Dot1Q:
			key = append(key, fmt.Sprint(l.VLANIdentifier), l.Type.String())
		case *layers.IPv4:
			key = append(key, l.NetworkFlow().String(), l.Protocol.String())
			fragment = l.FragOffset > 0 || l.Flags&layers.IPv4MoreFragments != 0
		case *layers.IPv6:
			key = append(key, l.NetworkFlow().String())
		case *layers.IPv6Fragment:
			key = append(key, l.NextHeader.String())
			fragment = true
		case gopacket.TransportLayer:
			if !fragment {
				key = append(key, l.LayerType().String(), l.TransportFlow().String())
			}
		case *layers.ICMPv6:
			key = append(key, "ICMPv6")
		}
	}
	if fragment {
		key = append(key, "fragments")
	}
	return strings.Join(key, " ")
}
