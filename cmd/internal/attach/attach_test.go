package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"overtap/encap"
)

func TestAttach(t *testing.T) {
	bridge := addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	c1, ns1 := container(t, lab, "c1")
	c2, ns2 := container(t, lab, "c2")
	nl1 := inNamespace(t, c1)
	lo, err := nl1.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := nl1.LinkSetDown(lo); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"net/ipv6/conf/default/disable_ipv6": "1", // as container engines have it
		// The kernel's own look for duplicates, which takes a second.
		"net/ipv6/conf/default/accept_dad": "1", "net/ipv6/conf/all/accept_dad": "1",
	} {
		if err := c1.Sysctl(key, value); err != nil {
			t.Fatal(err)
		}
	}
	host, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	before := state(t, host)

	m1 := attach(t, a, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24", "2001:db8::2/64"),
		Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}})
	m2 := attach(t, a, blue, ns2, Request{Target: "/the/second one", IfName: "net1", MAC: 0x0242_0000_0007,
		Addresses: prefixes("198.51.100.3/24", "2001:db8::3/64")})

	want := Made{Attachment: Attachment{
		Network: "blue", Target: "c1", IfName: "eth0", MAC: 0x0242_c633_6402, MTU: 1450,
		Addresses: prefixes("198.51.100.2/24", "2001:db8::2/64"), Veth: m1.Veth, Bridge: "br-blue",
	}, Gateways: m1.Gateways}
	ip := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	ip2 := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, m1, ip, ip2); d != "" {
		t.Errorf("made (-want +got):\n%s", d)
	}
	if m2.IfName != "net1" || m2.MAC != 0x0242_0000_0007 {
		t.Errorf("made: %+v", m2)
	}
	// What is listed comes from the kernel, what was made from the request.
	list, err := a.List([]Network{blue})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Attachment{m2.Attachment, m1.Attachment}, list, ip); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}

	pings(t, c1, "198.51.100.3", "2001:db8::3", "127.0.0.1")
	pings(t, c2, "198.51.100.2", "2001:db8::2")
	for _, s := range []string{
		"link eth0 up=1 master=0 mtu=1450",
		"route 0.0.0.0/0 via 198.51.100.1",
		"route ::/0 via 2001:db8::1",
	} {
		if got := state(t, nl1); !strings.Contains(got, s) {
			t.Errorf("inside there is no %s:\n%s", s, got)
		}
	}
	// A bridge takes its ports' lowest MAC: not that of a container's veth.
	outer, err := host.LinkByName(m1.Veth)
	if err != nil {
		t.Fatal(err)
	}
	if mac := outer.Attrs().HardwareAddr; mac[0] != 0xfe || outer.Attrs().MasterIndex != bridge.Attrs().Index {
		t.Errorf("the host's end: %+v", outer.Attrs())
	}

	for _, c := range []struct {
		ns *os.File
		s  Selector
	}{{ns1, Selector{Network: "blue", Target: "whatever"}}, {nil, Selector{Network: "blue", Target: "/the/second one"}}} {
		if _, err := a.Detach([]Network{blue}, c.ns, c.s); err != nil {
			t.Error(err)
		}
	}
	if after := state(t, host); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if inside := state(t, nl1); strings.Contains(inside, "eth0") || strings.Contains(inside, "route") {
		t.Errorf("left inside:\n%s", inside)
	}
}

// TestLongest has a mark of the greatest length.
func TestLongest(t *testing.T) {
	n := blue
	n.Name = strings.Repeat("n", 64)
	addBridge(t, n.Bridge)
	lab, a := newLab(t), newAttacher(t)
	_, ns := container(t, lab, "c1")
	m := attach(t, a, n, ns, Request{Target: strings.Repeat("x", maxTarget), Addresses: prefixes("2001:db8::2/64")})
	list, err := a.List([]Network{n})
	if err != nil || len(list) != 1 || list[0].Target != m.Target || list[0].Network != n.Name {
		t.Errorf("list: %+v, %v", list, err)
	}
	if m.MAC == 0 || !m.MAC.IsSource() || m.MAC != addressMAC(prefixes("2001:db8::2/80")) {
		t.Errorf("the MAC made from an IPv6 address is %s", m.MAC)
	}
}

