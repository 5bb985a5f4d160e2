package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/encap"
)

// shark is tshark with a capture.
type shark struct {
	t       testing.TB
	file    string
	port    uint16 // that is VXLAN
	profile string // configuration directory
}

// needShark skips without tshark, or fails where everything must run.
func needShark(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("tshark"); err == nil {
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("there is no tshark to judge what goes over the wire, and REQUIRE_ROOT=1 forbids to skip: install Debian's tshark")
	}
	t.Skip("there is no tshark to judge what goes over the wire: install Debian's tshark")
}

// newShark writes the frames to a file.
func newShark(t testing.TB, profile string, port uint16, frames [][]byte) *shark {
	t.Helper()
	s := &shark{t, filepath.Join(t.TempDir(), "wire.pcap"), port, profile}
	f := must[*os.File](t)(os.Create(s.file))
	defer f.Close()
	w := pcapgo.NewWriter(f)
	check(t, w.WriteFileHeader(1<<18, layers.LinkTypeEthernet))
	start := time.Now()
	for i, b := range frames {
		info := gopacket.CaptureInfo{Timestamp: start.Add(time.Duration(i) * time.Microsecond), CaptureLength: len(b), Length: len(b)}
		check(t, w.WritePacket(info, b))
	}
	return s
}

// decoders are those that tshark shall have. The payload is random, and others
// would make something of it.
var decoders = strings.Fields("frame eth ethertype vlan arp ip ipv6 icmp icmpv6 igmp tcp udp vxlan data")

// onlyDecoders returns a configuration directory that disables all others.
func onlyDecoders(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	// Name, short name and filter name of each, separated by tabs.
	out := must[[]byte](t)(exec.Command("tshark", "-G", "protocols").Output())
	var disabled []string
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if len(f) < 3 || slices.Contains(decoders, f[2]) || strings.HasPrefix(f[2], "_ws.") ||
			strings.HasPrefix(f[2], "ipv6.") || strings.HasPrefix(f[2], "tcp.") {
			continue
		}
		disabled = append(disabled, f[2]+"\n")
	}
	if len(disabled) == 0 {
		t.Fatalf("tshark lists no decoders:\n%s", out)
	}
	check(t, os.WriteFile(filepath.Join(dir, "disabled_protos"), []byte(strings.Join(disabled, "")), 0o644))
	return dir
}

// command prepares a run that takes each frame for itself.
func (s *shark) command(more ...string) *exec.Cmd {
	cmd := exec.Command("tshark", append([]string{"-n", "-r", s.file, "-d", fmt.Sprintf("udp.port==%d,vxlan", s.port),
		"-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
		"-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"}, more...)...)
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+s.profile)
	return cmd
}

// run returns the lines of fields of the frames that a display filter selects.
func (s *shark) run(filter string, fields ...string) []string {
	s.t.Helper()
	args := []string{"-Y", filter, "-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := s.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("tshark: %v\n%s", err, stderr.Bytes())
	}
	if len(out) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// numbers returns the numbers, from 1, of the frames that a filter selects.
func (s *shark) numbers(filter string) (list []int) {
	s.t.Helper()
	for _, line := range s.run(filter, "frame.number") {
		list = append(list, must[int](s.t)(strconv.Atoi(line)))
	}
	return list
}

// kinds returns the values of the fields that tell kinds of frames apart, as
// field=value, boolean ones as 0 and 1.
func (s *shark) kinds() (list []string) {
	s.t.Helper()
	fields := []string{"arp.opcode", "icmp.type", "icmpv6.type", "tcp.flags.syn", "tcp.flags.fin", "ip.flags.mf",
		"ipv6.fraghdr.more", "vlan.id"}
	for i, line := range s.run("vxlan", fields...) {
		values := strings.Split(line, "\t")
		if len(values) != len(fields) {
			s.t.Fatalf("tshark's line %d has %d fields: %q", i, len(values), line)
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

// explain returns what tshark has to say about a frame.
func (s *shark) explain(number int) string {
	out, err := s.command("-Y", fmt.Sprintf("frame.number == %d", number), "-V").Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// amiss selects what no correct sender puts on a wire: 0 is a bad checksum.
const amiss = `_ws.malformed || _ws.expert.severity == "Error" || _ws.short || ` +
	`ip.checksum.status == 0 || udp.checksum.status == 0 || tcp.checksum.status == 0 || ` +
	`icmp.checksum.status == 0 || icmpv6.checksum.status == 0`

// tshark finds nothing malformed and no wrong checksum in what overtap sends,
// and each inner flow keeps one source port of many.
func TestNothingWrongOnTheWire(t *testing.T) {
	needShark(t)
	profile := onlyDecoders(t)
	for _, c := range []struct {
		v6    bool
		port  uint16
		plain bool
	}{{false, 4789, false}, {true, 8472, false}, {false, 8472, true}} {
		name := fmt.Sprintf("%s/%d", map[bool]string{false: "v4", true: "v6"}[c.v6], c.port)
		if c.plain {
			name += "/plain TAP"
		}
		t.Run(name, func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: c.v6, Offload: netlab.NoOffloads}))
			a, b := sites[0], sites[1]
			// Nothing is left to a device: what b receives is what a wire would
			// carry.
			check(t, a.Host.SetFeatures(netlab.UnderlayDev, false, "tx-checksum-ip-generic"))
			n := blue(b, sites...)
			n.port = c.port
			kernel.end(t, b, n, sites)
			ear := openRaw(t, b.Host, netlab.UnderlayDev)
			n = blue(a, sites...)
			n.port = c.port
			conf := at(a, n)
			if c.plain {
				conf.engine = append(conf.engine, "offload = false")
			}
			start(t, a.Host, conf)
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
			judge(t, profile, c.port, ours(t, ear, a.Underlay, c.port))
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
func judge(t *testing.T, profile string, port uint16, frames [][]byte) {
	t.Helper()
	s := newShark(t, profile, port, frames)
	for i, n := range s.numbers(amiss) {
		if i < 3 {
			t.Errorf("frame %d of %d is amiss:\n%s", n, len(frames), s.explain(n))
		}
	}
	if got := len(s.numbers("vxlan.vni == 100 && eth.type")); got != len(frames) {
		t.Errorf("%d frames of %d are VXLAN of VNI 100", got, len(frames))
	}
	kinds := map[string]bool{}
	for _, k := range s.kinds() {
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
	full := s.numbers("tcp.len > 1000")
	if len(full) == 0 {
		return
	}
	bad := bytes.Clone(frames[full[0]-1])
	bad[len(bad)-1] ^= 1
	s = newShark(t, profile, port, [][]byte{frames[full[0]-1], bad})
	if got := s.numbers(amiss); len(got) != 1 || got[0] != 2 {
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
