package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/dataplane/netio/linux"
	"overtap/encap"
)

// engines hands out a fake engine for every start, and refuses as long as a
// test says so.
type engines struct {
	mu     sync.Mutex
	t      *testing.T
	all    []*fakeEngine
	tried  int
	refuse error
}

func (e *engines) start(linux.Options, dataplane.Options) (Engine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tried++
	if e.refuse != nil {
		return nil, e.refuse
	}
	if e.tried > 1 {
		e.all = append(e.all, newFakeEngine(e.t))
	}
	return e.all[len(e.all)-1], nil
}

func (e *engines) tries() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tried
}

func (e *engines) set(refuse error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuse = refuse
}

func (e *engines) last() *fakeEngine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[len(e.all)-1]
}

// followed is a daemon on the underlay device u1 whose engine may be started
// again.
func followed(t *testing.T, networks string, more func(*Options)) (*running, *engines) {
	t.Helper()
	r, o := prepare(t, networks)
	e := &engines{t: t, all: []*fakeEngine{r.engine}}
	o.NewEngine = e.start
	if more != nil {
		more(&o)
	}
	start(t, r, o)
	return r, e
}

func onU1(o *Options) { o.Config.Underlay.Device = "u1" }

func by(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func (r *running) problems(t *testing.T) []string {
	t.Helper()
	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Ready != (len(s.Problems) == 0) {
		t.Errorf("ready %v with problems %q", s.Ready, s.Problems)
	}
	return s.Problems
}

func (r *running) said(what string) int { return strings.Count(r.log.String(), what) }

// awaitReady waits until nothing is wrong, awaitProblem until what is said is.
func (r *running) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, "ready again", func() bool { return len(r.problems(t)) == 0 })
}

func (r *running) awaitProblem(t *testing.T, what string) {
	t.Helper()
	eventually(t, what, func() bool {
		return slices.ContainsFunc(r.problems(t), func(p string) bool { return strings.Contains(p, what) })
	})
}

func readyz(t *testing.T) int {
	t.Helper()
	resp, err := http.Get("http://127.0.0.1:9472/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	return resp.StatusCode
}

func entry(network string, mac encap.MAC, peer string) control.Entry {
	return control.Entry{Network: network, MAC: mac, Peer: addr(peer)}
}

func u1Address(t *testing.T) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// An underlay address that is gone is said once and seen in status and readyz;
// back again, the same engine goes on.
func TestUnderlayAddressGone(t *testing.T) {
	underlay(t)
	r, e := followed(t, twoNetworks, nil)
	u1 := by(t, "u1")
	for round := 1; round <= 2; round++ {
		do(t, netlink.AddrDel(u1, u1Address(t)))
		r.awaitProblem(t, "the underlay address 192.0.2.1 is not on this host")
		if code := readyz(t); code != http.StatusServiceUnavailable {
			t.Errorf("readyz answers %d", code)
		}
		do(t, netlink.LinkSetDown(u1), netlink.LinkSetUp(u1)) // further events
		time.Sleep(2 * debounce)
		do(t, netlink.AddrAdd(u1, u1Address(t)))
		r.awaitReady(t)
		if r.said("the underlay is gone") != round || r.said("the underlay is back") != round {
			t.Errorf("log:\n%s", r.log)
		}
	}
	do(t, netlink.LinkSetDown(u1))
	r.awaitProblem(t, "the underlay's device u1 is down: set it up with `ip link set u1 up`")
	do(t, netlink.LinkSetUp(u1))
	r.awaitReady(t)
	if code := readyz(t); code != http.StatusOK {
		t.Errorf("readyz answers %d", code)
	}
	if n := e.tries(); n != 1 {
		t.Errorf("%d engines", n)
	}
	do(t, r.end(t))
}

// remake deletes the underlay's device and makes it again.
func remake(t *testing.T, between func()) {
	t.Helper()
	do(t, netlink.LinkDel(by(t, "u1")))
	between()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "u1"
	do(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "u2"}))
	do(t, netlink.AddrAdd(by(t, "u1"), u1Address(t)), netlink.LinkSetUp(by(t, "u1")))
}

