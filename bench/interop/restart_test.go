package interop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/encap"
)

// entered is a MAC that the tests enter by `overtap fdb add`.
const entered encap.MAC = 0x0242_0a00_0177

// replaceIDs finds the ids of runs in the aliases of links, uplinkLine the Uplink.
var uplinkLine = regexp.MustCompile(`(?m)^link otup.*\n`)
var replaceIDs = regexp.MustCompile(`overtap (bridge|device) \w+`)

// standing is host a, whose daemon starts again and again by the same control
// socket, beside host b with the kernel's device.
type standing struct {
	t            *testing.T
	a, b         *netlab.Site
	file, socket string
	d            *daemon
	probe        *traffic.Probe
}

// stand starts the daemon with the configuration and a probe from a to b.
func stand(t *testing.T, conf func(a *netlab.Site, sites []*netlab.Site) config) *standing {
	t.Helper()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	s := &standing{t: t, a: sites[0], b: sites[1]}
	kernel.end(t, s.b, blue(s.b, sites...), sites)
	c := conf(s.a, sites)
	s.file, s.socket = prepare(t, c)
	s.start(c)
	reaches(t, s.a.Container, s.b.IPv4)
	return s
}

// write makes c the daemon's configuration.
func (s *standing) write(c config) {
	s.t.Helper()
	check(s.t, os.WriteFile(s.file, []byte(c.toml(s.socket)), 0o600))
}

// start starts a daemon, whether another runs or not.
func (s *standing) start(c config) {
	s.t.Helper()
	s.write(c)
	s.d = startFile(s.t, s.a.Host, c, s.file, s.socket)
}

// takeOver starts a daemon and waits for the end of the one that runs.
func (s *standing) takeOver(c config) {
	s.t.Helper()
	before := s.d
	s.start(c)
	s.d.made = slices.Concat(before.made, s.d.made)
	before.over = true
	before.await()
	if before.err != nil {
		s.t.Errorf("the daemon before ended with %v, want exit code 0", before.err)
	}
	before.checkLog()
	if s.t.Failed() {
		s.t.Logf("the daemon before:\n%s", before.log)
	}
}

// refused starts a daemon that must fail while the other runs on.
func (s *standing) refused(text string, want ...string) {
	s.t.Helper()
	good := must[[]byte](s.t)(os.ReadFile(s.file))
	check(s.t, os.WriteFile(s.file, []byte(text), 0o600))
	cmd := s.a.Host.Command(program(s.t), "run", "--config", s.file).KillWithParent()
	log := &journal{}
	cmd.Stderr, cmd.Env = log, environ()
	check(s.t, cmd.Start())
	timer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		s.t.Errorf("it ended with %v, want exit code 1:\n%s", err, log)
	}
	for _, w := range want {
		if !strings.Contains(log.String(), w) {
			s.t.Errorf("it does not say %q:\n%s", w, log)
		}
	}
	if alarming.MatchString(log.String()) {
		s.t.Errorf("its log:\n%s", log)
	}
	check(s.t, os.WriteFile(s.file, good, 0o600))
}

// watch starts the probe, which unwatch ends.
func (s *standing) watch() {
	s.t.Helper()
	s.probe = must[*traffic.Probe](s.t)(traffic.StartProbe(
		traffic.End{Host: s.a.Container, Addr: s.a.IPv4}, traffic.End{Host: s.b.Container, Addr: s.b.IPv4}, time.Millisecond))
	s.recovers()
}

// recovers waits until the probe is answered.
func (s *standing) recovers() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if _, err := s.probe.Recover(ctx); err != nil {
		s.t.Fatal(err)
	}
}

// unwatch ends the probe and returns the longest silence, and how much was lost:
// what waited in a queue was late, and not lost.
func (s *standing) unwatch() (gap time.Duration, lost int) {
	s.t.Helper()
	for _, r := range s.probe.Stop() {
		gap, lost = max(gap, r.Gap, r.Max), lost+r.Lost
	}
	return gap, lost
}

func (s *standing) index(dev string) (index int) {
	s.t.Helper()
	on(s.t, s.a.Host, dev, func(_ *netlink.Handle, l netlink.Link) error { index = l.Attrs().Index; return nil })
	return index
}

// plenty is a configuration of everything that a daemon makes.
func plenty(a *netlab.Site, sites []*netlab.Site) config {
	red := network{name: "red", vni: 101, port: 8472, bridge: "br-red"}.
		with(`addresses = ["203.0.113.1/24", "2001:db8:77::1/64"]`, "[[vxlan.neighbor]]", `address = "203.0.113.9"`, `mac = "02:42:cb:00:71:09"`)
	green := network{name: "green", vni: 102, port: 4789}.with(`addresses = ["203.0.114.1/24"]`)
	c := at(a, blue(a, sites...).with(`addresses = ["198.51.100.201/24"]`), red, green)
	c.last = fmt.Sprintf("[[vxlan.route]]\nprefix = \"10.7.0.0/16\"\nvia = \"203.0.114.7\"\n"+
		"[[ipip]]\nname = \"tun0\"\naddresses = [\"172.31.0.1/32\"]\n[[ipip.route]]\nprefix = \"10.8.0.0/16\"\npeer = %q\n"+
		"[[route]]\nprefix = \"10.9.0.0/16\"\nvia = %q\n", sites[1].Underlay, sites[1].Underlay)
	return c
}

// settledState is state once the kernel has come to rest.
func (s *standing) settledState() (now string) {
	s.t.Helper()
	for range 50 {
		was := now
		if now = state(s.t, s.a.Host); was == now {
			return now
		}
		time.Sleep(20 * time.Millisecond)
	}
	return now
}

