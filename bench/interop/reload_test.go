package interop

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
	"overtap/bench/traffic"
	"overtap/dataplane"
)

// reloaded is what `overtap reload --json` prints.
type reloaded struct{ Added, Removed, Changed []string }

// fds is how many file descriptors the daemon has open.
func (d *daemon) fds() int {
	d.t.Helper()
	return len(must[[]os.DirEntry](d.t)(os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))))
}

// Reloading beside a running stream adds, changes and removes networks; the
// stream keeps its connection, its entries, its device, and loses nothing.
func TestReloadUnderTraffic(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	c := at(a, blue(a, sites...))
	file, socket := prepare(t, c)
	d := startFile(t, a.Host, c, file, socket)
	reaches(t, a.Container, b.IPv4)
	before, fds := d.status().Networks[0], d.fds()

	write := func(c config) { check(t, os.WriteFile(file, []byte(c.toml(socket)), 0o600)) }
	red := network{name: "red", vni: 101, port: 8472, bridge: "br-red"}
	done := make(chan error, 1)
	go func() {
		r, err := traffic.TCP(t.Context(), traffic.End{Host: a.Container, Addr: a.IPv4}, traffic.End{Host: b.Container, Addr: b.IPv4},
			traffic.TCPOptions{Bytes: 256 << 20, Checked: true})
		if err == nil && r.Bytes != 256<<20 {
			err = fmt.Errorf("%d bytes arrived", r.Bytes)
		}
		done <- err
	}()
	turns := 0
	for running := true; running; turns++ {
		select {
		case err := <-done:
			check(t, err)
			running = false
		default:
		}
		write(at(a, blue(a, sites...).with("ttl = 32"), red))
		if r := ask[reloaded](d, "reload"); !slices.Equal(r.Added, []string{"red"}) || !slices.Equal(r.Changed, []string{"blue"}) {
			t.Fatalf("%+v", r)
		}
		if links := must[[]string](t)(a.Host.Links()); !slices.Contains(links, "vx-red") || !slices.Contains(links, "br-red") {
			t.Fatalf("the new network is not among %v", links)
		}
		write(c)
		if r := ask[reloaded](d, "reload"); !slices.Equal(r.Removed, []string{"red"}) {
			t.Fatalf("%+v", r)
		}
		if links := must[[]string](t)(a.Host.Links()); slices.Contains(links, "vx-red") || slices.Contains(links, "br-red") {
			t.Fatalf("the removed network is still among %v", links)
		}
	}
	t.Logf("%d reloads", 2*turns)
	after := d.status()
	if len(after.Networks) != 1 || after.Networks[0].Device != before.Device || !after.Ready {
		t.Errorf("%+v", after)
	}
	if !slices.ContainsFunc(d.fdb(), func(e dataplane.FDBEntry) bool { return e.MAC == b.MAC && e.Origin == "learned" }) {
		t.Error("what was learned is lost")
	}
	if n := d.fds(); n > fds+2 {
		t.Errorf("%d files are open, %d before", n, fds)
	}
}

