package host

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// persistentTAP is a TAP as the engine of a run that was killed left it.
func persistentTAP(t *testing.T, name string, mode netlink.TuntapMode, flags netlink.TuntapFlag) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	newLink(t, &netlink.Tuntap{LinkAttrs: attrs, Mode: mode, Flags: flags})
}

// dies sets networks up on what was found, as a run does that is killed.
func dies(t *testing.T, journal string, routes []Route, networks ...Network) {
	t.Helper()
	h, err := New(underlay, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.KeepJournal(journal); err != nil {
		t.Fatal(err)
	}
	for _, n := range networks {
		if err := h.Setup(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.SetupRoutes(routes); err != nil {
		t.Fatal(err)
	}
	if err := h.Settle(); err != nil {
		t.Fatal(err)
	}
}

// What a run put on links that it found goes with the next run's end, or at its
// start when that run's configuration has it no more.
func TestJournal(t *testing.T) {
	for _, still := range []bool{true, false} {
		h := newHost(t)
		path := filepath.Join(t.TempDir(), "sock.journal")
		newTAP(t, "vx-blue")
		newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
		lan := newLink(t, &netlink.Veth{LinkAttrs: named("lan0"), PeerName: "lan1"})
		out := newLink(t, &netlink.Veth{LinkAttrs: named("out0"), PeerName: "out1"})
		stood := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 9), Mask: net.CIDRMask(24, 32)}}
		if err := errors.Join(netlink.AddrAdd(out, stood), netlink.LinkSetUp(out), netlink.LinkSetUp(link(t, "out1"))); err != nil {
			t.Fatal(err)
		}
		n := blue()
		n.Ports = []string{"lan0"}
		n.Neighbors = []Neighbor{{Address: netip.MustParseAddr("198.51.100.9"), MAC: 0x0242_0000_0009}}
		routes := []Route{{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("192.0.2.1")}}
		dies(t, path, routes, n)

		if err := h.KeepJournal(path); err != nil {
			t.Fatal(err)
		}
		now := n
		if !still {
			now = Network{Name: "blue", Device: "vx-blue", MTU: 1450, Bridge: "br-blue"}
			routes = nil
		}
		if err := errors.Join(h.Setup(now), h.SetupRoutes(routes), h.Settle()); err != nil {
			t.Fatal(err)
		}
		bare := func() bool {
			t.Helper()
			list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
			if err != nil {
				t.Fatal(err)
			}
			neighbors, err := netlink.NeighList(link(t, "br-blue").Attrs().Index, netlink.FAMILY_V4)
			if err != nil {
				t.Fatal(err)
			}
			permanent := 0
			for _, x := range neighbors {
				if x.State&unix.NUD_PERMANENT != 0 {
					permanent++
				}
			}
			port := link(t, "lan0").Attrs()
			all := len(list) + permanent + len(global(t, "br-blue")) + port.MasterIndex + int(port.RawFlags&unix.IFF_UP)
			if all != 0 && all < 7 {
				t.Errorf("still %v: routes %v, neighbours %d, addresses %v, port %+v", still, list, permanent, global(t, "br-blue"), port)
			}
			return all == 0
		}
		if got := bare(); got == still {
			t.Errorf("wanted still: %v, but bare: %v", still, got)
		}
		if err := h.Undo(); err != nil {
			t.Fatal(err)
		}
		if !bare() {
			t.Error("something is left")
		}
		if a := link(t, "br-blue").Attrs(); a.RawFlags&unix.IFF_UP != 0 || link(t, "lan0").Attrs().Index != lan.Attrs().Index {
			t.Errorf("the bridge that was found is %+v", a)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the journal is left: %v", err)
		}
		absent(t, "vx-blue")
		for _, name := range []string{"br-blue", "lan0", "out0"} {
			if err := netlink.LinkDel(link(t, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A journal that is cut off, of another boot, of a run that lives, or none at all
// is no reason to fail, nor to undo anything.
func TestJournalThatIsNone(t *testing.T) {
	h := newHost(t)
	owner, _ := h.HandoverState()
	head := `{"overtap_run":"GONE","boot":"` + bootID() + `"}` + "\n"
	step := `{"do":"take down","link":"lo","index":1}` + "\n"
	for name, c := range map[string]struct {
		text  string
		steps int
	}{
		"one step":     {head + step, 1},
		"cut off":      {head + step + step[:20], 1},
		"other boot":   {`{"overtap_run":"GONE","boot":"x"}` + "\n" + step, 0},
		"lives":        {strings.Replace(head, "GONE", owner, 1) + step, 0},
		"something":    {"something else\n" + step, 0},
		"empty":        {"", 0},
		"unknown step": {head + `{"do":"dance"}` + "\n", 1},
	} {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, steps, err := readJournal(path); err != nil || len(steps) != c.steps {
			t.Errorf("%s: %+v, %v", name, steps, err)
		}
	}
}

// What of a daemon before may go on, and what not.
func TestAdoptDevice(t *testing.T) {
	h := newHost(t)
	const multi, vnet = netlink.TUNTAP_MULTI_QUEUE, netlink.TUNTAP_VNET_HDR
	gone := deviceMark + "GONE"
	for _, c := range []struct {
		name  string
		mode  netlink.TuntapMode
		flags netlink.TuntapFlag
		alias string
		adopt bool
		stays bool
	}{
		{"as it should be", netlink.TUNTAP_MODE_TAP, multi | vnet | netlink.TUNTAP_NO_PI, gone, true, true},
		{"TUN", netlink.TUNTAP_MODE_TUN, multi | vnet | netlink.TUNTAP_NO_PI, gone, false, false},
		{"one queue", netlink.TUNTAP_MODE_TAP, vnet | netlink.TUNTAP_NO_PI, gone, false, false},
		{"plain", netlink.TUNTAP_MODE_TAP, multi | netlink.TUNTAP_NO_PI, gone, false, false},
		{"of another program", netlink.TUNTAP_MODE_TAP, multi | vnet | netlink.TUNTAP_NO_PI, "", false, true},
		{"of one that lives", netlink.TUNTAP_MODE_TAP, multi | vnet | netlink.TUNTAP_NO_PI, deviceMark + newHost(t).owner.id, false, true},
	} {
		persistentTAP(t, "vx-old", c.mode, c.flags)
		if c.alias != "" {
			if err := netlink.LinkSetAlias(link(t, "vx-old"), c.alias); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := h.Adopt("vx-old", false, true, true); err != nil || got != c.adopt {
			t.Errorf("%s: adopted %v, %v", c.name, got, err)
		}
		l, err := netlink.LinkByName("vx-old")
		if (err == nil) != c.stays {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Devices and bridges of a run that is gone are removed when no configuration wants them, and
// those of one that lives are not.
func TestSettleRemovesOrphans(t *testing.T) {
	h, other := newHost(t), newHost(t)
	alias := func(name, to string) {
		t.Helper()
		if err := netlink.LinkSetAlias(link(t, name), to); err != nil {
			t.Fatal(err)
		}
	}
	persistentTAP(t, "vx-old", netlink.TUNTAP_MODE_TAP, 0)
	persistentTAP(t, "vx-other", netlink.TUNTAP_MODE_TAP, 0)
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-old")})
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-mine")})
	alias("vx-old", deviceMark+"GONE")
	alias("br-old", bridgeMark+"GONE")
	alias("vx-other", deviceMark+other.owner.id)
	alias("br-mine", "overtap is what this bridge is for")
	persistentTAP(t, "vx-else", netlink.TUNTAP_MODE_TAP, 0)
	alias("vx-else", deviceMark+"ELSE") // of a daemon with another journal that is gone as well
	path := filepath.Join(t.TempDir(), "journal")
	head := `{"overtap_run":"DEAD","boot":"` + bootID() + `","before":["GONE"]}` + "\n"
	if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.KeepJournal(path), h.Settle()); err != nil {
		t.Fatal(err)
	}
	absent(t, "vx-old")
	absent(t, "br-old")
	link(t, "vx-else")
	link(t, "vx-other")
	link(t, "br-mine")
}

// A journal that another user may have written is refused, and none is followed to
// where a link leads.
func TestJournalIsOurs(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"writable by others": func(path string) error { return os.Chmod(path, 0o666) },
		"another's":          func(path string) error { return os.Chown(path, 65534, 65534) },
		"a link":             func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) },
	} {
		h := newHost(t)
		path := filepath.Join(t.TempDir(), "journal")
		if err := errors.Join(os.WriteFile(path, []byte(`{"overtap_run":"GONE","boot":"`+bootID()+`"}`+"\n"), 0o600), spoil(path)); err != nil {
			t.Fatal(err)
		}
		if err := h.KeepJournal(path); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}

// A bridge that a run made and could not mark before it was killed is known by the
// journal.
func TestBridgeInTheMaking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	head := `{"overtap_run":"GONE","boot":"` + bootID() + `"}` + "\n"
	if err := os.WriteFile(path, []byte(head+`{"do":"remove bridge","link":"br-blue"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	newTAP(t, "vx-blue")
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	if err := h.KeepJournal(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Setup(blue()), h.Settle()); err != nil {
		t.Fatal(err)
	}
	if !h.ours(bridgeMark, link(t, "br-blue")) {
		t.Error("it is not ours")
	}
	if err := h.Undo(); err != nil {
		t.Fatal(err)
	}
	absent(t, "br-blue")
}