// Sockets that are bound to a device die with it: when it was made again, the
// engine is too, with all that the command line said, and the host is set up
// around the new TAPs.
func TestUnderlayDeviceMadeAnew(t *testing.T) {
	underlay(t)
	before := links(t)
	r, e := followed(t, twoNetworks, onU1)
	_, err := r.client.AddFDB(t.Context(), entry("blue", 0x020000000001, "192.0.2.3"))
	do(t, err)
	first := e.last()
	remake(t, func() { r.awaitProblem(t, "the underlay device u1 does not exist") })
	r.awaitReady(t)
	eventually(t, "the new engine", func() bool { return e.tries() == 2 })
	select {
	case <-first.closed:
	default:
		t.Error("the old engine is not closed")
	}
	if m, _ := e.last().entries("blue"); len(m) != 2 {
		t.Errorf("entries of the new engine: %v", m)
	}
	br := by(t, "br-blue").Attrs()
	eventually(t, "the new TAP on its bridge", func() bool {
		a := by(t, "blue").Attrs()
		return a.MasterIndex == br.Index && a.RawFlags&unix.IFF_UP != 0
	})
	if n := r.said("learned entries are lost"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
	if n := r.said("put back"); n != 0 {
		t.Errorf("the log blames another program for what the daemon did:\n%s", r.log)
	}

	// The new engine's events are heard.
	e.last().lose("blue", "blue")
	eventually(t, "the repair", func() bool { return r.said("opened again, learned") == 1 })
	remake(t, func() {}) // too fast to be seen as gone
	eventually(t, "the third engine", func() bool { return e.tries() == 3 })
	r.awaitReady(t)
	do(t, r.end(t))
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
}

// A device that comes back while its address is not usable yet is tried again;
// one that never works ends the daemon with the reason.
func TestEngineCannotRestart(t *testing.T) {
	underlay(t)
	before := links(t)
	r, e := followed(t, twoNetworks, onU1)
	e.set(errors.New("bind: cannot assign requested address"))
	remake(t, func() {})
	r.awaitProblem(t, "cannot assign requested address")
	eventually(t, "the second try", func() bool { return e.tries() >= 3 })
	if _, err := r.client.AddFDB(t.Context(), entry("blue", 0x020000000001, "192.0.2.3")); err == nil {
		t.Error("an entry was added to a closed engine")
	}
	e.set(nil)
	r.awaitReady(t)
	do(t, r.end(t))
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
}

// A derived MTU shrinks with the underlay's and grows back; one that is
// configured stays, with a warning.
func TestUnderlayMTU(t *testing.T) {
	underlay(t)
	r, e := followed(t, twoNetworks, func(o *Options) { o.Config.VXLAN[1].MTU = 1450 })
	mtus := func() (blue, red encap.OverlayMTU) {
		e.last().mu.Lock()
		defer e.last().mu.Unlock()
		for _, n := range e.last().desired.Networks {
			switch n.Name {
			case "blue":
				blue = n.MTU
			case "red":
				red = n.MTU
			}
		}
		return blue, red
	}
	for _, step := range []struct {
		underlay int
		blue     encap.OverlayMTU
		log      string
	}{
		{1400, 1350, "has another MTU"},
		{1500, 1450, "has another MTU"},
		{9000, 1450, "could carry more"},
		{1300, 1250, "no longer fits the underlay"},
	} {
		said := r.said(step.log)
		do(t, netlink.LinkSetMTU(by(t, "u1"), step.underlay))
		eventually(t, fmt.Sprintf("underlay %d", step.underlay), func() bool {
			blue, _ := mtus()
			l, err := netlink.LinkByName("br-blue")
			return blue == step.blue && err == nil && l.Attrs().MTU == int(step.blue) && r.said(step.log) > said
		})
		r.awaitReady(t)
		tap := by(t, "blue").Attrs()
		if tap.MTU != int(step.blue) || tap.MasterIndex != by(t, "br-blue").Attrs().Index {
			t.Errorf("TAP: %+v", tap)
		}
		if _, red := mtus(); red != 1450 {
			t.Errorf("the configured MTU is %d", red)
		}
		s, err := r.client.Status(t.Context())
		if err != nil || !s.Ready || int(s.Underlay.MTU) != step.underlay || s.Networks[0].MTU != step.blue {
			t.Errorf("status %+v, %v", s, err)
		}
	}
	do(t, r.end(t))
}

// What another program removes is put back and named once; one that does so again and again
// finds the daemon ever slower.
func TestPutBack(t *testing.T) {
	underlay(t)
	do(t, netlink.LinkSetUp(by(t, "u2")))
	r, _ := followed(t, twoNetworks+"[[route]]\nprefix = \"172.246.0.0/24\"\nvia = \"192.0.2.9\"\n", nil)
	own, err := netlink.ParseAddr("198.51.100.1/24")
	do(t, err)
	has := func() bool {
		list, err := netlink.AddrList(by(t, "br-blue"), netlink.FAMILY_V4)
		return err == nil && len(list) == 1
	}
	do(t, netlink.AddrDel(by(t, "br-blue"), own))
	eventually(t, "the address", func() bool { return has() && r.said("put back") > 0 })
	if r.said("put back") != 1 || r.said("the address 198.51.100.1/24 of br-blue") != 1 {
		t.Errorf("log:\n%s", r.log)
	}

	// Beside it the routes are cared for on their own.
	_, dst, err := net.ParseCIDR("172.246.0.0/24")
	do(t, err)
	ours := func() []netlink.Route {
		list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst, Protocol: 79}, netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL)
		do(t, err)
		return list
	}
	do(t, netlink.RouteDel(&ours()[0]))
	eventually(t, "the route", func() bool { return len(ours()) == 1 })

	puts := 0
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if has() {
			puts++
			do(t, netlink.AddrDel(by(t, "br-blue"), own))
		}
	}
	if puts < 2 || puts > 4 { // at 0, 1 and 3 s
		t.Errorf("put back %d times in 4 s:\n%s", puts, r.log)
	}
	do(t, r.end(t))
	if list := ours(); len(list) > 0 {
		t.Errorf("routes left: %v", list)
	}
}

