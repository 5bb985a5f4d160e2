package interop

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
)

// attached is what the tests read of `overtap attach --json`, and of `status`.
type attached struct {
	Target    string         `json:"target"`
	IfName    string         `json:"ifname"`
	MAC       string         `json:"mac"`
	Addresses []netip.Prefix `json:"addresses"`
	Veth      string         `json:"veth"`
	Bridge    string         `json:"bridge"`
}

func (d *daemon) attachments() []attached {
	d.t.Helper()
	return ask[struct {
		Attachments []attached `json:"attachments"`
	}](d, "status").Attachments
}

// refuses runs a verb that must fail with a sentence.
func (d *daemon) refuses(want string, args ...string) {
	d.t.Helper()
	if _, err := d.try(args...); err == nil || !strings.Contains(err.Error(), want) {
		d.t.Errorf("overtap %s: %v, want %q", strings.Join(args, " "), err, want)
	}
}

var (
	late4 = netip.MustParseAddr("198.51.100.77")
	late6 = netip.MustParseAddr("2001:db8:1::77")
)

// A container is attached by the verb, talks to one behind a kernel's device,
// and stays attached over the daemon's death.
func TestAttach(t *testing.T) {
	t.Parallel()
	d, a, b := pair(t)
	before := must[[]string](t)(a.Host.Links())
	late := must[*netlab.Host](t)(a.Host.Lab().AddHost("late"))
	// A container with an address, a route and a device that is in the way.
	check(t, netlab.AddVeth(late, "eth0", late, "eth9", 0))
	check(t, late.AddAddr("eth0", prefix("203.0.113.5/24")))
	check(t, late.AddRoute(prefix("0.0.0.0/0"), netip.MustParseAddr("203.0.113.1"), "eth0"))
	same := unchanged(t, a.Host, late)

	// An address in use is found across the overlay.
	for _, taken := range []string{b.IPv4.String() + "/24", b.IPv6.String() + "/64"} {
		addr, _, _ := strings.Cut(taken, "/")
		want := "the address " + addr + " is taken, by " + b.MAC.String()
		d.refuses(want, "attach", "blue", late.Namespace(), "--address", taken)
		d.refuses(want, "attach", "blue", late.Namespace(), "--address", taken, "--mac", b.MAC.String())
	}
	d.refuses(`there is no network "red": name one of blue`, "attach", "red", late.Namespace(), "--address", "198.51.100.77/24")
	free := late4.String() + "/24"
	d.refuses("it has a device eth0 already", "attach", "blue", late.Namespace(), "--address", free, "--ifname", "eth0")
	d.refuses("it has a default route already", "attach", "blue", late.Namespace(), "--address", free, "--gateway", "198.51.100.254")
	d.refuses("it has the address 203.0.113.5 already", "attach", "blue", late.Namespace(), "--address", free, "--address", "203.0.113.5/32")
	d.refuses("no network namespace", "attach", "blue", "/dev/null", "--address", free)
	same("attachments that were refused")
	check(t, late.DeleteLink("eth0"))

	made := ask[attached](d, "attach", "blue", late.Namespace(), "--address", late4.String()+"/24", "--address", late6.String()+"/64")
	if made.IfName != netlab.ContainerDev || made.MAC != "02:42:c6:33:64:4d" || made.Bridge != netlab.SiteBridge {
		t.Errorf("attached: %+v", made)
	}
	ways := func() (all []flow) {
		for _, to := range []struct{ mine, theirs netip.Addr }{{late4, b.IPv4}, {late6, b.IPv6}} {
			x, y := traffic.End{Host: late, Addr: to.mine}, traffic.End{Host: b.Container, Addr: to.theirs}
			all = append(all, flow{x, y, int(b.MTU)}, flow{y, x, int(b.MTU)})
		}
		return all
	}
	for _, f := range ways() {
		f.pings(t)
		f.tcp(t, 4<<20)
		f.udps(t)
	}

	d.kill()
	d = start(t, a.Host, at(a, blue(a, a, b)))
	if all := d.attachments(); len(all) != 1 || all[0].Veth != made.Veth || all[0].Target != late.Namespace() ||
		all[0].IfName != made.IfName || !slices.Equal(all[0].Addresses, made.Addresses) {
		t.Errorf("found again: %+v, want %+v", all, made)
	}
	for _, f := range ways() {
		f.pings(t)
	}
	d.verb("detach", "blue", late.Namespace())
	d.refuses("it is not attached", "detach", "blue", late.Namespace())
	d.stop(syscall.SIGTERM)
	// before was taken while a daemon ran: with its TAP and its Uplink.
	its := append(slices.Clone(d.made), "otup0")
	if left := must[[]string](t)(a.Host.Links()); !slices.Equal(left, without(before, its)) {
		t.Errorf("links before: %v, after: %v", before, left)
	}
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// A container with one address and MAC is detached from one host and attached
// to the other, there and back: all reach it at once, for it is announced. While
// it is still attached, the other host refuses it.
func TestAttachMoves(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	daemons := make([]*daemon, 2)
	for i, s := range sites {
		daemons[i] = start(t, s.Host, at(s, blue(s, sites...)))
	}
	mover := must[*netlab.Host](t)(lab.AddHost("mover"))
	twin := must[*netlab.Host](t)(lab.AddHost("twin"))
	for _, s := range sites {
		pin(t, s.Container, mover4, moverMAC)
	}
	for i := range 4 {
		here, there := daemons[i%2], daemons[1-i%2]
		here.verb("attach", "blue", mover.Namespace(), "--address", mover4.String()+"/24")
		for _, s := range sites {
			reachesAtOnce(t, s.Container, mover4)
		}
		check(t, there.learnedAt(sites[i%2].Underlay))
		// moverMAC is what either is given.
		there.refuses("is taken, by "+moverMAC.String(), "attach", "blue", twin.Namespace(), "--address", mover4.String()+"/24")
		check(t, there.learnedAt(sites[i%2].Underlay))
		here.verb("detach", "blue", mover.Namespace())
	}
}
