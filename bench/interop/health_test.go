package interop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/encap"
)

// warns waits until status has a warning, or has it no more.
func (d *daemon) warns(what string, there bool) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("the warning %q: %v", what, there), func() error {
		if got := d.status().Warnings; slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, what) }) != there {
			return fmt.Errorf("warnings: %q", got)
		}
		return nil
	})
}

// A host that boots: the daemon is started before the underlay's address is there,
// or while an IPv6 one is tentative. It waits, answers `status` with exit code 3,
// and carries traffic when the address has come.
func TestStartsBeforeUnderlay(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6 %v", v6), func(t *testing.T) {
			lab := netlabtest.New(t)
			sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{V6: v6}))
			a, b := sites[0], sites[1]
			kernel.end(t, b, blue(b, sites...), sites)
			address, why := netip.PrefixFrom(a.Underlay, 24), "is not on this host"
			if v6 {
				address, why = netip.PrefixFrom(a.Underlay, 64), "is tentative: duplicate address detection is not over"
			}
			delAddr(t, a.Host, netlab.UnderlayDev, address)
			conf := at(a, blue(a, sites...))
			file, socket := prepare(t, conf)
			come := func() { check(t, a.Host.AddAddr(netlab.UnderlayDev, address)) }
			if v6 {
				// The lab's hosts know no duplicate address detection.
				check(t, a.Host.Sysctl("net/ipv6/conf/all/accept_dad", "1"))
				check(t, a.Host.Sysctl("net/ipv6/conf/"+netlab.UnderlayDev+"/accept_dad", "1"))
				check(t, a.Host.Sysctl("net/ipv6/conf/"+netlab.UnderlayDev+"/dad_transmits", "3")) // a second each
				addTentative(t, a.Host, address)
				come = func() {} // it does by itself
			}
			d := launch(t, a.Host, conf, file, socket)
			eventually(t, "it says that it waits", func() error {
				cmd := exec.Command(builtPath, "status", "--socket", socket)
				cmd.Env = environ()
				out, err := cmd.Output()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != exitNotReady || !strings.Contains(string(out), "not ready") || !strings.Contains(string(out), "waiting for the underlay") || !strings.Contains(string(out), why) {
					return fmt.Errorf("%v:\n%s", err, out)
				}
				return nil
			})
			if strings.Contains(d.log.String(), "msg=ready") {
				t.Errorf("ready without an underlay:\n%s", d.log)
			}
			come()
			d.comesUp()
			reaches(t, a.Container, b.IPv4)
			exchange(t, a, b, 1<<20)
		})
	}
}

// addTentative adds an address by which no socket can be bound yet.
func addTentative(t *testing.T, h *netlab.Host, p netip.Prefix) {
	t.Helper()
	check(t, h.Do(func() error {
		l, err := netlink.LinkByName(netlab.UnderlayDev)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}})
	}))
}

// Where br_netfilter is loaded and the FORWARD policy is drop, as container engines
// set it, nothing crosses; status says so with a rule, and the rule helps.
func TestFirewallDrops(t *testing.T) {
	t.Parallel()
	const key = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(key); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("this kernel has no br_netfilter, and REQUIRE_ROOT=1 forbids to skip")
		}
		t.Skip("this kernel has no br_netfilter")
	}
	d, a, b := pair(t)
	reaches(t, a.Container, b.IPv4)
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
	user := &nftables.Chain{Name: "DOCKER-USER", Table: table}
	forward := &nftables.Chain{Name: "FORWARD", Table: table}
	change := func(f func(c *nftables.Conn)) {
		t.Helper()
		check(t, a.Host.Do(func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			f(c)
			return c.Flush()
		}))
	}
	check(t, a.Host.Do(func() error { return os.WriteFile(key, []byte("1"), 0) }))
	change(func(c *nftables.Conn) {
		policy := nftables.ChainPolicyDrop
		c.AddTable(table)
		c.AddChain(user)
		base := *forward
		base.Type, base.Hooknum, base.Priority, base.Policy = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, &policy
		c.AddChain(&base)
		c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: user.Name}}})
	})
	const remedy = "let it pass with `iptables -I DOCKER-USER -i " + netlab.SiteBridge + " -o " + netlab.SiteBridge + " -j ACCEPT`"
	d.warns(remedy, true)
	if r := must[netlab.PingResult](t)(netlab.Ping(a.Container, b.IPv4, netlab.PingOptions{Count: 3, Timeout: 300 * time.Millisecond})); r.Received > 0 {
		t.Errorf("it drops nothing: %v", r)
	}
	// What the remedy does.
	bridge := make([]byte, unix.IFNAMSIZ)
	copy(bridge, netlab.SiteBridge)
	change(func(c *nftables.Conn) {
		c.AddRule(&nftables.Rule{Table: table, Chain: user, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: bridge},
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: bridge},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
	})
	reaches(t, a.Container, b.IPv4)
	d.warns(remedy, false)
}

