package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/cmd/internal/netnstest"
)

// The tests' own namespace is the host; containers are hosts of a lab.
func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

var blue = Network{Name: "blue", Bridge: "br-blue", MTU: 1450, MAC: 0x0242_c000_0201}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// addBridge makes a bridge that is up, until the test's end.
func addBridge(t *testing.T, name string) netlink.Link {
	t.Helper()
	netnstest.Require(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Error(err)
			}
		}
	})
	return br
}

// newAttacher returns one whose attachments go at the test's end.
func newAttacher(t *testing.T) *Attacher {
	t.Helper()
	netnstest.Require(t)
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "veth" && !strings.HasPrefix(l.Attrs().Name, "otveth") {
				t.Errorf("a veth of another name: %s", l.Attrs().Name)
			}
			if l.Type() == "veth" {
				// Its container may die at the same time.
				if err := netlink.LinkDel(l); err != nil && !notThere(err) {
					t.Error(err)
				}
			}
		}
	})
	return a
}

// container makes a namespace and opens it until the test's end.
func container(t *testing.T, lab *netlab.Lab, name string) (*netlab.Host, *os.File) {
	t.Helper()
	h, err := lab.AddHost(name)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(filepath.Join(namespaceDir, h.Namespace()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return h, ns
}

func attach(t *testing.T, a *Attacher, n Network, ns *os.File, r Request) Made {
	t.Helper()
	r.Network = n.Name
	m, err := a.Attach(t.Context(), n, ns, r)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// state lists all that an attachment changes in a namespace: links and whether
// they are up, addresses, routes. What comes and goes by itself is left out.
func state(t *testing.T, h *netlink.Handle) string {
	t.Helper()
	links, err := untorn(h.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range links {
		a := l.Attrs()
		lines = append(lines, fmt.Sprintf("link %s up=%v master=%d mtu=%d alias=%q", a.Name, a.RawFlags&1, a.MasterIndex, a.MTU, a.Alias))
	}
	addresses, err := untorn(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if !a.IP.IsLinkLocalUnicast() && !a.IP.IsLoopback() {
			lines = append(lines, fmt.Sprintf("address %s on %d", a.IPNet, a.LinkIndex))
		}
	}
	routes, err := untorn(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintf("route %s via %s on %d", r.Dst, r.Gw, r.LinkIndex))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// inNamespace returns a netlink handle of a container.
func inNamespace(t *testing.T, h *netlab.Host) *netlink.Handle {
	t.Helper()
	nl, err := h.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	return nl
}

// pings fails the test unless every address answers.
func pings(t *testing.T, from *netlab.Host, to ...string) {
	t.Helper()
	for _, a := range to {
		r, err := netlab.Ping(from, netip.MustParseAddr(a), netlab.PingOptions{Count: 3, Timeout: 2 * time.Second, DF: true, Size: 1400})
		if err != nil || r.Received != 3 {
			t.Errorf("ping from %s to %s: %v, %v", from.Name(), a, r, err)
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// errGone is what a brittle context ends with.
var errGone = errors.New("the one who asked has gone")

// brittle is a context that ends at its n-th look.
type brittle struct {
	context.Context
	left int
}

func (b *brittle) Err() error {
	if b.left--; b.left < 0 {
		return errGone
	}
	return nil
}

func newLab(t *testing.T) *netlab.Lab {
	t.Helper()
	netnstest.Require(t)
	return netlabtest.New(t)
}
