package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/netnstest"
	"overtap/dataplane/netio"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Main(m)) }

// underlay gives the namespace 192.0.2.1 on a device that answers nothing.
func underlay(t *testing.T) {
	t.Helper()
	netnstest.Require(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "u1"
	attrs.MTU = 1500
	l := &netlink.Veth{LinkAttrs: attrs, PeerName: "u2"}
	a, err := netlink.ParseAddr("192.0.2.1/24")
	if err == nil {
		err = errors.Join(netlink.LinkAdd(l), netlink.AddrAdd(l, a), netlink.LinkSetUp(l))
	}
	if p, e := netlink.LinkByName("u2"); err == nil {
		err = errors.Join(e, netlink.LinkSetUp(p))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(l); err != nil {
			t.Error(err)
		}
	})
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("test.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// none is the status of a daemon that does not run.
func none(context.Context) (control.Status, error) {
	return control.Status{}, fmt.Errorf("%w at x", control.ErrNoDaemon)
}

// says is what the findings of a check say, a line each.
func says(all []Finding, check string) string {
	var b strings.Builder
	for _, f := range all {
		if f.Check == check {
			b.WriteString(string(f.Level) + " " + f.Text + "\n")
		}
	}
	return b.String()
}

func want(t *testing.T, all []Finding, check string, parts ...string) {
	t.Helper()
	text := says(all, check)
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s says %q, want %q", check, text, p)
		}
	}
}

const blue = `
[underlay]
address = "192.0.2.1"
[[vxlan]]
name = "blue"
vni = 100
  [[vxlan.peer]]
  address = "192.0.2.9"
  [[vxlan.fdb]]
  mac = "02:42:0a:00:01:04"
  peer = "203.0.113.9"
`

// A sound host: only what the namespace lacks is reported.
func TestSound(t *testing.T) {
	underlay(t)
	all := Run(t.Context(), Subject{Config: parse(t, blue), Status: none})
	want(t, all, "tun", "ok ")
	want(t, all, "capabilities", "ok ")
	want(t, all, "kernel", release(t))
	want(t, all, "rp_filter", "ok ")
	want(t, all, "socket buffers", "ok ")
	want(t, all, "underlay", "ok 192.0.2.1 is on u1, MTU 1500")
	want(t, all, "mtu", "ok network blue: containers may have an MTU of 1450")
	want(t, all, "start", "ok ")
	want(t, all, "peer 192.0.2.9", "warn it does not answer")
	want(t, all, "peer 203.0.113.9", "fail there is no route to it")
	want(t, all, "daemon", "warn no overtap daemon answers")
	if !Failed(all) || Failed(all[:3]) {
		t.Error("Failed does not tell failures")
	}
}

func release(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// A start helps only where no daemon answers.
func TestDaemonRemedy(t *testing.T) {
	for _, x := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("%w at x", control.ErrNoDaemon), "overtap run --config FILE"},
		{errors.New("may not open x: run the command as root"), ""},
	} {
		all := Run(t.Context(), Subject{Status: func(context.Context) (control.Status, error) { return control.Status{}, x.err }})
		if f := all[len(all)-1]; f.Check != "daemon" || f.Remedy != x.want {
			t.Errorf("%v: %+v, want the remedy %q", x.err, f, x.want)
		}
	}
}

// What an echo leaves open is named by what the peer is spoken to by.
func TestUntold(t *testing.T) {
	c := parse(t, blue+`
[[vxlan]]
name = "red"
vni = 101
port = 8472
  [[vxlan.peer]]
  address = "192.0.2.9"
[[ipip]]
name = "tun1"
  [[ipip.route]]
  prefix = "172.248.1.0/24"
  peer = "192.0.2.9"
  [[ipip.route]]
  prefix = "172.248.2.0/24"
  peer = "192.0.2.10"
`)
	var got []string
	for _, p := range peersOf(c) {
		got = append(got, p.address.String()+" "+p.unanswered())
	}
	wanted := []string{
		"192.0.2.9 that says nothing of UDP port 4789, UDP port 8472, IP protocol 4: `probe` or `overtap trace --live` shows it",
		"192.0.2.10 that says nothing of IP protocol 4: `overtap trace --live` shows it",
		"203.0.113.9 that says nothing of UDP port 4789: `probe` or `overtap trace --live` shows it",
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("%q", got)
	}
}

// A peer that is there answers.
func TestPeerAnswers(t *testing.T) {
	netnstest.Require(t)
	c := parse(t, strings.NewReplacer("192.0.2.1\"", "127.0.0.1\"", "192.0.2.9", "127.0.0.2", "203.0.113.9", "127.0.0.3").Replace(blue))
	all := Run(t.Context(), Subject{Config: c, Status: none})
	want(t, all, "peer 127.0.0.2", "ok it answers ping; that says nothing of UDP port 4789: `probe` or `overtap trace --live` shows it")
	want(t, all, "peer 127.0.0.3", "ok it answers ping; ")
	if Failed(all) {
		t.Errorf("%+v", all)
	}
}