// A bridge that was found and is deleted is waited for.
func TestFoundBridgeDeleted(t *testing.T) {
	underlay(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br-blue"
	found := &netlink.Bridge{LinkAttrs: attrs}
	do(t, netlink.LinkAdd(found))
	t.Cleanup(func() { do(t, netlink.LinkDel(by(t, "br-blue"))) })
	r, _ := followed(t, twoNetworks, nil)
	do(t, netlink.LinkDel(by(t, "br-blue")))
	r.awaitProblem(t, "the bridge br-blue is gone, which was not made here")
	time.Sleep(3 * time.Second) // polls in between say nothing
	if n := r.said("not all that is configured is in place"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
	do(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	r.awaitReady(t)
	if a := by(t, "blue").Attrs(); a.MasterIndex != by(t, "br-blue").Attrs().Index {
		t.Errorf("TAP: %+v", a)
	}
	do(t, r.end(t))
}

// A device that lends the underlay address to the bridge: the sockets that are
// bound to its link, for a group, are opened on the bridge.
func TestPortsTakeUnderlay(t *testing.T) {
	underlay(t)
	config := strings.Replace(twoNetworks, "bridge = \"br-blue\"", "bridge = \"br-blue\"\nports = [\"u1\"]\nports_take_addresses = true\ngroup = \"239.1.1.1\"", 1)
	r, e := followed(t, config, nil)
	if n := e.tries(); n != 2 {
		t.Errorf("%d engines", n)
	}
	if list, err := netlink.AddrList(by(t, "u1"), netlink.FAMILY_V4); err != nil || len(list) > 0 {
		t.Errorf("addresses of u1: %v, %v", list, err)
	}
	time.Sleep(3 * debounce)
	// u1's MTU is above the network's, and the bridge is the underlay's and takes
	// router advertisements, as u1 did.
	if p := r.problems(t); len(p) > 0 {
		t.Errorf("problems %q", p)
	}
	warnings := []string{
		"has no peers and no group", // red
		"MTU is above the network's",
		"the underlay's device br-blue carries frames of a network too",
		"br-blue takes router advertisements",
	}
	for _, w := range warnings {
		if r.said(w) != 1 {
			t.Errorf("%q is not logged once", w)
		}
	}
	if r.said("level=WARN") != len(warnings) {
		t.Errorf("the log:\n%s", r.log)
	}
	do(t, r.end(t))
	if list, err := netlink.AddrList(by(t, "u1"), netlink.FAMILY_V4); err != nil || len(list) != 1 {
		t.Errorf("addresses of u1: %v, %v", list, err)
	}
}

// A bridge that is made again has the containers that were attached to the old
// one.
func TestBridgeDeletedUnderAttachment(t *testing.T) {
	underlay(t)
	ns := space(t, "c1")
	r, _ := followed(t, twoNetworks, nil)
	made, err := r.client.Attach(t.Context(), ns, attach.Request{
		Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}})
	do(t, err)
	do(t, netlink.LinkDel(by(t, "br-blue")))
	eventually(t, "the container on the new bridge", func() bool {
		br, err := netlink.LinkByName("br-blue")
		return err == nil && by(t, made.Veth).Attrs().MasterIndex == br.Attrs().Index
	})
	r.awaitReady(t)
	_, err = r.client.Detach(t.Context(), ns, attach.Selector{Network: "blue", Target: "c1"})
	do(t, err)
	do(t, r.end(t))
}