// A reload that cannot be says so and changes nothing, by the verb and by SIGHUP.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	c := at(a, blue(a, sites...))
	file, socket := prepare(t, c)
	d := startFile(t, a.Host, c, file, socket)
	reaches(t, a.Container, b.IPv4)
	good := c.toml(socket)
	links := must[[]string](t)(a.Host.Links())
	taken := network{name: "red", vni: 101, port: 4789, bridge: "br-red"}
	for want, text := range map[string]string{
		"unknown key":          good + "\nnonsense = 1\n",
		"[underlay] cannot":    strings.Replace(good, a.Underlay.String(), "192.0.2.99", 1),
		"bridge cannot change": strings.Replace(good, `bridge = "`+netlab.SiteBridge+`"`, `bridge = "br-other"`, 1),
		"vni cannot change":    strings.Replace(good, "vni = 100", "vni = 102", 1),
		"is taken by":          at(a, blue(a, sites...), taken).toml(socket),
	} {
		if want == "is taken by" {
			check(t, a.Host.AddBridge(taken.tap(), 1500))
		}
		check(t, os.WriteFile(file, []byte(text), 0o600))
		if _, err := d.try("reload"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if want == "is taken by" {
			check(t, a.Host.DeleteLink(taken.tap()))
		}
		if now := must[[]string](t)(a.Host.Links()); !slices.Equal(now, links) {
			t.Errorf("%s: links %v, before %v", want, now, links)
		}
		reachesAtOnce(t, a.Container, b.IPv4)
	}
	check(t, os.WriteFile(file, []byte(good+"\nnonsense = 1\n"), 0o600))
	d.signal(syscall.SIGHUP)
	eventually(t, "the log says why", func() error {
		if !strings.Contains(d.log.String(), "was not reloaded") || !strings.Contains(d.log.String(), "nonsense") {
			return fmt.Errorf("%s", d.log)
		}
		return nil
	})
	check(t, os.WriteFile(file, []byte(good), 0o600))
	d.signal(syscall.SIGHUP)
	eventually(t, "the log says that it was reloaded", func() error {
		if !strings.Contains(d.log.String(), "was reloaded") {
			return fmt.Errorf("%s", d.log)
		}
		return nil
	})
	check(t, os.Remove(file))
	if _, err := d.try("reload"); err == nil || !strings.Contains(err.Error(), filepath.Base(file)) {
		t.Errorf("without the file: %v", err)
	}
	reachesAtOnce(t, a.Container, b.IPv4)
}

// Addresses, routes and neighbours of a network that goes on come and go, and
// entries of the command line stay.
func TestReloadChangesHost(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	first := at(a, blue(a, sites...).with(`addresses = ["198.51.100.201/24", "203.0.113.1/24"]`))
	second := at(a, blue(a, sites...).with(`addresses = ["203.0.113.1/24", "203.0.113.2/24"]`))
	file, socket := prepare(t, first)
	d := startFile(t, a.Host, first, file, socket)
	d.verb("fdb", "add", "--network", "blue", "02:42:0a:00:01:77", b.Underlay.String())
	has := func(want ...string) {
		t.Helper()
		var got []string
		for _, p := range must[[]netip.Prefix](t)(a.Host.Addrs(netlab.SiteBridge)) {
			if p.Addr().Is4() {
				got = append(got, p.String())
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("addresses %v, want %v", got, want)
		}
	}
	has("198.51.100.201/24", "203.0.113.1/24")
	check(t, os.WriteFile(file, []byte(second.toml(socket)), 0o600))
	d.verb("reload")
	has("203.0.113.1/24", "203.0.113.2/24")
	if !slices.ContainsFunc(d.fdb(), func(e dataplane.FDBEntry) bool { return e.MAC.String() == "02:42:0a:00:01:77" }) {
		t.Error("the entry of the command line is gone")
	}
	if out := d.verb("reload"); strings.TrimSpace(out) != "nothing changed" {
		t.Errorf("a second reload says %q", out)
	}
	reaches(t, a.Container, b.IPv4)
	d.stop(syscall.SIGTERM)
	has()
}

// goroutines is what the daemon's metrics listener says of them.
func (d *daemon) goroutines(listener string) (n int) {
	d.t.Helper()
	var text []byte
	check(d.t, d.host.Do(func() error {
		// The namespace is that of the thread which opens the socket: the dialer
		// must not give it to another.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		at := netip.MustParseAddrPort(listener)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte("GET /metrics HTTP/1.0\r\n\r\n")); err != nil {
			return err
		}
		for buf := make([]byte, 64<<10); ; {
			n, err := unix.Read(fd, buf)
			if n <= 0 || err != nil {
				return err
			}
			text = append(text, buf[:n]...)
		}
	}))
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "go_goroutines %d", &n); err == nil {
			return n
		}
	}
	d.t.Fatalf("no go_goroutines in\n%s", text)
	return 0
}

