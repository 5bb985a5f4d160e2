package host

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

var underlay = netip.MustParseAddr("192.0.2.1")

// newHost opens a Host that undoes and closes itself at the test's end.
func newHost(t *testing.T) *Host {
	t.Helper()
	netnstest.Require(t)
	h, err := New(underlay, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Undo(); err != nil {
			t.Error(err)
		}
		h.Close()
	})
	return h
}

// crashedHost sets a network up as a run does that is killed thereafter.
func crashedHost(t *testing.T, n Network) {
	t.Helper()
	netnstest.Require(t)
	h, err := New(underlay, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
}

// newTAP stands in for the engine: a TAP that vanishes with its descriptor.
func newTAP(t *testing.T, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Queues: 1, NonPersist: true,
		Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatalf("opening the TAP %s: %v", name, err)
	}
	t.Cleanup(func() {
		for _, f := range tap.Fds {
			f.Close()
		}
	})
}

// newLink adds a link that goes at the test's end.
func newLink(t *testing.T, l netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatalf("adding %s %s: %v", l.Type(), l.Attrs().Name, err)
	}
	name := l.Attrs().Name
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Error(err)
			}
		}
	})
	return link(t, name)
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// link reads a link that must be there.
func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func absent(t *testing.T, name string) {
	t.Helper()
	if _, err := netlink.LinkByName(name); err == nil {
		t.Errorf("link %s is still there", name)
	}
}

// global lists a link's addresses, but for the link-local ones.
func global(t *testing.T, name string) []string {
	t.Helper()
	list, err := netlink.AddrList(link(t, name), netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			s = append(s, a.IPNet.String())
		}
	}
	return s
}

func blue() Network {
	return Network{
		Name: "blue", Device: "vx-blue", MTU: 1450, Bridge: "br-blue",
		Addresses: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.1/24"),
			netip.MustParsePrefix("2001:db8:1::1/64"),
		},
	}
}

func TestMadeBridge(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	eth := newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
	n := blue()
	n.Ports = []string{"lan0"}
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}

	br, tap := link(t, "br-blue"), link(t, "vx-blue")
	if br.Type() != "bridge" || !h.ours(bridgeMark, br) || br.Attrs().MTU != 1450 ||
		br.Attrs().RawFlags&unix.IFF_UP == 0 {
		t.Errorf("bridge: %s %+v", br.Type(), br.Attrs())
	}
	if got, want := br.Attrs().HardwareAddr.String(), BridgeMAC("br-blue", underlay).String(); got != want {
		t.Errorf("bridge MAC %s, want %s", got, want)
	}
	if got := strings.Join(global(t, "br-blue"), " "); got != "198.51.100.1/24 2001:db8:1::1/64" {
		t.Errorf("bridge addresses: %s", got)
	}
	if a := tap.Attrs(); a.MasterIndex != br.Attrs().Index || a.MTU != 1450 || a.TxQLen != maxRing || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("TAP: %+v", a)
	}
	if list, err := netlink.AddrList(tap, netlink.FAMILY_ALL); err != nil || len(list) != 0 {
		t.Errorf("the TAP has addresses: %v, %v", list, err)
	}
	if a := link(t, "lan0").Attrs(); a.MasterIndex != br.Attrs().Index || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("port: %+v", a)
	}

	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
	if a := link(t, "lan0").Attrs(); a.MasterIndex != 0 || a.RawFlags&unix.IFF_UP != 0 || a.Index != eth.Attrs().Index {
		t.Errorf("port after undo: %+v", a)
	}
}

// A bridge that is made learns no more than its limit, where the kernel knows
// how to bound that.
func TestMadeBridgeIsBounded(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
	n := blue()
	n.MaxMACs = 10
	n.Ports = []string{"lan0"}
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link(t, "lan1")); err != nil {
		t.Fatal(err)
	}
	far := link(t, "lan1").Attrs().Index
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	learned := func() (n int) {
		list, err := netlink.NeighList(link(t, "lan0").Attrs().Index, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.State&netlink.NUD_PERMANENT == 0 {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); learned() < 10; time.Sleep(10 * time.Millisecond) {
		for i := range byte(50) {
			frame := append([]byte{2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 2, i, 0x88, 0xb5}, make([]byte, 46)...)
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: far}); err != nil {
				t.Fatal(err)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the bridge learned %d MACs, want 10", learned())
		}
	}
	time.Sleep(100 * time.Millisecond)
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if got := learned(); got > 10 && (major > 6 || major == 6 && minor >= 7) {
		t.Errorf("the bridge learned %d MACs, want 10", got)
	}
}

func TestFoundBridge(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	br := newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	stood := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 51, 100, 1), Mask: net.CIDRMask(24, 32)}}
	if err := netlink.AddrAdd(br, stood); err != nil {
		t.Fatal(err)
	}
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(global(t, "br-blue"), " "); got != "198.51.100.1/24 2001:db8:1::1/64" {
		t.Errorf("bridge addresses: %s", got)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	after := link(t, "br-blue")
	if after.Attrs().Index != br.Attrs().Index || after.Attrs().RawFlags&unix.IFF_UP != 0 || after.Attrs().Alias != "" {
		t.Errorf("found bridge after undo: %+v", after.Attrs())
	}
	if got := strings.Join(global(t, "br-blue"), " "); got != "198.51.100.1/24" {
		t.Errorf("addresses after undo: %s", got)
	}
}

