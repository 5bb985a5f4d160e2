package dataplane_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// zeroAddr is the i-th of some peers over IPv6.
func zeroAddr(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
}

// TestZeroChecksumRules wants each Apply to say to the sockets of a port what its
// networks take together, of a port that opens later too, and nothing more when
// none takes any.
func TestZeroChecksumRules(t *testing.T) {
	u := netiotest.NewUnderlay(t)
	self := zeroAddr(1)
	a := bareHost(t, u, self, 2)
	blue := testNetwork(self, zeroAddr(2))
	red := renamed(testNetwork(self, zeroAddr(2)), "red", "vx1", testVNI+1)
	other := renamed(testNetwork(self, zeroAddr(2)), "other", "vx2", testVNI+2)
	other.Port = 8472
	with := func(n dataplane.Network, accept bool, except ...netip.Addr) dataplane.Network {
		n.ZeroChecksum = netio.ZeroChecksum{Accept: accept, Except: except}
		return n
	}
	rules := func(n ...dataplane.Network) netio.PortZeroChecksum {
		var z netio.PortZeroChecksum
		for _, one := range n {
			z.Networks = append(z.Networks, netio.NetworkZeroChecksum{VNI: one.VNI, ZeroChecksum: one.ZeroChecksum})
		}
		return z
	}
	anyone, none := netio.PortZeroChecksum{Any: true}, netio.PortZeroChecksum{}
	p2, p3 := zeroAddr(2), zeroAddr(3)
	for i, step := range []struct {
		networks    []dataplane.Network
		want, other netio.PortZeroChecksum // of testPort, of the other
	}{
		{[]dataplane.Network{blue}, none, none},
		{[]dataplane.Network{with(blue, true)}, anyone, none},
		{[]dataplane.Network{with(blue, true), red}, rules(with(blue, true)), none},
		{[]dataplane.Network{with(blue, true), with(red, true), other}, anyone, none},
		{[]dataplane.Network{with(blue, true), with(red, true, p3), with(other, true)}, rules(with(blue, true), with(red, true, p3)), anyone},
		{[]dataplane.Network{with(red, false, p2, p3), with(blue, false), with(other, false, p2)}, rules(with(red, false, p2, p3)), rules(with(other, false, p2))},
		{[]dataplane.Network{blue, red, other}, none, none},
	} {
		a.apply(step.networks...)
		for port, want := range map[uint16]netio.PortZeroChecksum{testPort: step.want, 8472: step.other} {
			for _, got := range a.ZeroChecksums(port) {
				if !reflect.DeepEqual(got, want) {
					t.Errorf("step %d: port %d takes %+v, want %+v", i, port, got, want)
				}
			}
		}
		if got := len(a.ZeroChecksums(testPort)); got != 2 {
			t.Errorf("%d sockets are open, want 2", got)
		}
	}

	// More than a socket filter holds is refused before anything happens.
	many := with(blue, true)
	for i := range 500 {
		many.ZeroChecksum.Except = append(many.ZeroChecksum.Except, zeroAddr(10+i))
	}
	if _, err := a.Apply(dataplane.Desired{Networks: []dataplane.Network{many}}); err == nil || !strings.Contains(err.Error(), "port 4789: zero UDP checksums") {
		t.Errorf("500 exceptions: %v", err)
	}
	many.ZeroChecksum.Except = many.ZeroChecksum.Except[:400]
	a.apply(many)
}

func TestChecksumErrors(t *testing.T) {
	a := newHost(t, netiotest.NewUnderlay(t), addrA, testNetwork(addrA, addrB))
	a.SetChecksumErrors(7)
	if got := a.Stats().ChecksumErrors; got != 7 {
		t.Errorf("%d checksum errors, want 7", got)
	}
}