// What stands in the way of a start is reported, unless a daemon runs that has it.
func TestObstacles(t *testing.T) {
	underlay(t)
	l, err := net.ListenPacket("udp", "192.0.2.1:4789")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "blue"
	taken := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(taken); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(taken)
	s := Subject{Config: parse(t, blue), Status: none}
	want(t, Run(t.Context(), s), "start", "fail ", "4789", "blue is taken by a bridge")
	s.Status = func(context.Context) (control.Status, error) {
		return control.Status{PID: 7, Ready: true, Warnings: []string{"a MAC flaps"}, Uplink: netio.UplinkInfo{Reason: "an old kernel"}}, nil
	}
	all := Run(t.Context(), s)
	if text := says(all, "start"); text != "" {
		t.Errorf("a daemon runs, and still: %s", text)
	}
	want(t, all, "daemon", "ok it runs as PID 7", "warn a MAC flaps", "warn GSO packets are cut in user space: an old kernel")
	s.Status = func(context.Context) (control.Status, error) {
		return control.Status{Problems: []string{"a bridge is gone"}}, nil
	}
	all = Run(t.Context(), s)
	want(t, all, "daemon", "fail a bridge is gone")
	if got := says(all, "daemon"); strings.Contains(got, "is ready") || strings.Contains(got, "GSO packets") {
		t.Errorf("a daemon that is not ready and has decided nothing yet: %s", got)
	}
}

// The underlay that is missing, and MTUs that do not fit it.
func TestUnderlay(t *testing.T) {
	underlay(t)
	missing := strings.Replace(blue, "192.0.2.1", "198.51.100.77", 1)
	all := Run(t.Context(), Subject{Config: parse(t, missing), Status: none})
	want(t, all, "underlay", "fail ", "198.51.100.77")
	all = Run(t.Context(), Subject{Config: parse(t, strings.Replace(blue, "vni = 100", "vni = 100\nmtu = 1500", 1)), Status: none})
	want(t, all, "mtu", "fail ", "leaves room for 1450")
}

// Devices that were there before the daemon, and will harm it: ports of the bridge
// with another MTU, and a kernel device on the same UDP port.
func TestSurroundings(t *testing.T) {
	underlay(t)
	add := func(l netlink.Link) {
		t.Helper()
		if err := netlink.LinkAdd(l); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { netlink.LinkDel(l) })
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br-blue"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	add(bridge)
	attrs.Name, attrs.MTU, attrs.MasterIndex = "p1", 1500, bridge.Index
	add(&netlink.Veth{LinkAttrs: attrs, PeerName: "p2"})
	attrs.Name, attrs.MTU, attrs.MasterIndex = "vx-old", 0, 0
	add(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 5, Port: 4789})
	c := parse(t, strings.Replace(blue, "vni = 100", "vni = 100\nbridge = \"br-blue\"", 1))
	all := Run(t.Context(), Subject{Config: c, Status: none})
	want(t, all, "mtu", "ok network blue: containers may have an MTU of 1450", "warn port p1 has an MTU of 1500, network blue 1450: ")
	want(t, all, "port", "warn the kernel's vxlan device vx-old has UDP port 4789 too")
	// A daemon that runs knows better: which containers are attached.
	all = Run(t.Context(), Subject{Config: c, Status: func(context.Context) (control.Status, error) {
		return control.Status{Warnings: []string{"container web has another MTU"}}, nil
	}})
	want(t, all, "daemon", "warn container web has another MTU")
	if text := says(all, "mtu") + says(all, "port"); strings.Contains(text, "warn") {
		t.Errorf("reported twice: %s", text)
	}
}

// Routes need a host that forwards, and bridged frames may pass by iptables.
func TestSysctls(t *testing.T) {
	underlay(t)
	set := func(key, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := parse(t, blue+"\n[[route]]\nprefix = \"172.248.0.0/24\"\nvia = \"192.0.2.2\"\n")
	for value, level := range map[string]string{"0": "warn ", "1": "ok "} {
		set("net/ipv4/ip_forward", value)
		want(t, Run(t.Context(), Subject{Config: c, Status: none}), "forwarding", level)
	}
	if says(Run(t.Context(), Subject{Config: parse(t, blue), Status: none}), "forwarding") != "" {
		t.Error("without routes forwarding does not matter")
	}
	const key = "net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat("/proc/sys/" + key); err == nil {
		bridged := parse(t, strings.Replace(blue, "vni = 100", "vni = 100\nbridge = \"br-blue\"", 1))
		for _, value := range []string{"0", "1"} {
			set(key, value)
			want(t, Run(t.Context(), Subject{Config: bridged, Status: none}), "bridge netfilter", "ok ")
		}
		policy := nftables.ChainPolicyDrop
		nft, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
		nft.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
		if err := nft.Flush(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			nft.DelTable(table)
			if err := nft.Flush(); err != nil {
				t.Error(err)
			}
		}()
		found := Run(t.Context(), Subject{Config: bridged, Status: none})
		want(t, found, "bridge netfilter", "warn ")
		for _, f := range found {
			if f.Check == "bridge netfilter" && f.Remedy != "iptables -I FORWARD -i br-blue -o br-blue -j ACCEPT" {
				t.Errorf("remedy: %s", f.Remedy)
			}
		}
		set(key, "0")
		want(t, Run(t.Context(), Subject{Config: bridged, Status: none}), "bridge netfilter", "ok ")
	}
}

func TestVersion(t *testing.T) {
	for release, is := range map[string][2]int{
		"6.18.44-fc-v657": {6, 18}, "5.0": {5, 0}, "6.1.0-18-amd64": {6, 1}, "4.18-rc1": {4, 18}, "10.2+": {10, 2},
	} {
		if a, b, ok := version(release); !ok || a != is[0] || b != is[1] {
			t.Errorf("%s: %d.%d, %t", release, a, b, ok)
		}
	}
	for _, release := range []string{"", "six", "6", "6.x"} {
		if _, _, ok := version(release); ok {
			t.Errorf("%q is understood", release)
		}
	}
}