// What a daemon that is killed leaves, the next goes on with: the same links,
// addresses and routes, in less than a second; what its configuration has no more,
// it removes, and at its end all the rest.
func TestKilledAndAdopted(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	s := &standing{t: t, a: sites[0], b: sites[1]}
	kernel.end(t, s.b, blue(s.b, sites...), sites)
	same := unchanged(t, s.a.Host)
	c := plenty(s.a, sites)
	s.file, s.socket = prepare(t, c)
	s.start(c)
	made := s.d.made
	s.watch()
	before := s.settledState()
	indexes := make(map[string]int)
	for _, dev := range []string{"vx-blue", "vx-red", "br-red", "vx-green", "tun0"} {
		indexes[dev] = s.index(dev)
	}
	s.d.kill()
	links := must[[]string](t)(s.a.Host.Links())
	for dev := range indexes {
		if !slices.Contains(links, dev) {
			t.Errorf("%s went with the process", dev)
		}
	}
	s.start(c)
	s.recovers()
	gap, lost := s.unwatch()
	t.Logf("kill -9 and start: silence of %v, %d lost", gap, lost)
	if gap > 5*time.Second {
		t.Errorf("silence of %v", gap)
	}
	for dev, index := range indexes {
		if now := s.index(dev); now != index {
			t.Errorf("%s is another than before: index %d, was %d", dev, now, index)
		}
	}
	// The id of the run is another, and the uplink's TAP, which goes with its process.
	owner := func(s string) string {
		return uplinkLine.ReplaceAllString(replaceIDs.ReplaceAllString(s, "overtap $1 ID"), "")
	}
	if after := s.settledState(); owner(after) != owner(before) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	exchange(t, s.a, s.b, 1<<20)

	// Killed again, and started with less.
	s.d.kill()
	less := at(s.a, blue(s.a, sites...))
	s.start(less)
	links = must[[]string](t)(s.a.Host.Links())
	for _, dev := range []string{"vx-red", "br-red", "vx-green", "tun0"} {
		if slices.Contains(links, dev) {
			t.Errorf("%s is left, which the configuration does not name", dev)
		}
	}
	if r := ourRoutes(t, s.a.Host); r != "" {
		t.Errorf("routes are left:\n%s", r)
	}
	if slices.Contains(must[[]netip.Prefix](t)(s.a.Host.Addrs(netlab.SiteBridge)), prefix("198.51.100.201/24")) {
		t.Error("the address on the bridge that was found is left")
	}
	reaches(t, s.a.Container, s.b.IPv4)
	s.d.made = made
	s.d.stop(syscall.SIGTERM)
	same("a daemon that was killed twice and then stopped")
}

// A device of the name that another program made stays an error, also for a daemon that
// adopts.
func TestAdoptsNoStranger(t *testing.T) {
	t.Parallel()
	s := stand(t, func(a *netlab.Site, sites []*netlab.Site) config { return at(a, blue(a, sites...)) })
	s.d.kill()
	check(t, s.a.Host.DeleteLink("vx-blue"))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "vx-blue"
	// A TAP is made in the namespace of the thread that opens it.
	check(t, s.a.Host.Do(func() error {
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP})
	}))
	same := unchanged(t, s.a.Host)
	text := string(must[[]byte](t)(os.ReadFile(s.file)))
	s.refused(text, "the device name vx-blue is taken by a tuntap")
	same("a daemon that was refused")
	check(t, s.a.Host.DeleteLink("vx-blue"))
	s.start(at(s.a, blue(s.a, s.a, s.b)))
	reaches(t, s.a.Container, s.b.IPv4)
}

// Daemons are killed at random moments, some before they are ready or while they
// take over: 8 of them, or as many as OVERTAP_KILLS says. Whatever they leave, the
// next start serves, and its end leaves nothing.
func TestKilledAtRandom(t *testing.T) {
	count := 8
	if s := os.Getenv("OVERTAP_KILLS"); s != "" {
		if _, err := fmt.Sscan(s, &count); err != nil {
			t.Fatalf("OVERTAP_KILLS: %v", err)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	s := &standing{t: t, a: sites[0], b: sites[1]}
	kernel.end(t, s.b, blue(s.b, sites...), sites)
	same := unchanged(t, s.a.Host)
	c := plenty(s.a, sites)
	s.file, s.socket = prepare(t, c)
	begun := time.Now()
	s.start(c)
	usual := time.Since(begun)
	made := s.d.made
	for range count {
		// One that is killed on its way, beside the one that runs or after it.
		beside := random.IntN(2) == 0
		if !beside {
			s.d.kill()
		}
		cmd := s.a.Host.Command(program(t), "run", "--config", s.file).KillWithParent()
		cmd.Env = environ()
		check(t, cmd.Start())
		time.Sleep(time.Duration(random.Int64N(int64(usual * 3 / 2))))
		check(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		if beside {
			// It may have taken over before it was killed, or not.
			select {
			case <-s.d.ended:
				s.d.over = true
			case <-time.After(200 * time.Millisecond):
				s.d.kill()
			}
		}
		s.start(c)
		reaches(t, s.a.Container, s.b.IPv4)
		reaches(t, s.b.Container, s.a.IPv6)
	}
	exchange(t, s.a, s.b, 1<<20)
	s.d.made = made
	s.d.stop(syscall.SIGTERM)
	same(fmt.Sprintf("%d daemons that were killed", count))
}