// A container that was attached and an entry of the command line are there after a
// reload that changes their network.
func TestReloadKeeps(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	c := at(a, blue(a, sites...))
	file, socket := prepare(t, c)
	d := startFile(t, a.Host, c, file, socket)
	late := must[*netlab.Host](t)(lab.AddHost("late"))
	made := ask[attached](d, "attach", "blue", late.Namespace(), "--address", late4.String()+"/24")
	d.verb("fdb", "add", "--network", "blue", entered.String(), b.Underlay.String())
	for _, more := range [][]string{{"ttl = 32", `addresses = ["198.51.100.201/24"]`}, {"learning = false"}, nil} {
		check(t, os.WriteFile(file, []byte(at(a, blue(a, sites...).with(more...)).toml(socket)), 0o600))
		if r := ask[reloaded](d, "reload"); !slices.Equal(r.Changed, []string{"blue"}) {
			t.Errorf("%+v", r)
		}
		if all := d.attachments(); len(all) != 1 || all[0].Veth != made.Veth || all[0].Bridge != netlab.SiteBridge {
			t.Errorf("attached: %+v", all)
		}
		if e, ok := d.entry("blue", entered); !ok || e.Origin != "static" || e.Peer != b.Underlay {
			t.Errorf("the entry of the command line: %+v, %v", e, ok)
		}
		reachesAtOnce(t, late, b.IPv4)
	}
	d.verb("detach", "blue", late.Namespace())
}

