package interop

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
)

// flow is one way between two containers, over one family.
type flow struct {
	from, to traffic.End
	mtu      int
}

// String names the flow for subtests and errors.
func (f flow) String() string {
	family := "v4"
	if f.to.Addr.Is6() {
		family = "v6"
	}
	return fmt.Sprintf("%s from %s to %s", family, f.from.Host.Name(), f.to.Host.Name())
}

// flows returns those between the containers of two sites: each way, each
// family.
func flows(a, b *netlab.Site) (all []flow) {
	for _, way := range [][2]*netlab.Site{{a, b}, {b, a}} {
		x, y := way[0], way[1]
		all = append(all,
			flow{traffic.End{Host: x.Container, Addr: x.IPv4}, traffic.End{Host: y.Container, Addr: y.IPv4}, int(x.MTU)},
			flow{traffic.End{Host: x.Container, Addr: x.IPv6}, traffic.End{Host: y.Container, Addr: y.IPv6}, int(x.MTU)})
	}
	return all
}

// headers is the length of the IP header and of a transport header of eight
// bytes, as UDP's and ICMP's are.
func (f flow) headers() int {
	if f.to.Addr.Is6() {
		return 40 + 8
	}
	return 20 + 8
}

// forget empties the sender's neighbour table, so that the next packet starts
// with ARP or neighbour discovery.
func (f flow) forget(t testing.TB) {
	t.Helper()
	nl, err := f.from.Host.Netlink()
	check(t, err)
	link, err := nl.LinkByName(netlab.ContainerDev)
	check(t, err)
	list, err := nl.NeighList(link.Attrs().Index, 0)
	check(t, err)
	for _, n := range list {
		if n.State&unix.NUD_NOARP == 0 && n.IP.String() == f.to.Addr.String() {
			check(t, nl.NeighDel(&n))
		}
	}
}

// ping must be answered in full; like the others below, it ends the test when
// it is not: what follows would wait in vain.
func (f flow) ping(t testing.TB, o netlab.PingOptions) {
	t.Helper()
	o.Timeout = patience
	r, err := netlab.Ping(f.from.Host, f.to.Addr, o)
	check(t, err)
	if r.Received != r.Sent || r.Duplicates+r.Corrupted+r.Errors > 0 {
		t.Fatalf("ping %v, %+v: %v", f, o, r)
	}
}

// pings pings from cold, and then with the largest packets that fit.
func (f flow) pings(t testing.TB) {
	t.Helper()
	f.forget(t)
	f.ping(t, netlab.PingOptions{Count: 3})
	f.ping(t, netlab.PingOptions{Count: 3, Size: f.mtu - f.headers(), DF: true})
}

// tcp sends so many bytes and compares them.
func (f flow) tcp(t testing.TB, bytes int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	r, err := traffic.TCP(ctx, f.from, f.to, traffic.TCPOptions{Bytes: bytes, Checked: true})
	if err != nil {
		t.Fatalf("TCP %v: %v", f, err)
	} else if r.Bytes != bytes {
		t.Fatalf("TCP %v: %d bytes arrived, want %d", f, r.Bytes, bytes)
	}
}

// udp sends a bounded number of datagrams, fewer than any queue on the path
// holds, and wants each of them whole and once.
func (f flow) udp(t testing.TB, o traffic.UDPOptions) {
	t.Helper()
	o.Rate, o.Grace = 10000, 3*time.Second // a busy machine's daemons may pause
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := traffic.UDP(ctx, f.from, f.to, o)
	if err != nil {
		t.Fatalf("UDP %v: %v", f, err)
	} else if r.Received != o.Count || r.Duplicated+r.Corrupted > 0 {
		t.Fatalf("UDP %v, %d bytes, segmented %v: %v", f, o.Size, o.Segment, r)
	}
}

// udps sends small datagrams, the largest that fit, fragmented ones, and
// GSO packets.
func (f flow) udps(t testing.TB) {
	t.Helper()
	most := f.mtu - f.headers()
	f.udp(t, traffic.UDPOptions{Count: 256, Size: 64})
	f.udp(t, traffic.UDPOptions{Count: 256, Size: most})
	f.udp(t, traffic.UDPOptions{Count: 64, Size: 3*most + 1})
	f.udp(t, traffic.UDPOptions{Count: 256, Size: most, Segment: true, Batch: min(32, 60000/most)})
	f.udp(t, traffic.UDPOptions{Count: 250, Size: 700, Segment: true, Batch: 20})
}

// exchange sends every kind of traffic each way and wants all of it to arrive.
func exchange(t testing.TB, a, b *netlab.Site, tcpBytes int64) {
	t.Helper()
	for _, f := range flows(a, b) {
		f.pings(t)
	}
	for _, f := range flows(a, b) {
		f.tcp(t, tcpBytes)
		f.udps(t)
	}
}

// reaches waits until a ping is answered.
func reaches(t testing.TB, from *netlab.Host, to netip.Addr) {
	t.Helper()
	eventually(t, fmt.Sprintf("ping from %s to %v", from.Name(), to), func() error {
		r, err := netlab.Ping(from, to, netlab.PingOptions{Timeout: 300 * time.Millisecond})
		if err != nil {
			return err
		}
		if r.Received == 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}
