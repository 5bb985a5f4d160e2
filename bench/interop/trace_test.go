package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/encap"
)

// udpPacket is an IPv4 packet of that flow, without a UDP checksum.
func udpPacket(src, dst netip.Addr, sport, dport uint16, length int) []byte {
	b := ipv4(0, length, src, dst)
	b[9] = encap.ProtoUDP
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], ^encap.Fold(encap.Sum(b[:encap.IPv4HeaderLen], 0)))
	l4 := b[encap.IPv4HeaderLen:]
	binary.BigEndian.PutUint16(l4, sport)
	binary.BigEndian.PutUint16(l4[2:], dport)
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	return b
}

// trace asks the daemon about a frame.
func (d *daemon) trace(args ...string) dataplane.Explanation {
	d.t.Helper()
	return ask[dataplane.Explanation](d, append([]string{"trace"}, args...)...)
}

// TestTrace has overtap foretell, for a number of flows, by which port they leave
// to a kernel peer, and sees it on the wire; then what comes of a frame from that
// peer, from an unlisted sender, and of one that the path does not take.
func TestTrace(t *testing.T) {
	t.Parallel()
	for _, lines := range [][]string{nil, {"df = false"}} {
		t.Run(strings.Join(lines, ""), func(t *testing.T) { testTrace(t, lines) })
	}
}

func testTrace(t *testing.T, lines []string) {
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	d := start(t, a.Host, at(a, blue(a, sites...).with(lines...)))
	for _, f := range flows(a, b) {
		f.ping(t, netlab.PingOptions{}) // both MACs are learned from here on
	}
	ear, mouth := openRaw(t, b.Host, netlab.UnderlayDev), openRaw(t, a.Container, netlab.ContainerDev)
	ports := make(map[uint16]bool)
	for i := range 12 {
		sport := uint16(40000 + 7*i)
		dst := b.MAC
		if i == 11 {
			dst = 0x0242_0000_7777 // unused: flooded
		}
		x := d.trace("--src", a.MAC.String(), "--dst", dst.String(), "--ip", fmt.Sprintf("%v,%v", a.IPv4, b.IPv4),
			"--proto", "udp", "--sport", fmt.Sprint(sport), "--dport", "9", "--size", "100")
		if x.Verdict != dataplane.OutcomeSent || len(x.Copies) != 1 || x.Copies[0].Peer != b.Underlay {
			t.Fatalf("predicted %+v", x)
		}
		c := x.Copies[0]
		frame := ethernet(dst, a.MAC, nil, unix.ETH_P_IP, udpPacket(a.IPv4, b.IPv4, sport, 9, 100))
		mouth.send(frame)
		got := ear.arrivals(1, func(s seen) bool {
			o, ok := takeApart(s.data)
			return ok && bytes.Equal(o.inner, frame)
		})
		if len(got) != 1 {
			t.Fatalf("flow %d: %d packets with the frame", i, len(got))
		}
		o, _ := takeApart(got[0].data)
		out, _ := encap.FindTransport(got[0].data)
		udp, err := encap.ParseUDP(got[0].data[out.L4:out.End])
		if err != nil {
			t.Fatal(err)
		}
		if udp.SrcPort() != c.SourcePort || udp.DstPort() != c.Port || o.ttl != c.TTL || o.tos != c.TOS || o.df != c.DF || out.End-out.L3 != c.Length {
			t.Errorf("flow %d: predicted %+v, sent from port %d, %+v, %d bytes", i, c, udp.SrcPort(), o, out.End-out.L3)
		}
		ports[udp.SrcPort()] = true
	}
	if len(ports) < 3 {
		t.Errorf("12 flows left by the ports %v", ports)
	}

	testTraceOnThisHost(t, d, a, b)
	from := []string{"--from", b.Underlay.String(), "--src", b.MAC.String(), "--dst", a.MAC.String()}
	if x := d.trace(from...); x.Verdict != dataplane.OutcomeDelivered {
		t.Errorf("from the peer: %+v", x)
	}
	from[1] = netlab.UnderlayAddr(99, false).String()
	if x := d.trace(from...); x.Reason != dataplane.DropPeerNotAdmitted {
		t.Errorf("from an unlisted sender: %+v", x)
	}
	x := d.trace("--src", a.MAC.String(), "--dst", b.MAC.String(), "--ip", fmt.Sprintf("%v,%v", a.IPv4, b.IPv4), "--size", fmt.Sprint(a.MTU+1))
	if x.Reason != dataplane.DropTooBig || !strings.Contains(x.Notified, fmt.Sprintf("at most %d bytes", a.MTU)) {
		t.Errorf("a packet that is too long: %+v", x)
	}
	if _, err := d.try("trace", "--network", "green", "--src", a.MAC.String(), "--dst", b.MAC.String()); err == nil ||
		!strings.Contains(err.Error(), `there is no network "green": name one of `) {
		t.Errorf("of an unknown network: %v", err)
	}
	if _, err := d.try("trace", "--ip", "198.51.100.1,198.51.100.2"); err == nil || !strings.Contains(err.Error(), "want the MACs of source and destination") {
		t.Errorf("of a packet without MACs: %v", err)
	}
}

