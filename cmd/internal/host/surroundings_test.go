package host

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/encap"
)

// The ports of a network's bridge whose MTU is another than the network's are
// named, those of other bridges and networks' own devices are not; a container is
// named in place of its port, by its own device's MTU.
func TestSurroundingsMTUs(t *testing.T) {
	h := newHost(t)
	n := Network{Name: "blue", Bridge: "br-blue", MTU: 1450}
	port := func(bridge, name string, mtu int) {
		a := named(name)
		a.MasterIndex, a.MTU = link(t, bridge).Attrs().Index, mtu
		newLink(t, &netlink.Veth{LinkAttrs: a, PeerName: name + "p"})
	}
	for _, bridge := range []string{"br-blue", "br-other"} {
		newLink(t, &netlink.Bridge{LinkAttrs: named(bridge)})
	}
	look := func(containers ...Container) string {
		t.Helper()
		s, err := h.Surroundings()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(s.MTUs(n, map[string]bool{"tap0": true}, containers), "\n")
	}
	port("br-blue", "good", 1450)
	port("br-blue", "tap0", 1500)
	port("br-other", "elsewhere", 1500)
	if text := look(); text != "" {
		t.Errorf("nothing is amiss: %s", text)
	}
	port("br-blue", "high1", 1500)
	port("br-blue", "high0", 1500)
	port("br-blue", "low", 1400)
	const (
		low  = "port low has an MTU of 1400, network blue 1450: the bridge drops longer packets on the way there: set both ends to 1450"
		high = "%s have an MTU of 1500, network blue 1450: their longer packets are dropped, by overtap as too_big or unseen by the veth: set both ends to 1450"
	)
	if text, want := look(), fmt.Sprintf(high, "port high0, port high1")+"\n"+low; text != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	text := look(Container{"container web (eth0)", "blue", "good", 1500}, Container{"container db (eth0)", "blue", "high0", 1450})
	if want := fmt.Sprintf(high, "container web (eth0), port high1") + "\n" + low; text != want {
		t.Errorf("%s\nwant %s", text, want)
	}
	var many []Container
	for i := range maxNamed + 3 {
		many = append(many, Container{fmt.Sprintf("c%02d", i), "blue", fmt.Sprintf("v%02d", i), encap.OverlayMTU(9000)})
	}
	if text := look(many...); !strings.Contains(text, "c00, c01, c02, c03, c04, c05, c06, c07 and 3 more have an MTU of 9000, ") {
		t.Errorf("of many: %s", text)
	}
}

// The kernel's vxlan devices on a port of ours are reported, up or down.
func TestSurroundingsClashes(t *testing.T) {
	h := newHost(t)
	vxlan := func(name string, port int) netlink.Link {
		return newLink(t, &netlink.Vxlan{LinkAttrs: named(name), VxlanId: port, Port: port, Learning: true})
	}
	l := vxlan("vx1", 4790)
	vxlan("vx2", 4791)
	clashes := func() []string {
		s, err := h.Surroundings()
		if err != nil {
			t.Fatal(err)
		}
		return s.Clashes(4790)
	}
	if c := clashes(); len(c) != 1 || !strings.HasPrefix(c[0], "the kernel's vxlan device vx1 has UDP port 4790 too: it cannot come up") {
		t.Errorf("down: %q", c)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	if c := clashes(); len(c) != 1 || !strings.HasPrefix(c[0], "the kernel's vxlan device vx1 is up on UDP port 4790 too") {
		t.Errorf("up: %q", c)
	}
	if s, err := h.Surroundings(); err != nil || len(s.Clashes(4789)) != 0 {
		t.Errorf("another port: %q, %v", s.Clashes(4789), err)
	}
}

func TestSome(t *testing.T) {
	names := []string{"c", "a", "b"}
	if got := Some(names); got != "a, b, c" || !slices.Equal(names, []string{"c", "a", "b"}) {
		t.Errorf("%q, and the list is %q", got, names)
	}
}