// Attaching teaches the peers no MAC but the bridge's and, once it is attached, the
// container's, beside the TAP's, which probes come from; and a twin of the container on another host, with the same address
// and MAC, is found and stays reachable.
func TestAttachTeaches(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	third := must[*netlab.Host](t)(b.Host.AddContainer(netlab.ContainerSpec{
		Name: "b2", Bridge: netlab.SiteBridge, Addrs: []netip.Prefix{prefix("198.51.100.70/24")}, MTU: int(b.MTU)}))
	reaches(t, a.Container, b.IPv4)
	learned := func() map[encap.MAC]bool {
		macs := make(map[encap.MAC]bool)
		for _, e := range must[[]netlab.FDBEntry](t)(b.Host.KernelFDB("vx0")) {
			macs[e.MAC] = true
		}
		return macs
	}
	before := learned()
	bridge := must[encap.MAC](t)(a.Host.MAC(netlab.SiteBridge))
	tap := must[encap.MAC](t)(a.Host.MAC("vx-blue")) // of probes
	late := must[*netlab.Host](t)(a.Host.Lab().AddHost("late"))
	for i := range 3 {
		made := ask[attached](d, "attach", "blue", late.Namespace(), "--address", late4.String()+"/24")
		d.verb("detach", "blue", late.Namespace())
		for mac := range learned() {
			if !before[mac] && mac != bridge && mac != tap && mac.String() != made.MAC {
				t.Errorf("attachment %d: the peer learned %s; the bridge is %s, the container %s", i+1, mac, bridge, made.MAC)
			}
		}
	}
	// The twin.
	d.refuses("the address "+b.IPv4.String()+" is taken, by "+b.MAC.String(), "attach", "blue", late.Namespace(),
		"--address", b.IPv4.String()+"/24", "--mac", b.MAC.String())
	reachesAtOnce(t, third, b.IPv4)
	reachesAtOnce(t, a.Container, b.IPv4)
}

// A spanning tree on the network's bridge: "ready" is said when frames cross.
func TestSpanningTree(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	check(t, a.Host.SpanningTree(netlab.SiteBridge, true, 2*time.Second))
	conf := at(a, blue(a, sites...))
	file, socket := prepare(t, conf)
	d := launch(t, a.Host, conf, file, socket)
	eventually(t, "it says what it waits for", func() error {
		out, _ := d.try("status")
		if !strings.Contains(string(out), "not ready") || !strings.Contains(string(out), "waiting for the spanning tree of "+netlab.SiteBridge) {
			return errors.New(string(out))
		}
		return nil
	})
	d.comesUp()
	reachesAtOnce(t, a.Container, b.IPv4)
	// The address of a container on the other host.
	late := must[*netlab.Host](t)(lab.AddHost("late"))
	d.refuses("is taken, by "+b.MAC.String(), "attach", "blue", late.Namespace(), "--address", b.IPv4.String()+"/24")
}
