package daemon

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/cmd/internal/attach"
	"overtap/dataplane"
)

func (r *running) warnings(t *testing.T) []string {
	t.Helper()
	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Warnings
}

func (r *running) awaitWarning(t *testing.T, what string, there bool) {
	t.Helper()
	eventually(t, what, func() bool {
		return slices.ContainsFunc(r.warnings(t), func(w string) bool { return strings.Contains(w, what) }) == there
	})
}

// A daemon without the underlay's address waits for it, says so, and is asked for
// nothing; then it starts as it would have.
func TestWaitsForUnderlay(t *testing.T) {
	underlay(t)
	before := links(t)
	u1 := by(t, "u1")
	do(t, netlink.AddrDel(u1, u1Address(t)))
	notified := notifySocket(t)
	r, o := prepare(t, twoNetworks+"[[route]]\nprefix = \"172.246.0.0/24\"\nvia = \"192.0.2.9\"\n")
	begin(t, r, o)
	r.answers(t)
	const waits = "waiting for the underlay: the underlay address 192.0.2.1 is not on this host"
	r.awaitProblem(t, waits)
	if got := notified(); !strings.HasPrefix(got, "STATUS=not ready: "+waits[:40]) {
		t.Errorf("notified %q", got)
	}
	if got := notified(); got != "READY=1" { // what comes after it at boot goes on
		t.Errorf("notified %q", got)
	}
	if code := readyz(t); code != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %d", code)
	}
	if _, err := r.client.AddFDB(t.Context(), entry("blue", 0x020000000001, "192.0.2.3")); err == nil || !strings.Contains(err.Error(), "waits for the underlay") {
		t.Errorf("an entry: %v", err)
	}
	if n := r.said("not ready: waiting for the underlay"); n != 1 || r.said("msg=ready") != 0 || links(t) != before {
		t.Errorf("links %s, log:\n%s", links(t), r.log)
	}
	do(t, netlink.LinkSetUp(by(t, "u2")), netlink.AddrAdd(u1, u1Address(t)))
	r.awaitReady(t)
	eventually(t, "the line", func() bool { return r.said("msg=ready") == 1 })
	if got := notified(); got != "STATUS=ready" {
		t.Errorf("notified %q", got)
	}
	if m, _ := r.engine.entries("blue"); len(m) != 1 || by(t, "blue").Attrs().MasterIndex != by(t, "br-blue").Attrs().Index {
		t.Errorf("entries %v", m)
	}
	// What was set up late is followed like anything: its routes too.
	ours := &netlink.Route{Protocol: 79}
	routes := func() []netlink.Route {
		list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, ours, netlink.RT_FILTER_PROTOCOL)
		do(t, err)
		return list
	}
	time.Sleep(3 * debounce) // until the events of routes are subscribed to
	do(t, netlink.RouteDel(&routes()[0]))
	eventually(t, "the route is put back", func() bool { return len(routes()) == 1 })
	do(t, r.end(t))
	if after := links(t); after != before {
		t.Errorf("links before: %s\nafter: %s", before, after)
	}
}

// An IPv6 address that is tentative is waited for, one that another host has too.
func TestTentativeUnderlay(t *testing.T) {
	underlay(t)
	do(t, netlink.LinkSetUp(by(t, "u2")))
	r, o := prepare(t, twoNetworks)
	o.Config.Underlay.Address = netip.MustParseAddr("2001:db8::9")
	o.Config.VXLAN = o.Config.VXLAN[1:] // red, which has no peer of the other family
	for _, n := range []string{"dad_transmits", "accept_dad"} {
		do(t, os.WriteFile("/proc/sys/net/ipv6/conf/u1/"+n, []byte("1"), 0))
	}
	a, err := netlink.ParseAddr("2001:db8::9/64")
	do(t, err, netlink.AddrAdd(by(t, "u1"), a))
	begin(t, r, o)
	eventually(t, "ready", func() bool { return r.said("msg=ready") == 1 })
	if r.said("is tentative: duplicate address detection is not over") == 0 {
		t.Errorf("log:\n%s", r.log)
	}
	do(t, r.end(t))
}

// answers waits until the daemon does, by its control socket.
func (r *running) answers(t *testing.T) {
	t.Helper()
	eventually(t, "the control socket", func() bool {
		_, err := r.client.Status(t.Context())
		return err == nil
	})
}

// hasProblem checks which networks the status says have a problem.
func (r *running) hasProblem(t *testing.T, want ...string) {
	t.Helper()
	s, err := r.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range s.Networks {
		if n.Problem {
			got = append(got, n.Network)
		}
	}
	if !slices.Equal(got, want) || len(s.Networks) < 2 {
		t.Errorf("of %d networks %q have a problem, want %q", len(s.Networks), got, want)
	}
}