// sender is a socket that sends from an address to the wire of another host.
func sender(t *testing.T, h *netlab.Host, from, to netip.Addr, checksum bool) func([]byte) {
	t.Helper()
	const noCheck6TX = 101 // UDP_NO_CHECK6_TX of linux/udp.h
	fd := -1
	err := h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if !checksum {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, noCheck6TX, 1); err != nil {
				return err
			}
		}
		link, err := net.InterfaceByName(netlab.UnderlayDev)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link.Index); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet6{Addr: from.As16()})
	})
	t.Cleanup(func() { unix.Close(fd) })
	if err != nil {
		t.Fatal(err)
	}
	return func(b []byte) {
		t.Helper()
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: to.As16(), Port: testPort}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestZeroChecksumFilter sends datagrams with and without checksum, of two peers and
// several VNIs, to a socket under each kind of rule: those that are to be taken
// arrive whole, of the others the header with the mark, and where none is taken the
// kernel drops them.
func TestZeroChecksumFilter(t *testing.T) {
	sites, err := netlabtest.New(t).Sites(netlab.SiteSpec{V6: true})
	if err != nil {
		t.Fatal(err)
	}
	group := multicast[true]
	_, wire, joined := wireAt(t, sites[0], 1, group)
	p, q := sites[1].Underlay, netlab.UnderlayAddr(77, true)
	if err := sites[1].Host.AddAddr(netlab.UnderlayDev, netip.PrefixFrom(q, 64)); err != nil {
		t.Fatal(err)
	}
	var far []netip.Addr // peers with nothing to say, before q in the list
	for i := range 300 {
		far = append(far, zeroAddr(0x7000+i))
	}
	vnis := []encap.VNI{1, 0x123456, encap.MaxVNI}
	for _, c := range []struct {
		name string
		z    netio.PortZeroChecksum
		// Who is taken without checksum, by VNI in their order: p and q.
		want [3]string
		none bool // the kernel drops what is not taken
	}{
		{name: "none", none: true},
		{name: "any", z: netio.PortZeroChecksum{Any: true}, want: [3]string{"pq", "pq", "pq"}},
		{name: "a network", z: netio.PortZeroChecksum{Networks: []netio.NetworkZeroChecksum{
			{VNI: vnis[1], ZeroChecksum: netio.ZeroChecksum{Accept: true}},
		}}, want: [3]string{"", "pq", ""}},
		{name: "two networks", z: netio.PortZeroChecksum{Networks: []netio.NetworkZeroChecksum{
			{VNI: vnis[0], ZeroChecksum: netio.ZeroChecksum{Accept: true}},
			{VNI: vnis[2], ZeroChecksum: netio.ZeroChecksum{Accept: true}},
		}}, want: [3]string{"pq", "", "pq"}},
		{name: "a peer", z: netio.PortZeroChecksum{Networks: []netio.NetworkZeroChecksum{
			{VNI: vnis[0], ZeroChecksum: netio.ZeroChecksum{Except: []netip.Addr{q}}},
			{VNI: vnis[1], ZeroChecksum: netio.ZeroChecksum{Except: []netip.Addr{q, p}}},
		}}, want: [3]string{"q", "pq", ""}},
		{name: "all but a peer", z: netio.PortZeroChecksum{Networks: []netio.NetworkZeroChecksum{
			{VNI: vnis[0], ZeroChecksum: netio.ZeroChecksum{Accept: true, Except: append(far, q)}},
			{VNI: vnis[2], ZeroChecksum: netio.ZeroChecksum{Accept: true}},
		}}, want: [3]string{"p", "", "pq"}},
		{name: "none again", none: true},
	} {
		for _, w := range []struct {
			name string
			netio.Conn
			to netip.Addr
		}{{"port", wire, sites[0].Underlay}, {"group", joined, group}} {
			t.Run(c.name+", "+w.name, func(t *testing.T) {
				if err := w.AcceptZeroChecksums(c.z); err != nil {
					t.Fatal(err)
				}
				for i, vni := range vnis {
					for _, from := range []struct {
						name string
						addr netip.Addr
					}{{"p", p}, {"q", q}} {
						for _, checksum := range []bool{true, false} {
							payload := make([]byte, encap.VXLANHeaderLen+100)
							encap.PutVXLAN(payload, vni)
							copy(payload[encap.VXLANHeaderLen:], pattern(100))
							what := fmt.Sprintf("VNI %d from %s, checksum %t", vni, from.name, checksum)
							sender(t, sites[1].Host, from.addr, w.to, checksum)(payload)
							taken := checksum || strings.Contains(c.want[i], from.name)
							if !taken && c.none {
								continue // the next that comes shows that this did not
							}
							d := one(t, w.Conn)
							if d.From != from.addr || d.ZeroChecksum == taken {
								t.Errorf("%s: from %s, refused %t", what, d.From, d.ZeroChecksum)
							}
							if h, err := encap.ParseVXLAN(d.Data); err != nil || h.VNI != vni {
								t.Errorf("%s: %v, %v", what, h, err)
							}
							if taken && !bytes.Equal(d.Data, payload) || !taken && len(d.Data) > encap.VXLANHeaderLen+1 {
								t.Errorf("%s: %d bytes came", what, len(d.Data))
							}
						}
					}
				}
			})
		}
	}
}

// one reads the next datagram, its bytes copied.
func one(t *testing.T, w netio.Conn) netio.Datagram {
	t.Helper()
	batch := make([]netio.Datagram, 1)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		n, err := w.ReadBatch(batch)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			d := batch[0]
			d.Data = bytes.Clone(d.Data)
			return d
		}
	}
	t.Fatal("nothing came")
	return netio.Datagram{}
}