// TestAnnounced listens on the network while a container is attached.
func TestAnnounced(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns1 := container(t, lab, "c1")
	_, ns2 := container(t, lab, "c2")
	m := attach(t, a, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24", "2001:db8::2/64")})
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	outer, err := h.LinkByName(m.Veth)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openWire(ns1, outer.Attrs().ParentIndex)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()

	bridge, err := h.LinkByName("br-blue")
	if err != nil {
		t.Fatal(err)
	}
	// Set, it does not follow the ports that join (NET_ADDR_SET).
	if err := h.LinkSetHardwareAddr(bridge, bridge.Attrs().HardwareAddr); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.Attach(t.Context(), blue, ns2, Request{Network: "blue", Target: "c2", MAC: 0x0242_0000_0007,
			Addresses: prefixes("198.51.100.3/24", "2001:db8::3/64")})
		done <- err
	}()
	probes, announced, askers := map[netip.Addr]int{}, map[netip.Addr]int{}, map[encap.MAC]bool{}
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false // after what is still to be read
		default:
		}
		err := w.receive(t.Context(), time.Now().Add(50*time.Millisecond), func(frame []byte) error {
			if at, holder, ok := claim(frame); ok && holder == 0x0242_0000_0007 {
				announced[at]++
			} else if ok {
				probes[at]++
				askers[holder] = true
			}
			if src := encap.MACFrom(frame[encap.MACLen:]); src != 0x0242_0000_0007 {
				askers[src] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{"198.51.100.3", "2001:db8::3"} {
		if p := netip.MustParseAddr(s); probes[p] != probeRounds || announced[p] != announceRounds {
			t.Errorf("%s: %d probes, %d announcements", p, probes[p], announced[p])
		}
	}
	// What tables learn of the question is the bridge's MAC and no other.
	if len(askers) != 1 || !askers[macOf(bridge)] {
		t.Errorf("asked by %v, the bridge was %s", askers, bridge.Attrs().HardwareAddr)
	}
}

// TestProbeComesBack has a bridge that sends frames back to where they came from.
func TestProbeComesBack(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	c, ns := container(t, lab, "c1")
	m := attach(t, a, blue, ns, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24")})
	port, err := netlink.LinkByName(m.Veth)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetHairpin(port, true); err != nil {
		t.Fatal(err)
	}
	link, err := inNamespace(t, c).LinkByName(m.IfName)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openWire(ns, link.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	const prober = encap.MAC(0x0242_0000_0009)
	if err := w.probe(t.Context(), []netip.Addr{free6, netip.MustParseAddr("198.51.100.77")}, prober); err != nil {
		t.Error(err)
	}
	// It did come back.
	if err := w.send([][]byte{probe(free6, prober)}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = w.receive(t.Context(), time.Now().Add(roundTime), func(frame []byte) error {
		if _, holder, ok := claim(frame); ok && holder == prober {
			seen++
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Errorf("seen %d times, %v", seen, err)
	}
}

// TestAttachedTwice asks for another address of a container while that is attached
// once more: it answers by the MACs of its two devices alone.
func TestAttachedTwice(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns1 := container(t, lab, "c1")
	c2, ns2 := container(t, lab, "c2")
	asked := netip.MustParseAddr("198.51.100.2")
	attach(t, a, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24")})
	m2 := attach(t, a, blue, ns2, Request{Target: "c2", Addresses: prefixes("198.51.100.3/24")})
	link, err := inNamespace(t, c2).LinkByName(m2.IfName)
	if err != nil {
		t.Fatal(err)
	}
	w, err := openWire(ns2, link.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()

	done := make(chan error, 1)
	go func() {
		_, err := a.Attach(t.Context(), blue, ns1, Request{Network: "blue", Target: "c1", Addresses: prefixes("198.51.100.4/24")})
		done <- err
	}()
	answers := map[encap.MAC]int{}
	for running := true; running; {
		if err := w.send([][]byte{arp(m2.MAC, m2.Addresses[0].Addr().As4(), asked.As4())}); err != nil {
			t.Fatal(err)
		}
		err := w.receive(t.Context(), time.Now().Add(5*time.Millisecond), func(frame []byte) error {
			if at, holder, ok := claim(frame); ok && at == asked {
				answers[holder]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
	}
	// Linux answers for every address on every device, so by its second one too.
	first, second := encap.MAC(0x0242_c633_6402), encap.MAC(0x0242_c633_6404)
	if answers[first] < 20 {
		t.Errorf("too few answers to tell: %v", answers)
	}
	delete(answers, first)
	delete(answers, second)
	if len(answers) > 0 {
		t.Errorf("answers by other MACs: %v", answers)
	}
}

func TestContainerDies(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns := container(t, lab, "c1")
	m := attach(t, a, blue, ns, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24")})
	if err := lab.Destroy(); err != nil {
		t.Fatal(err)
	}
	ns.Close()
	eventually(t, "the attachment is gone", func() bool {
		list, err := a.List([]Network{blue})
		if err != nil {
			t.Fatal(err)
		}
		return len(list) == 0
	})
	// The kernel takes a moment longer to delete it.
	eventually(t, m.Veth+" is gone", func() bool {
		_, err := netlink.LinkByName(m.Veth)
		return notThere(err)
	})
	if _, err := a.Detach([]Network{blue}, nil, Selector{Network: "blue", Target: "c1"}); !errors.Is(err, ErrNotAttached) {
		t.Errorf("detaching it: %v", err)
	}
}

// TestRestart has the bridge go with one daemon and come with the next.
func TestRestart(t *testing.T) {
	bridge := addBridge(t, "br-blue")
	lab, first := newLab(t), newAttacher(t)
	c1, ns1 := container(t, lab, "c1")
	c2, ns2 := container(t, lab, "c2")
	attach(t, first, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24")})
	attach(t, first, blue, ns2, Request{Target: "c2", Addresses: prefixes("198.51.100.3/24")})
	other := blue
	other.Name = "other"
	first.Close()
	if _, err := first.Attach(t.Context(), blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.4/24")}); !errors.Is(err, errClosed) {
		t.Errorf("attaching by a closed one: %v", err)
	}
	if err := netlink.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}

	second := newAttacher(t)
	list, err := second.List([]Network{blue})
	if err != nil || len(list) != 2 || list[0].Bridge != "" || list[0].Target != "c1" || list[0].IfName != "eth0" {
		t.Fatalf("without a bridge: %+v, %v", list, err)
	}
	addBridge(t, "br-blue")
	for _, tc := range []struct {
		n    Network
		want int
	}{{other, 0}, {blue, 2}, {blue, 0}} {
		if back, err := second.Restore(tc.n); err != nil || len(back) != tc.want {
			t.Errorf("restored for %s: %+v, %v, want %d", tc.n.Name, back, err, tc.want)
		}
	}
	if list, err = second.List([]Network{blue}); err != nil || len(list) != 2 || list[0].Bridge != "br-blue" {
		t.Fatalf("restored: %+v, %v", list, err)
	}
	pings(t, c1, "198.51.100.3")
	pings(t, c2, "198.51.100.2")

	// On a bridge that is not the network's, or of a network that is not there,
	// they are none of this daemon's.
	for _, n := range []Network{other, {Name: "blue", Bridge: "br-red"}} {
		if list, err = second.List([]Network{n}); err != nil || len(list) != 0 {
			t.Errorf("listed for %s on %s: %+v, %v", n.Name, n.Bridge, list, err)
		}
	}
}

func TestDetach(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns1 := container(t, lab, "c1")
	_, ns2 := container(t, lab, "c2")
	attach(t, a, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24")})
	attach(t, a, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.3/24")})
	for _, tc := range []struct {
		ns   *os.File
		s    Selector
		want string
	}{
		{ns2, Selector{Network: "blue", Target: "c1"}, "it is not attached: see `overtap status`"},
		{nil, Selector{Network: "blue", Target: "c2"}, "it is not attached"},
		{ns1, Selector{Network: "red", Target: "c1"}, "it is not attached"},
		{ns1, Selector{Network: "blue", Target: "c1", IfName: "eth2"}, "it is not attached as eth2"},
		{ns1, Selector{Network: "blue", Target: "c1"}, "it is attached more than once: name one of eth0, eth1 with --ifname"},
	} {
		if _, err := a.Detach([]Network{blue}, tc.ns, tc.s); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.s, err, tc.want)
		}
	}
	gone, err := a.Detach([]Network{blue}, ns1, Selector{Network: "blue", Target: "c1", IfName: "eth0"})
	if err != nil || gone.IfName != "eth0" || !slices.Equal(gone.Addresses, prefixes("198.51.100.2/24")) {
		t.Errorf("detached %+v, %v", gone, err)
	}
	if list, err := a.List([]Network{blue}); err != nil || len(list) != 1 || list[0].IfName != "eth1" {
		t.Errorf("left: %+v, %v", list, err)
	}
}

// TestAtOnce attaches several containers, one of them several times, all at
// once: each device gets a name of its own, and no container waits for another.
func TestAtOnce(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	const n = 3
	var spaces []*os.File
	for i := range n {
		_, ns := container(t, lab, fmt.Sprintf("c%d", i))
		spaces = append(spaces, ns, ns)
	}
	start := time.Now()
	errs := make(chan error, len(spaces))
	for i, ns := range spaces {
		go func() {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i)}), 24)
			_, err := a.Attach(t.Context(), blue, ns, Request{Network: "blue", Target: fmt.Sprint("c", i/2), Addresses: []netip.Prefix{p}})
			errs <- err
		}()
	}
	for range spaces {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	once := probeRounds*roundTime + (announceRounds-1)*roundTime
	if took := time.Since(start); took >= time.Duration(len(spaces))*once {
		t.Errorf("attaching %d containers, each twice, took %v: as long as one after the other", n, took)
	}
	list, err := a.List([]Network{blue})
	if err != nil || len(list) != len(spaces) {
		t.Fatalf("list: %+v, %v", list, err)
	}
	for i, l := range list {
		if want := fmt.Sprint("eth", i%2); l.IfName != want {
			t.Errorf("%s: %s, want %s", l.Target, l.IfName, want)
		}
	}
}

// TestCloseWaits has a daemon end while a container is being attached.
func TestCloseWaits(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns := container(t, lab, "c1")
	host, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	before := state(t, host)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := a.Attach(ctx, blue, ns, Request{Network: "blue", Target: "c1", Addresses: prefixes("198.51.100.2/24")})
		done <- err
	}()
	eventually(t, "something is made", func() bool { return state(t, host) != before })
	cancel()
	a.Close()
	if after := state(t, host); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestMark(t *testing.T) {
	for _, s := range []string{"", "overtap", "overtap attach", "overtap attach blue", "overtap attach blue ", "overtap attach  x", "overtap attachment x y"} {
		if n, target, ok := marked(s); ok {
			t.Errorf("%q is the mark of %q on %q", s, target, n)
		}
	}
	if n, target, ok := marked(mark("blue", "/run/netns/a b")); !ok || n != "blue" || target != "/run/netns/a b" {
		t.Errorf("read %q, %q, %v", n, target, ok)
	}
	if got := len(mark(strings.Repeat("n", 64), strings.Repeat("x", maxTarget))); got > 255 {
		t.Errorf("the longest mark has %d bytes", got)
	}
}

// However many addresses a container gives itself, the list holds a few of them and
// how many there are beside.
func TestListIsBounded(t *testing.T) {
	addBridge(t, blue.Bridge)
	lab, a := newLab(t), newAttacher(t)
	c1, ns := container(t, lab, "c1")
	attach(t, a, blue, ns, Request{Target: "c1", Addresses: prefixes("198.51.100.2/24")})
	inside := inNamespace(t, c1)
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	const more = 3 * MaxListed
	for i := range more {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i)}), 32)
		if err := inside.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := a.List([]Network{blue})
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if got := list[0]; len(got.Addresses) != MaxListed || got.MoreAddresses != 1+more-MaxListed || !slices.Contains(got.Addresses, prefixes("198.51.100.2/24")[0]) {
		t.Errorf("%d addresses and %d more of %d: %v", len(got.Addresses), got.MoreAddresses, 1+more, got.Addresses)
	}
}