// A TAP that someone sets down, and a port that the spanning tree does not let
// forward, are no "ready".
func TestNetworkCutOff(t *testing.T) {
	underlay(t)
	r, _ := followed(t, twoNetworks, nil)
	tap := by(t, "blue")
	do(t, netlink.LinkSetDown(tap))
	r.awaitProblem(t, "network blue: its device blue is down: set it up with `ip link set blue up`")
	if code := readyz(t); code != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %d", code)
	}
	r.hasProblem(t, "blue")
	for network, want := range map[string]string{"blue": "[{status note drop(0) not ready, which the steps below leave out: network blue: its device blue is down: set it up with `ip link set blue up`}]", "red": "[]"} {
		x, err := r.client.Explain(t.Context(), dataplane.Query{Network: network})
		if got := fmt.Sprint(x.Steps); err != nil || got != want {
			t.Errorf("%s: steps %s, %v; want %s", network, got, err, want)
		}
	}
	do(t, netlink.LinkSetUp(tap))
	r.awaitReady(t)
	r.hasProblem(t)
	br := by(t, "br-blue")
	do(t, netlink.LinkSetDown(br))
	r.awaitProblem(t, "br-blue is down: set it up with `ip link set br-blue up`")
	r.hasProblem(t, "blue")
	do(t, netlink.LinkSetUp(br))
	r.awaitReady(t)
	eventually(t, "the log", func() bool {
		return r.said("its device blue is down") == 1 && r.said("device of network blue: the problem is over") == 1
	})
	do(t, r.end(t))
}

// On a bridge with a spanning tree "ready" is said once the TAP's port forwards.
func TestSpanningTree(t *testing.T) {
	underlay(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br-blue"
	do(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	t.Cleanup(func() { do(t, netlink.LinkDel(by(t, "br-blue"))) })
	do(t, netlab.SpanningTree("br-blue", true, 2*time.Second))
	r, o := prepare(t, twoNetworks)
	begun := time.Now()
	begin(t, r, o)
	r.answers(t)
	r.awaitProblem(t, "network blue: waiting for the spanning tree of br-blue, which keeps the port blue")
	if r.said("msg=ready") != 0 {
		t.Errorf("log:\n%s", r.log)
	}
	eventually(t, "ready", func() bool { return r.said("msg=ready") == 1 })
	if took := time.Since(begun); took < 3500*time.Millisecond { // twice the delay, and a tick less
		t.Errorf("ready after %v", took)
	}
	if p := r.problems(t); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
	do(t, r.end(t))
}

// What cuts one container off is a warning, in status and in the log, until it is
// over.
func TestContainerCutOff(t *testing.T) {
	underlay(t)
	ns := space(t, "c1")
	r, _ := followed(t, twoNetworks, nil)
	made, err := r.client.Attach(t.Context(), ns, attach.Request{
		Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}})
	do(t, err)
	// Another, which was put on the bridge by hand.
	for _, name := range []string{"v1", "v2"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.MTU = name, by(t, "br-blue").Attrs().Index, 1450
		do(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "c", PeerMTU: 1450}))
		do(t, netlink.LinkSetUp(by(t, name)), netlink.LinkSetUp(by(t, name+"c")))
		t.Cleanup(func() { do(t, netlink.LinkDel(by(t, name))) })
	}
	v1, veth := by(t, "v1"), by(t, made.Veth)
	for _, c := range []struct {
		about, text string
		break_, fix func() error
	}{
		{"v1", "network blue: v1 is down, a port of br-blue: what is behind it is cut off; set it up with `ip link set v1 up`",
			func() error { return netlink.LinkSetDown(v1) }, func() error { return netlink.LinkSetUp(v1) }},
		{"v2", "network blue: the other end of v2, a port of br-blue, is down",
			func() error { return netlink.LinkSetDown(by(t, "v2c")) }, func() error { return netlink.LinkSetUp(by(t, "v2c")) }},
		{"v1", "network blue: v1 was a port of br-blue and is no port now: what is behind it is cut off; put it back with `ip link set v1 master br-blue`",
			func() error { return netlink.LinkSetNoMaster(v1) }, func() error { return netlink.LinkSetMaster(v1, by(t, "br-blue")) }},
		{made.Veth, "network blue: " + made.Veth + " (container c1 (eth0)) is down",
			func() error { return netlink.LinkSetDown(veth) }, func() error { return netlink.LinkSetUp(veth) }},
		{made.Veth, "network blue: " + made.Veth + " (container c1 (eth0)) was a port of br-blue and is no port now",
			func() error { return netlink.LinkSetNoMaster(veth) }, func() error { return netlink.LinkSetMaster(veth, by(t, "br-blue")) }},
	} {
		over := "port " + c.about + ": the problem is over"
		do(t, c.break_())
		r.awaitWarning(t, c.text, true)
		said := r.said(over)
		eventually(t, "the log has it", func() bool { return r.said(c.text) > 0 })
		if p := r.problems(t); len(p) > 0 { // the others go on
			t.Errorf("problems: %q", p)
		}
		do(t, c.fix())
		r.awaitWarning(t, c.text, false)
		eventually(t, "the log has it", func() bool { return r.said(over) > said })
	}
	do(t, r.end(t))
}