func TestNoBridge(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	n := blue()
	n.Bridge = ""
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(global(t, "vx-blue"), " "); got != "198.51.100.1/24 2001:db8:1::1/64" {
		t.Errorf("TAP addresses: %s", got)
	}
	list, err := netlink.AddrList(link(t, "vx-blue"), netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%s waits for duplicate address detection", a.IP)
		}
	}
}

// A second Setup, by the same run and by another beside it, changes
// nothing: no link or address event comes.
func TestIdempotent(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	other := newHost(t)

	links, addrs := make(chan netlink.LinkUpdate, 100), make(chan netlink.AddrUpdate, 100)
	done := make(chan struct{})
	defer close(done)
	time.Sleep(50 * time.Millisecond) // the events of the first set-up, carrier included
	if err := netlink.LinkSubscribe(links, done); err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Host{h, other} {
		if err := h.Setup(blue()); err != nil {
			t.Fatal(err)
		}
	}
	// A marker event, so that all before it have come.
	newLink(t, &netlink.Bridge{LinkAttrs: named("marker")})
	for u := range links {
		if u.Attrs().Name == "marker" {
			break
		}
		t.Errorf("link event: type %d, family %d, %s", u.Header.Type, u.IfInfomsg.Family, u.Attrs().Name)
	}
	if len(addrs) != 0 {
		t.Errorf("%d address events", len(addrs))
	}
}

// A bridge that a crashed run left is known by its alias, made right and
// removed at the end.
func TestAdoption(t *testing.T) {
	netnstest.Require(t)
	newTAP(t, "vx-blue")
	crashedHost(t, blue())
	br := link(t, "br-blue")
	if err := netlink.LinkSetDown(br); err != nil {
		t.Fatal(err)
	}
	n := blue()
	n.MTU = 1400
	h := newHost(t)
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	if a := link(t, "br-blue").Attrs(); a.Index != br.Attrs().Index || a.MTU != 1400 || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("adopted bridge: %+v", a)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
}

// A bridge whose maker lives is one that was found: another run leaves its MTU
// alone, and it in its place; and once more after its owner's end.
func TestForeignBridge(t *testing.T) {
	first, second := newHost(t), newHost(t)
	newTAP(t, "vx-blue")
	newTAP(t, "vx-red")
	if err := first.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	br := link(t, "br-blue").Attrs()
	red := Network{Name: "red", Device: "vx-red", MTU: 1450, Bridge: "br-blue"}
	if err := second.Setup(red); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Repair("red"); err != nil {
		t.Fatal(err)
	}
	if err := second.Undo(); err != nil {
		t.Fatal(err)
	}
	a := link(t, "br-blue").Attrs()
	if a.Index != br.Index || a.Alias != br.Alias || a.MTU != br.MTU || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("the bridge was %+v, is %+v", br, a)
	}
	if err := first.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
}

// A TAP that was deleted and opened again is set up again beside what stands.
func TestSetupAgain(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link(t, "vx-blue")); err != nil {
		t.Fatal(err)
	}
	newTAP(t, "vx-blue")
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	if a := link(t, "vx-blue").Attrs(); a.MasterIndex != link(t, "br-blue").Attrs().Index {
		t.Errorf("the new TAP is no port: %+v", a)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
}

// What a failed Setup made goes by Undo.
func TestFailedSetup(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	n := blue()
	n.Ports = []string{"missing0"}
	err := h.Setup(n)
	if err == nil || !strings.Contains(err.Error(), "network blue: looking for the port missing0") {
		t.Errorf("error: %v", err)
	}
	link(t, "br-blue")
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
}

func TestTwoNetworksUndo(t *testing.T) {
	h := newHost(t)
	for i := range 2 {
		name := fmt.Sprintf("vx%d", i)
		newTAP(t, name)
		if err := h.Setup(Network{Name: name, Device: name, MTU: 1450, Bridge: "br" + name}); err != nil {
			t.Fatal(err)
		}
	}
	// One was removed meanwhile: no error, and the other still goes.
	if err := netlink.LinkDel(link(t, "brvx1")); err != nil {
		t.Fatal(err)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "brvx0")
}

// Networks that share a bridge get the least of their MTUs on it, whatever the
// order.
func TestSharedBridge(t *testing.T) {
	h := newHost(t)
	a, b := blue(), Network{Name: "red", Device: "vx-red", MTU: 1400, Bridge: "br-blue"}
	newTAP(t, a.Device)
	newTAP(t, b.Device)
	for _, n := range []Network{a, b, a} {
		if err := h.Setup(n); err != nil {
			t.Fatal(err)
		}
	}
	if got := link(t, "br-blue").Attrs().MTU; got != 1400 {
		t.Errorf("MTU %d", got)
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
}

func TestBridgeMAC(t *testing.T) {
	m := BridgeMAC("br-blue", underlay)
	if !m.IsSource() || m>>40&2 == 0 {
		t.Errorf("%s is not a locally administered unicast address", m)
	}
	if m != BridgeMAC("br-blue", underlay) {
		t.Error("not stable")
	}
	if m == BridgeMAC("br-red", underlay) || m == BridgeMAC("br-blue", netip.MustParseAddr("192.0.2.2")) {
		t.Error("the same for another bridge or host")
	}
}
