package host

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/encap"
)

func setMAC(t *testing.T, dev, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err == nil {
		err = netlink.LinkSetHardwareAddr(link(t, dev), hw)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A bridge that was found has the MAC that the LAN knows this host by, whatever TAPs
// and containers come and go: with a NIC as its port, with none yet, or with none any
// more, and when a run that crashed left the TAP on it.
func TestFoundBridgeKeepsMAC(t *testing.T) {
	const nic = "fe:00:00:00:00:01" // a MAC of ours is lower
	for name, before := range map[string]func(t *testing.T){
		"with a NIC": func(t *testing.T) {
			wire(t)
			setMAC(t, "lan0", nic)
			if err := netlink.LinkSetMaster(link(t, "lan0"), link(t, "br-blue")); err != nil {
				t.Fatal(err)
			}
		},
		"with a NIC, after a crash": func(t *testing.T) {
			wire(t)
			setMAC(t, "lan0", nic)
			for _, port := range []string{"lan0", "vx-blue"} {
				if err := netlink.LinkSetMaster(link(t, port), link(t, "br-blue")); err != nil {
					t.Fatal(err)
				}
			}
		},
		"without ports": func(*testing.T) {},
		"without ports any more": func(t *testing.T) {
			newLink(t, &netlink.Veth{LinkAttrs: named("last0"), PeerName: "last1"})
			if err := netlink.LinkSetMaster(link(t, "last0"), link(t, "br-blue")); err != nil {
				t.Fatal(err)
			}
			noMaster(t, "last0")
		},
	} {
		for _, tap := range []encap.MAC{0x0200_0000_0002, 0xfe00_0000_0002} {
			t.Run(fmt.Sprintf("%s, TAP %s", name, tap), func(t *testing.T) {
				h := newHost(t)
				newTAP(t, "vx-blue")
				setMAC(t, "vx-blue", tap.String())
				newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
				before(t)
				if strings.HasPrefix(name, "with a NIC") {
					// A MAC that changes or is set flushes those of the bridge.
					hw, _ := net.ParseMAC("02:42:00:00:00:77")
					if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link(t, "br-blue").Attrs().Index, State: netlink.NUD_PERMANENT,
						IP: net.ParseIP("198.51.100.77"), HardwareAddr: hw}); err != nil {
						t.Fatal(err)
					}
				}
				mac := func() string { return link(t, "br-blue").Attrs().HardwareAddr.String() }
				was := mac()
				if was == "" { // as the zero one is read
					was = BridgeMAC("br-blue", underlay).String()
				}
				wants := func(when string) {
					t.Helper()
					if got := mac(); got != was {
						t.Errorf("%s the bridge has the MAC %s, want %s", when, got, was)
					}
				}
				n := blue()
				n.MAC = tap
				if err := h.Setup(n); err != nil {
					t.Fatal(err)
				}
				wants("with the TAP")
				if _, ok := neighborsNow(t)["198.51.100.77"]; !ok && strings.HasPrefix(name, "with a NIC") {
					t.Error("the administrator's neighbour is gone")
				}
				newLink(t, &netlink.Veth{LinkAttrs: named("cont0"), PeerName: "cont1"})
				setMAC(t, "cont0", fmt.Sprintf("%02x:00:00:00:00:03", byte(tap>>40)))
				if err := netlink.LinkSetMaster(link(t, "cont0"), link(t, "br-blue")); err != nil {
					t.Fatal(err)
				}
				wants("with a container")
				noMaster(t, "cont0")
				wants("without the container")
				if err := h.Undo(); err != nil {
					t.Fatal(err)
				}
				absent(t, "vx-blue")
				wants("without the TAP")
			})
		}
	}
}

// neighborsNow are the permanent neighbours of br-blue by address.
func neighborsNow(t *testing.T) map[string]bool {
	t.Helper()
	list, err := netlink.NeighList(link(t, "br-blue").Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, n := range list {
		if n.State&netlink.NUD_PERMANENT != 0 {
			all[n.IP.String()] = true
		}
	}
	return all
}

// A bridge that was found, and that its owner makes again, has the MAC that peers know
// this host by.
func TestFoundBridgeMadeAgain(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	wire(t)
	setMAC(t, "lan0", "02:00:00:00:00:01")
	if err := netlink.LinkSetMaster(link(t, "lan0"), link(t, "br-blue")); err != nil {
		t.Fatal(err)
	}
	if err := h.Setup(blue()); err != nil {
		t.Fatal(err)
	}
	was := link(t, "br-blue").Attrs().HardwareAddr.String()
	if was != "02:00:00:00:00:01" {
		t.Fatalf("the bridge has the MAC %s, want its port's", was)
	}
	delLink(t, "br-blue")
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	if _, err := h.Repair("blue"); err != nil {
		t.Fatal(err)
	}
	if got := link(t, "br-blue").Attrs().HardwareAddr.String(); got != was {
		t.Errorf("made again the bridge has the MAC %s, want %s", got, was)
	}
}