// An attachment that ends is logged with all that it takes to make it again, and
// named in status until it is; one that is detached is not. That a daemon ends is
// no end of an attachment.
func TestAttachmentEnds(t *testing.T) {
	underlay(t)
	lab := netlabtest.New(t)
	open := func(name string) (string, *os.File) {
		h, err := lab.AddHost(name)
		do(t, err)
		ns, err := os.Open(filepath.Join("/run/netns", h.Namespace()))
		do(t, err)
		return h.Namespace(), ns
	}
	r, _ := followed(t, twoNetworks, nil)
	request := func(target, address string) attach.Request {
		return attach.Request{Network: "blue", Target: target, Addresses: []netip.Prefix{netip.MustParsePrefix(address)}}
	}
	_, ns1 := open("c1")
	_, ns2 := open("c2")
	_, err := r.client.Attach(t.Context(), ns1, request("c1", "198.51.100.2/24"))
	do(t, err)
	_, err = r.client.Attach(t.Context(), ns2, request("c2", "198.51.100.3/24"))
	do(t, err)
	_, err = r.client.Detach(t.Context(), ns2, attach.Selector{Network: "blue", Target: "c2"})
	do(t, err)
	ns1.Close()
	ns2.Close()
	do(t, lab.Destroy())
	const again = "overtap attach blue c1 --address 198.51.100.2/24 --mac 02:42:c6:33:64:02 --ifname eth0"
	r.awaitWarning(t, "network blue: container c1 (eth0) was attached and is gone, just now: attach it again when it is back: `"+again+"`", true)
	if r.said("a container that was attached is gone") != 1 || r.said(`again="`+again+`"`) != 1 {
		t.Errorf("log:\n%s", r.log)
	}
	lab = netlabtest.New(t)
	_, ns1 = open("c1")
	defer ns1.Close()
	_, err = r.client.Attach(t.Context(), ns1, request("c1", "198.51.100.2/24"))
	do(t, err)
	r.awaitWarning(t, "was attached and is gone", false)
	do(t, r.end(t))
	if n := r.said("a container that was attached is gone"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
}

// A network that a reload removes and another adds again has its containers again,
// as they were.
func TestReloadKeepsAttachments(t *testing.T) {
	underlay(t)
	ns := space(t, "c1")
	r, o := prepare(t, twoNetworks)
	o.Path = filepath.Join(t.TempDir(), "overtap.toml")
	head := "[underlay]\naddress = \"192.0.2.1\"\n[control]\nsocket = \"" + r.socket + "\"\nmetrics = \"127.0.0.1:9472\"\n"
	start(t, r, o)
	made, err := r.client.Attach(t.Context(), ns, attach.Request{
		Network: "blue", Target: "c1", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}})
	do(t, err)
	_, red, _ := strings.Cut(twoNetworks[1:], "[[vxlan]]\nname = \"red\"")
	do(t, os.WriteFile(o.Path, []byte(head+"[[vxlan]]\nname = \"red\""+red), 0o600))
	_, err = r.client.Reload(t.Context(), false)
	do(t, err)
	const off = "container c1 (eth0) is attached to network blue, which is not configured"
	r.awaitWarning(t, off, true)
	eventually(t, "the log has it", func() bool { return r.said(off) == 1 })
	do(t, os.WriteFile(o.Path, []byte(head+twoNetworks), 0o600))
	_, err = r.client.Reload(t.Context(), false)
	do(t, err)
	s, err := r.client.Status(t.Context())
	do(t, err)
	if len(s.Attachments) != 1 || s.Attachments[0].Veth != made.Veth || s.Attachments[0].Bridge != "br-blue" || s.Attachments[0].MAC != made.MAC {
		t.Errorf("attached: %+v, want %+v", s.Attachments, made)
	}
	if r.said("attached again") != 1 {
		t.Errorf("log:\n%s", r.log)
	}
	r.awaitWarning(t, "which is not configured", false)
	do(t, r.end(t))
}

// A packet filter that drops what a bridge forwards is a warning with the rule to
// add. Only where the kernel has br_netfilter do bridged frames pass by it.
func TestFirewallDrops(t *testing.T) {
	underlay(t)
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("this kernel has no br_netfilter, and REQUIRE_ROOT=1 forbids to skip")
		}
		t.Skip("this kernel has no br_netfilter")
	}
	do(t, os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0))
	c, err := nftables.New()
	do(t, err)
	policy := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
	c.AddChain(&nftables.Chain{Name: "DOCKER-USER", Table: table})
	do(t, c.Flush())
	remove := func() {
		c.DelTable(table)
		do(t, c.Flush())
	}
	r, _ := followed(t, twoNetworks, nil)
	const remedy = "let it pass with `iptables -I DOCKER-USER -i br-blue -o br-blue -j ACCEPT`"
	r.awaitWarning(t, remedy, true)
	if p := r.problems(t); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
	eventually(t, "the log has it", func() bool { return r.said(remedy) == 1 })
	remove()
	for deadline := time.Now().Add(30 * time.Second); r.said("the firewall of br-blue: the problem is over") == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("log:\n%s", r.log)
		}
	}
	r.awaitWarning(t, remedy, false)
	do(t, r.end(t))
}