// What a reload has made of the host when it fails is undone: all that was there
// before is, and nothing else.
func TestReloadFailsHalfWay(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	c := at(a, blue(a, sites...).with(`addresses = ["198.51.100.201/24"]`))
	file, socket := prepare(t, c)
	d := startFile(t, a.Host, c, file, socket)
	reaches(t, a.Container, b.IPv4)
	// IPv6 is off on what is made from now on.
	check(t, a.Host.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	same := unchanged(t, a.Host)
	before := d.status().Networks[0]
	half := at(a, blue(a, sites...).with(`addresses = ["198.51.100.202/24"]`, "ttl = 32"),
		network{name: "green", vni: 101, port: 8472, bridge: "br-green"}.with(`addresses = ["203.0.113.1/24"]`),
		network{name: "red", vni: 102, port: 8472, bridge: "br-red"}.with(`addresses = ["203.0.114.1/24", "2001:db8:7::1/64"]`))
	check(t, os.WriteFile(file, []byte(half.toml(socket)), 0o600))
	if _, err := d.try("reload"); err == nil || !strings.Contains(err.Error(), "network red") || !strings.Contains(err.Error(), "2001:db8:7::1") {
		t.Errorf("error: %v", err)
	}
	same("a reload that failed half-way")
	if s := d.status(); len(s.Networks) != 1 || s.Networks[0].Device != before.Device || !s.Ready {
		t.Errorf("%+v", s)
	}
	if !slices.ContainsFunc(d.fdb(), func(e dataplane.FDBEntry) bool { return e.MAC == b.MAC && e.Origin == "learned" }) {
		t.Error("what was learned is lost")
	}
	reachesAtOnce(t, a.Container, b.IPv4)
	// And the next one, which can be, is.
	check(t, a.Host.Sysctl("net/ipv6/conf/default/disable_ipv6", "0"))
	if r := ask[reloaded](d, "reload"); !slices.Equal(r.Added, []string{"green", "red"}) {
		t.Errorf("%+v", r)
	}
}

// Many reloads leave nothing behind: 200 of them, or as many as
// OVERTAP_RELOADS says.
func TestManyReloads(t *testing.T) {
	count := 200
	if s := os.Getenv("OVERTAP_RELOADS"); s != "" {
		if _, err := fmt.Sscan(s, &count); err != nil {
			t.Fatalf("OVERTAP_RELOADS: %v", err)
		}
	}
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a := sites[0]
	c := at(a, blue(a, sites...))
	file, socket := prepare(t, c)
	const metrics = "192.0.2.1:9472"
	listening := func(c config) string {
		return strings.Replace(c.toml(socket), `metrics = ""`, fmt.Sprintf("metrics = %q", metrics), 1)
	}
	check(t, os.WriteFile(file, []byte(listening(c)), 0o600))
	d := startFile(t, a.Host, c, file, socket)
	red := network{name: "red", vni: 101, port: 8472, bridge: "br-red"}
	texts := []string{listening(at(a, blue(a, sites...).with("ttl = 32"), red)), listening(c)}
	fds, memory, routines := 0, 0, 0
	start := time.Now()
	for i := range count {
		check(t, os.WriteFile(file, []byte(texts[i%2]), 0o600))
		d.verb("reload")
		if i == count/4|1 {
			fds, memory, routines = d.fds(), d.rss(), d.goroutines(metrics)
		}
	}
	t.Logf("%d reloads in %v; %d files, %d goroutines and %d KiB after a quarter, %d, %d and %d at the end",
		count, time.Since(start), fds, routines, memory, d.fds(), d.goroutines(metrics), d.rss())
	if n := d.goroutines(metrics); n > routines+5 {
		t.Errorf("%d goroutines, %d after a quarter of the reloads", n, routines)
	}
	if n := d.fds(); n > fds+2 {
		t.Errorf("%d files are open, %d after a quarter of the reloads", n, fds)
	}
	if n := d.rss(); n > memory*5/4+4096 && !raceEnabled {
		t.Errorf("%d KiB are resident, %d after a quarter of the reloads", n, memory)
	}
}

// A reload names what it changes, from what to what, and before that what it would
// change; what it refuses it names with the line of the file; and a folder of the
// configuration that was replaced, which its confinement keeps it from, it explains.
func TestReloadExplains(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a := sites[0]
	c := at(a, blue(a, sites...))
	first, socket := prepare(t, c)
	_, elsewhere := prepare(t, c)
	dir := filepath.Join(filepath.Dir(elsewhere), "conf")
	check(t, os.Mkdir(dir, 0o700))
	file := filepath.Join(dir, "overtap.toml")
	check(t, os.Rename(first, file))
	d := startFile(t, a.Host, c, file, socket)
	good := c.toml(socket)
	lineOf := func(text, key string) int {
		before, _, ok := strings.Cut(text, "\n"+key)
		if !ok {
			t.Fatalf("no %s in\n%s", key, text)
		}
		return strings.Count(before, "\n") + 2
	}

	red := network{name: "red", vni: 101, port: 8472, bridge: "br-red"}
	next := at(a, blue(a, sites...).with("ttl = 32"), red).toml(socket)
	check(t, os.WriteFile(file, []byte(next), 0o600))
	want := fmt.Sprintf("added red\nchanged blue\n  ttl: not set → 32 (line %d)\n", lineOf(next, "ttl = "))
	if out := d.verb("reload", "--dry-run"); out != "a dry run: nothing was changed; a reload would do this:\n"+want {
		t.Errorf("a dry run says %q, want %q", out, want)
	}
	if s := d.status(); len(s.Networks) != 1 {
		t.Errorf("after a dry run: %+v", s.Networks)
	}
	if out := d.verb("reload"); out != want {
		t.Errorf("the reload says %q, want %q", out, want)
	}
	if log := d.log.String(); !strings.Contains(log, `msg="changed by the reload" network=blue key=ttl`) || strings.Count(log, "was reloaded") != 1 {
		t.Errorf("the log:\n%s", log)
	}
	check(t, os.WriteFile(file, []byte(good), 0o600))
	d.verb("reload")

	for _, wrong := range []struct{ key, was, is, want string }{
		{"vni", "100", "102", `vxlan[0].vni (network "blue"): 102: was 100: vni cannot change while the network runs: `},
		{"bridge", `"` + netlab.SiteBridge + `"`, `"br-other"`, `vxlan[0].bridge (network "blue"): "br-other": was "` + netlab.SiteBridge + `": bridge cannot change while the network runs: `},
		{"address", `"` + a.Underlay.String() + `"`, `"192.0.2.99"`, `underlay.address: "192.0.2.99": was "` + a.Underlay.String() + `": [underlay] cannot change while the daemon runs: `},
	} {
		text := strings.Replace(good, wrong.key+" = "+wrong.was, wrong.key+" = "+wrong.is, 1)
		check(t, os.WriteFile(file, []byte(text), 0o600))
		want := fmt.Sprintf("%s:%d: %s", file, lineOf(text, wrong.key+" = "+wrong.is), wrong.want)
		for _, args := range [][]string{{"reload"}, {"reload", "--dry-run"}} {
			if _, err := d.try(args...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v of another %s: %v, want %s", args, wrong.key, err, want)
			}
		}
	}

	check(t, os.Rename(dir, dir+".old"))
	check(t, os.Mkdir(dir, 0o700))
	check(t, os.WriteFile(file, []byte(good), 0o600))
	if _, err := d.try("reload"); err == nil || !strings.Contains(err.Error(), "the folder "+dir+" was replaced since the daemon started") ||
		!strings.Contains(err.Error(), "Landlock") {
		t.Errorf("of a folder that was replaced: %v", err)
	}
	check(t, os.RemoveAll(dir))
	check(t, os.Rename(dir+".old", dir))
	check(t, os.WriteFile(file, []byte(good), 0o600))
	if out := d.verb("reload"); out != "nothing changed\n" {
		t.Errorf("of the folder that was put back: %q", out)
	}
}

// An MTU that is configured changes by a reload, on the living devices: of a network
// with a bridge, of one without, and of a tunnel. What stands on them stays.
func TestReloadMTU(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a, b := sites[0], sites[1]
	kernel.end(t, b, blue(b, sites...), sites)
	of := func(mtu int) config {
		line := fmt.Sprintf("mtu = %d", mtu)
		mine := blue(a, sites...).with(line)
		lone := network{name: "lone", vni: 101, port: 4789, peers: []netip.Addr{b.Underlay}}.with(line)
		c := at(a, mine, lone)
		c.last = fmt.Sprintf("[[ipip]]\nname = \"tun0\"\n%s\n[[ipip.route]]\nprefix = \"172.31.0.0/16\"\npeer = %q\n", line, b.Underlay)
		return c
	}
	file, socket := prepare(t, of(1450))
	d := startFile(t, a.Host, of(1450), file, socket)
	reaches(t, a.Container, b.IPv4)
	bridged, lone := furnishTAP(t, a.Host, "vx-blue"), furnishTAP(t, a.Host, "vx-lone")
	for _, mtu := range []int{1300, 1450} {
		check(t, os.WriteFile(file, []byte(of(mtu).toml(socket)), 0o600))
		if r := ask[reloaded](d, "reload"); len(r.Changed) != 3 || len(r.Added)+len(r.Removed) != 0 {
			t.Fatalf("%+v", r)
		}
		for _, dev := range []string{"vx-blue", "vx-lone", "tun0"} {
			if got := must[int](t)(a.Host.MTU(dev)); got != mtu {
				t.Errorf("%s has an MTU of %d, want %d", dev, got, mtu)
			}
		}
		for _, n := range d.status().Networks {
			if int(n.MTU) != mtu {
				t.Errorf("network %s has an MTU of %d, want %d", n.Network, n.MTU, mtu)
			}
		}
		if _, ok := d.entry("blue", b.MAC); !ok {
			t.Error("what was learned is lost")
		}
		bridged()
		lone()
		d.awaitReady(true)
		reaches(t, a.Container, b.IPv4)
	}
	exchange(t, a, b, 1<<20)
}
