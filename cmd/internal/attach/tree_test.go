package attach

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/cmd/internal/bridgeport"
	"overtap/encap"
)

func setTree(t *testing.T, bridge string, on bool, delay time.Duration) {
	t.Helper()
	if err := netlab.SpanningTree(bridge, on, delay); err != nil {
		t.Fatal(err)
	}
}

// On a bridge with a spanning tree an address is not called free while the port of
// its holder, or the network's device, does not forward; nor is a container called
// attached while its own does not.
func TestSpanningTree(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	c1, ns1 := container(t, lab, "c1")
	_, ns2 := container(t, lab, "c2")
	const delay = 2 * time.Second // the least there is
	setTree(t, "br-blue", true, delay)

	begun := time.Now()
	attach(t, a, blue, ns1, Request{Target: "c1", MAC: 0x0242_0000_0001, Addresses: prefixes("198.51.100.2/24")})
	if took := time.Since(begun); took < 2*delay {
		t.Errorf("attached after %v: its port cannot forward before %v", took, 2*delay)
	}
	ports, err := bridgeport.List(a.foreign)
	if err != nil || len(ports) != 1 {
		t.Fatalf("%v, %v", ports, err)
	}
	for _, p := range ports {
		if p.State != bridgeport.Forwarding {
			t.Errorf("attached, and its port is %s", p.State)
		}
	}
	// The holder's port starts over: it cannot answer at first.
	port, err := netlink.LinkByIndex(one(ports))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetDown(port), netlink.LinkSetUp(port)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the port starts over", func() bool {
		ports, err := bridgeport.List(a.foreign)
		return err == nil && ports[port.Attrs().Index].State.Starting()
	})
	r := Request{Network: "blue", Target: "c2", Addresses: prefixes("198.51.100.2/24")}
	if _, err := a.Attach(t.Context(), blue, ns2, r); err == nil || !strings.Contains(err.Error(), "is taken, by 02:42:00:00:00:01") {
		t.Errorf("the holder's address: %v", err)
	}

	// A device that is blocked, or down, cannot carry the question.
	tap := netlink.NewLinkAttrs()
	tap.Name, tap.MasterIndex = "tap0", port.Attrs().MasterIndex
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: tap, PeerName: "tap1"}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if l, err := netlink.LinkByName("tap0"); err != nil || netlink.LinkDel(l) != nil {
			t.Error("tap0 stays")
		}
	}()
	n := blue
	n.Device = "tap0"
	r.Addresses = prefixes("198.51.100.9/24")
	if _, err := a.Attach(t.Context(), n, ns2, r); err == nil || !strings.Contains(err.Error(), "keeps the port tap0 disabled") {
		t.Errorf("with the network's device down: %v", err)
	}
	setTree(t, "br-blue", false, delay)
	pings(t, c1, "198.51.100.2")
}

func one[V any](m map[int]V) int {
	for k := range m {
		return k
	}
	return 0
}

// Two attachments at the same time do not both find an address free.
func TestAddressClaimed(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns1 := container(t, lab, "c1")
	_, ns2 := container(t, lab, "c2")
	attach(t, a, blue, ns1, Request{Target: "c1", Addresses: prefixes("198.51.100.3/24")}) // or there is no one to ask
	errs := make(chan error)
	for _, ns := range []*os.File{ns1, ns2} {
		go func() {
			_, err := a.Attach(t.Context(), blue, ns, Request{Network: "blue", Target: "c2", Addresses: prefixes("198.51.100.2/24")})
			errs <- err
		}()
	}
	one, two := <-errs, <-errs
	if one == nil {
		one, two = two, one
	}
	if two != nil || one == nil || !strings.Contains(one.Error(), "the address 198.51.100.2 is taken, by another container that is being attached") {
		t.Errorf("%v, %v", one, two)
	}
}

// What was attached and ended is reported once, with all that it was; what was
// detached, or never came to be, is not.
func TestTrack(t *testing.T) {
	addBridge(t, "br-blue")
	lab, a := newLab(t), newAttacher(t)
	_, ns1 := container(t, lab, "c1")
	_, ns2 := container(t, lab, "c2")
	track := func() (now, ended []Attachment) {
		t.Helper()
		now, ended, err := a.Track([]Network{blue})
		if err != nil {
			t.Fatal(err)
		}
		return now, ended
	}
	m1 := attach(t, a, blue, ns1, Request{Target: "c1", MAC: 0x0242_0000_0007, Addresses: prefixes("198.51.100.2/24", "2001:db8::2/64")})
	if now, ended := track(); len(now) != 1 || len(ended) != 0 || now[0].Veth != m1.Veth {
		t.Errorf("now %+v, ended %+v", now, ended)
	}
	if _, err := a.Attach(&brittle{t.Context(), 12}, blue, ns2, Request{Network: "blue", Target: "c2", Addresses: prefixes("198.51.100.3/24")}); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	attach(t, a, blue, ns2, Request{Target: "c2", Addresses: prefixes("198.51.100.3/24")})
	if _, err := a.Detach([]Network{blue}, ns2, Selector{Network: "blue", Target: "c2"}); err != nil {
		t.Fatal(err)
	}
	// Another Attacher knows of it by having seen it.
	other, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if now, _, err := other.Track([]Network{blue}); err != nil || len(now) != 1 {
		t.Errorf("%+v, %v", now, err)
	}
	l, err := netlink.LinkByName(m1.Veth)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Attacher{a, other} {
		now, ended, err := a.Track([]Network{blue})
		if err != nil || len(now) != 0 || len(ended) != 1 || ended[0].MAC != encap.MAC(0x0242_0000_0007) || len(ended[0].Addresses) != 2 {
			t.Fatalf("now %+v, ended %+v, %v", now, ended, err)
		}
		if got, want := ended[0].Again(), "overtap attach blue c1 --address 198.51.100.2/24 --address 2001:db8::2/64 --mac 02:42:00:00:00:07 --ifname eth0"; got != want {
			t.Errorf("again: %s\nwant   %s", got, want)
		}
	}
	if now, ended := track(); len(now) != 0 || len(ended) != 0 {
		t.Errorf("once more: now %+v, ended %+v", now, ended)
	}
	if got := (Attachment{Network: "blue", Target: "a b'c"}).Again(); got != `overtap attach blue 'a b'\''c'` {
		t.Errorf("quoted: %s", got)
	}
}
