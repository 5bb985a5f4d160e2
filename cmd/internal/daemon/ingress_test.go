package daemon

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"overtap/cmd/internal/attach"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
)

// guard is what the engine was last given to refuse.
func (e *fakeEngine) guard() dataplane.Ingress {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ingress) == 0 {
		return dataplane.Ingress{}
	}
	return e.ingress[len(e.ingress)-1]
}

func (e *fakeEngine) refuses(t *testing.T, device string) bool {
	t.Helper()
	return slices.Contains(e.guard().Devices, by(t, device).Attrs().Index)
}

// The engine refuses what comes by the networks' devices: by those that stand before
// it receives, and by those that are made, come and go while it runs.
func TestGuard(t *testing.T) {
	underlay(t)
	// Of a run before: it has containers on it when the engine starts.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br-blue"
	do(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	t.Cleanup(func() { do(t, netlink.LinkDel(by(t, "br-blue"))) })
	first := -1
	r, _ := followed(t, twoNetworks, func(o *Options) {
		start := o.NewEngine
		o.NewEngine = func(b linux.Options, x dataplane.Options) (Engine, error) {
			e, err := start(b, x)
			if err == nil {
				e.(*fakeEngine).refuse = func(dataplane.Desired) error {
					if first < 0 {
						first = len(e.(*fakeEngine).ingress)
					}
					return nil
				}
			}
			return e, err
		}
	})
	e := r.engine
	if first != 1 || !slices.Contains(e.ingress[0].Devices, by(t, "br-blue").Attrs().Index) {
		t.Errorf("before the engine received it was given %d, %+v", first, e.ingress[0])
	}
	for _, device := range []string{"blue", "red", "br-blue"} {
		if !e.refuses(t, device) {
			t.Errorf("what comes by %s is taken", device)
		}
	}
	if e.refuses(t, "u1") {
		t.Error("what comes by the underlay's device is refused")
	}
	into := func(prefix string, want bool) {
		t.Helper()
		got := slices.Contains(e.guard().Routes, dataplane.IngressRoute{Prefix: netip.MustParsePrefix(prefix), Overlay: true})
		if got != want {
			t.Errorf("the route to %s leads into a network: %t, want %t", prefix, got, want)
		}
	}
	into("198.51.100.0/24", true)

	attrs = netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = "patch", by(t, "br-blue").Attrs().Index
	do(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "patchp"}))
	index := by(t, "patchp").Attrs().Index
	eventually(t, "what comes by the other end of a port is refused", func() bool { return e.refuses(t, "patchp") })
	do(t, netlink.LinkSetNoMaster(by(t, "patch")))
	eventually(t, "it is taken again", func() bool { return !slices.Contains(e.guard().Devices, index) })
	do(t, netlink.LinkDel(by(t, "patch")))

	// A container's port is there before its attachment is answered.
	ns := space(t, "c9")
	_, err := r.client.Attach(t.Context(), ns, attach.Request{
		Network: "blue", Target: "c9", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/24")}})
	do(t, err)
	if !e.refuses(t, "br-blue") {
		t.Error("what comes by the bridge is taken after an attachment")
	}
	_, err = r.client.Detach(t.Context(), ns, attach.Selector{Network: "blue", Target: "c9"})
	do(t, err)

	// A peer's address that is routed into a network is said, once.
	address, err := netlink.ParseAddr("192.0.2.2/32")
	do(t, err)
	into("192.0.2.2/32", false)
	do(t, netlink.RouteAdd(&netlink.Route{LinkIndex: by(t, "br-blue").Attrs().Index, Dst: address.IPNet}))
	more, err := netlink.ParseAddr("203.0.113.1/24")
	do(t, err)
	do(t, netlink.AddrAdd(by(t, "br-blue"), more)) // any event of it
	eventually(t, "the warning", func() bool { return r.said("this host routes peers into its own networks: 192.0.2.2") == 1 })
	into("192.0.2.2/32", true)
	into("203.0.113.0/24", true)
	do(t, r.end(t))
}