// testTraceOnThisHost has the bridge deliver what is for this host and its
// containers, and looks addresses up.
func testTraceOnThisHost(t *testing.T, d *daemon, a, b *netlab.Site) {
	t.Helper()
	bridge := func(x dataplane.Explanation) string {
		if x.Verdict != dataplane.OutcomeBridged || len(x.Copies) != 0 || x.Reason != 0 {
			return fmt.Sprintf("%+v", x)
		}
		return x.Steps[len(x.Steps)-1].Detail
	}
	x := d.trace("--src", b.MAC.String(), "--dst", a.MAC.String())
	if got := bridge(x); !strings.Contains(got, fmt.Sprintf("%s has %s at port ", netlab.SiteBridge, a.MAC)) || len(x.Steps) != 2 {
		t.Errorf("to the container of this host: %s", got)
	}
	var own net.HardwareAddr
	if err := a.Host.Do(func() error {
		l, err := net.InterfaceByName(netlab.SiteBridge)
		if err == nil {
			own = l.HardwareAddr
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := bridge(d.trace("--src", a.MAC.String(), "--dst", own.String())); !strings.Contains(got, "at this host itself") {
		t.Errorf("to the bridge's own MAC: %s", got)
	}
	if x := d.trace("--src", a.MAC.String(), "--dst", b.MAC.String()); x.Verdict != dataplane.OutcomeSent {
		t.Errorf("to the other host: %+v", x)
	}

	// By address, which nothing on a host without an address there knows.
	x = d.trace("blue", b.IPv4.String())
	if x.Verdict != dataplane.OutcomeSent || x.Steps[0].Name != "address" || !strings.Contains(x.Steps[0].Detail, "this host does not know the MAC of "+b.IPv4.String()) {
		t.Errorf("an address that is not known: %+v", x)
	}
	// One that the host's own stack has spoken to.
	run := func(args ...string) {
		t.Helper()
		if out, err := a.Host.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("ip", "neigh", "replace", b.IPv4.String(), "lladdr", b.MAC.String(), "dev", netlab.SiteBridge)
	run("ip", "neigh", "replace", a.IPv4.String(), "lladdr", a.MAC.String(), "dev", netlab.SiteBridge)
	source := []string{"--ip-src", "198.18.0.99", "--proto", "udp", "--dport", "9"}
	x = d.trace(append(source, "blue", b.IPv4.String())...)
	if x.Verdict != dataplane.OutcomeSent || len(x.Copies) != 1 || x.Copies[0].Peer != b.Underlay ||
		!strings.Contains(x.Steps[0].Detail, fmt.Sprintf("%s is at %s: this host's neighbours on %s", b.IPv4, b.MAC, netlab.SiteBridge)) {
		t.Errorf("an address of the other host: %+v", x)
	}
	if got := bridge(d.trace(append(source, "blue", a.IPv4.String())...)); !strings.Contains(got, "at port ") {
		t.Errorf("an address of this host: %s", got)
	}
	run("ip", "neigh", "flush", "dev", netlab.SiteBridge)
}
