package guest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/guest"
	"overtap/bench/netlab/netlabtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := netlabtest.CloseGuest(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func limit(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func run(t testing.TB, g *guest.Guest, script string) string {
	t.Helper()
	out, err := g.Run(limit(t, time.Minute), script)
	check(t, err)
	return out
}

func TestRun(t *testing.T) {
	g := netlabtest.Guest(t)
	if out := run(t, g, "uname -s; printf 'no \\0 newline'"); out != "Linux\nno \x00 newline" {
		t.Errorf("printed %q", out)
	}
	long := strings.Repeat("0123456789", 3000)
	if out := run(t, g, "echo "+long); out != long+"\n" {
		t.Errorf("of %d bytes %d come back", len(long)+1, len(out))
	}
	out, err := g.Run(limit(t, time.Minute), "echo before; ls /no-such; echo after")
	var status *guest.StatusError
	if !errors.As(err, &status) || status.Status == 0 || !strings.Contains(out, "before") ||
		strings.Contains(out, "after") || !strings.Contains(err.Error(), "/no-such") {
		t.Errorf("a script that fails: %q, %v", out, err)
	}
	if !strings.Contains(g.Console(), "init: ready") {
		t.Errorf("the console has %q", g.Console())
	}
}

// What a test set up is gone for the next one, and hosts can be joined again.
func TestReset(t *testing.T) {
	g := netlabtest.Guest(t)
	lab := netlabtest.New(t)
	state := func() string { return run(t, g, "ls /sys/class/net; ip -o address; ip route; ip -6 route; ls /tmp") }
	before := state()
	for i := range 2 {
		h, err := lab.AddHost(fmt.Sprintf("a%d", i))
		check(t, err)
		check(t, g.Join(limit(t, time.Minute), h, "eth0", 1400))
		check(t, h.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
		check(t, g.AddAddr(limit(t, time.Minute), guest.Dev, netip.MustParsePrefix("192.0.2.2/24")))
		check(t, g.AddAddr(limit(t, time.Minute), guest.Dev, netip.MustParsePrefix("2001:db8:0:1::2/64")))
		local := netip.MustParseAddr("192.0.2.2")
		check(t, g.IPIP(limit(t, time.Minute), guest.IPIPSpec{Name: "tun0", Local: local, Remote: netip.MustParseAddr("192.0.2.1"), MTU: 1300, More: "ttl 7"}))
		check(t, g.VXLAN(limit(t, time.Minute), netlab.VXLANSpec{Name: "vx0", VNI: 100, Local: local, MAC: 0x0242_0000_0001,
			Flood: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")}, TTL: 9, TOS: 1, DF: true}))
		made := run(t, g, "ip -d link show tun0; ip -d link show vx0; bridge fdb show dev vx0")
		for _, want := range []string{"ipip remote 192.0.2.1 local 192.0.2.2", "ttl 7", "mtu 1300", "vxlan id 100", "dstport 4789",
			"ttl 9", "tos inherit", "df set", "dst 192.0.2.9", "02:42:00:00:00:01"} {
			if !strings.Contains(made, want) {
				t.Errorf("the guest has no %q in:\n%s", want, made)
			}
		}
		run(t, g, "ip link add br0 type bridge; ip link set vx0 master br0; sleep 1000 & touch /tmp/mark")
		r, err := netlab.Ping(h, netlab.UnderlayAddr(2, false), netlab.PingOptions{Count: 2, Size: 1372, DF: true, Timeout: 20 * time.Second})
		check(t, err)
		if r.Received != 2 || r.PathMTU != 1400 {
			t.Errorf("ping of the guest: %v, path MTU %d", r, r.PathMTU)
		}
		check(t, g.Reset(limit(t, time.Minute)))
		if after := state(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		if ps := run(t, g, "ps"); strings.Contains(ps, "sleep 1000") {
			t.Errorf("a program still runs:\n%s", ps)
		}
		links, err := g.Host().Links()
		check(t, err)
		if got := fmt.Sprint(links); got != "[br0 tap0]" {
			t.Errorf("the guest's host has %s", got)
		}
	}
}

func TestGuestRefuses(t *testing.T) {
	g := netlabtest.Guest(t)
	local := netip.MustParseAddr("192.0.2.2")
	for _, s := range []netlab.VXLANSpec{
		{Name: "vx0", VNI: 1, Local: local, Suppress: true}, {Name: "vx0", VNI: 1, Local: local, ZeroChecksum: true},
		{Name: "vx0", VNI: 1, Local: local, Dev: "eth7"},
	} {
		if err := g.VXLAN(limit(t, time.Minute), s); err == nil {
			t.Errorf("taken: %+v", s)
		}
	}
}

// A script without end is ended with its guest.
func TestScriptWithoutEnd(t *testing.T) {
	netlabtest.Guest(t) // for its verdict on a missing guest
	g, err := guest.Start(limit(t, time.Minute), netlabtest.New(t), "other")
	check(t, err)
	defer g.Close()
	if _, err := g.Run(limit(t, 100*time.Millisecond), "sleep 1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a script without end: %v", err)
	}
	if _, err := g.Run(limit(t, time.Second), "true"); !errors.Is(err, guest.ErrEnded) || g.Running() {
		t.Errorf("after it: %v, running %v", err, g.Running())
	}
	processes, err := g.Host().Processes()
	check(t, err)
	if len(processes) > 0 {
		t.Errorf("processes %v are left", processes)
	}
	check(t, g.Close())
	check(t, g.Close())
}

// After the guest was closed the next test has another.
func TestCloseGuest(t *testing.T) {
	var guests []*guest.Guest
	for range 2 {
		t.Run("", func(t *testing.T) {
			g := netlabtest.Guest(t)
			run(t, g, "true")
			guests = append(guests, g)
		})
		check(t, netlabtest.CloseGuest())
	}
	if len(guests) == 2 && guests[0] == guests[1] {
		t.Error("the same guest twice")
	}
	if labs, err := netlab.List(); err != nil || slices.Contains(labs, fmt.Sprintf("t%dguest", os.Getpid())) {
		t.Errorf("labs %v are left, %v", labs, err)
	}
}

// Without kernel and initramfs the error says what to do.
func TestNotBuilt(t *testing.T) {
	netlabtest.Root(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	lab := netlabtest.New(t)
	_, err := guest.Start(t.Context(), lab, "guest")
	if !errors.Is(err, guest.ErrNotBuilt) {
		t.Errorf("%v, want %v", err, guest.ErrNotBuilt)
	}
	if hosts, _ := lab.Hosts(); len(hosts) > 0 {
		t.Errorf("hosts %v are left of a guest that did not boot", hosts)
	}
}

// Programs that end in the background at any moment take no part of a request.
func TestRequestsWhileProgramsEnd(t *testing.T) {
	g := netlabtest.Guest(t)
	run(t, g, "for i in $(seq 40); do (usleep ${i}0000) & done")
	for i := range 60 {
		if out := run(t, g, fmt.Sprintf("echo %d", i)); out != fmt.Sprintf("%d\n", i) {
			t.Fatalf("request %d: %q", i, out)
		}
	}
}
