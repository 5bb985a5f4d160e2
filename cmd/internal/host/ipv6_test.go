package host

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// wantIPv6 checks how the link may be configured by others, and whether it has a
// link-local address.
func wantIPv6(t *testing.T, dev string, local bool) {
	t.Helper()
	mode := "1"
	if local {
		mode = "0"
	}
	for key, want := range map[string]string{"accept_ra": "0", "autoconf": "0", "accept_redirects": "0", "addr_gen_mode": mode} {
		if got, err := readIPv6(dev, key); err != nil || got != want {
			t.Errorf("%s of %s is %q, want %q (%v)", key, dev, got, want, err)
		}
	}
	if got := linkLocal(t, dev); (got != "") != local {
		t.Errorf("%s has the link-local address %q, wanted: %v", dev, got, local)
	}
}

func linkLocal(t *testing.T, dev string) (all string) {
	t.Helper()
	list, err := netlink.AddrList(link(t, dev), netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.IP.IsLinkLocalUnicast() {
			all += a.IP.String()
		}
	}
	return all
}

func writeIPv6(t *testing.T, dev, key, value string) {
	t.Helper()
	if err := os.WriteFile(ipv6Key(dev, key), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// only keeps a network's addresses of one family.
func only(n Network, v6 bool) Network {
	var some []netip.Prefix
	for _, a := range n.Addresses {
		if a.Addr().Is6() == v6 {
			some = append(some, a)
		}
	}
	n.Addresses = some
	return n
}

// What is made here is configured by the configuration alone, and has a
// link-local address only where that asks for IPv6; a crash before, an administrator
// and a reload change nothing in that.
func TestNoAutoconf(t *testing.T) {
	noBridge := blue()
	noBridge.Bridge = ""
	for name, tc := range map[string]struct {
		n     Network
		local bool // of the carrier
	}{
		"a bridge with IPv4": {only(blue(), false), false},
		"a bridge with IPv6": {blue(), true},
		"a TAP with IPv4":    {only(noBridge, false), false},
		"a TAP with IPv6":    {noBridge, true},
	} {
		t.Run(name, func(t *testing.T) {
			carrier := "br-blue"
			if tc.n.Bridge == "" {
				carrier = "vx-blue"
			}
			all := func() {
				t.Helper()
				wantIPv6(t, carrier, tc.local)
				if carrier != "vx-blue" {
					wantIPv6(t, "vx-blue", false)
				}
			}
			newTAP(t, "vx-blue")
			crashedHost(t, tc.n)
			all()
			for _, key := range unconfigured {
				writeIPv6(t, carrier, key, "1")
				writeIPv6(t, "vx-blue", key, "1")
			}
			writeIPv6(t, carrier, "addr_gen_mode", "0") // makes an address
			h := newHost(t)
			if err := h.Setup(tc.n); err != nil {
				t.Fatal(err)
			}
			all()

			writeIPv6(t, carrier, "accept_ra", "2")
			put, err := h.Repair("blue")
			if err != nil || strings.Join(put, ", ") != "accept_ra of "+carrier {
				t.Errorf("put back %q, %v", put, err)
			}
			all()
			if put, err := h.Repair("blue"); err != nil || len(put) > 0 {
				t.Errorf("put back again: %q, %v", put, err)
			}

			tc.local = !tc.local
			if err := h.Change(only(tc.n, tc.local)); err != nil {
				t.Fatal(err)
			}
			if tc.local {
				n := tc.n
				n.Addresses = blue().Addresses
				if err := h.Change(n); err != nil {
					t.Fatal(err)
				}
			}
			all()
		})
	}
}

// A bridge that was found stays as it is, and is named.
func TestAdvertisementsOfFoundBridge(t *testing.T) {
	h := newHost(t)
	newTAP(t, "vx-blue")
	newLink(t, &netlink.Bridge{LinkAttrs: named("br-blue")})
	n := only(blue(), false)
	if err := h.Setup(n); err != nil {
		t.Fatal(err)
	}
	wantIPv6(t, "vx-blue", false)
	if got, err := readIPv6("br-blue", "accept_ra"); err != nil || got != "1" {
		t.Errorf("accept_ra of a bridge that was found is %s, want it as it was (%v)", got, err)
	}
	if text := Advertisements(n); !strings.Contains(text, "br-blue takes router advertisements") {
		t.Errorf("said of it: %q", text)
	}
	for _, off := range [][2]string{{"accept_ra", "0"}, {"forwarding", "1"}, {"disable_ipv6", "1"}} {
		was, err := readIPv6("br-blue", off[0])
		if err != nil {
			t.Fatal(err)
		}
		writeIPv6(t, "br-blue", off[0], off[1])
		if text := Advertisements(n); text != "" {
			t.Errorf("with %s=%s it says %q", off[0], off[1], text)
		}
		writeIPv6(t, "br-blue", off[0], was)
	}
	writeIPv6(t, "br-blue", "forwarding", "1")
	writeIPv6(t, "br-blue", "accept_ra", "2")
	if Advertisements(n) == "" {
		t.Error("nothing is said of a router's bridge with accept_ra=2")
	}
}

// A bridge in the place of a port has the settings that the host chose for the port.
func TestBridgeTakesThePortsIPv6(t *testing.T) {
	for _, accept := range []string{"0", "1"} {
		h := newHost(t)
		n := lan(t)
		writeIPv6(t, "lan0", "accept_ra", accept)
		if err := h.Setup(n); err != nil {
			t.Fatal(err)
		}
		if got, err := readIPv6("br-blue", "accept_ra"); err != nil || got != accept {
			t.Errorf("accept_ra of the bridge is %s, want the port's, %s (%v)", got, accept, err)
		}
		if linkLocal(t, "br-blue") == "" {
			t.Error("the bridge has no link-local address")
		}
		if err := h.Undo(); err != nil {
			t.Fatal(err)
		}
		delLink(t, "lan0")
	}
}
