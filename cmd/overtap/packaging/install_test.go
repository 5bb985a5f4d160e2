package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
)

// patience is how long anything may take that happens at once on an idle machine.
const patience = 30 * time.Second

// journal collects the output of a process.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

// String returns the output so far.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// daemon is an overtap that runs in another root, on a site's host.
type daemon struct {
	t     testing.TB
	cmd   *netlab.Cmd
	log   *journal
	ended chan struct{} // closed when the process is gone
	err   error         // of Wait, once ended
}

// start runs a shell script on the host, in a mount namespace of its own, which ends
// by executing the daemon, and waits until that is ready. The test's end kills it.
func start(t testing.TB, h *netlab.Host, script string, args ...string) *daemon {
	t.Helper()
	d := &daemon{
		t: t, log: &journal{}, ended: make(chan struct{}),
		cmd: h.Command("unshare", append([]string{"--mount", "sh", "-euc", script, "sh"}, args...)...).KillWithParent(),
	}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	check(t, d.cmd.Start())
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		select {
		case <-d.ended:
		default:
			d.cmd.Process.Kill() // no error but that it has ended
			<-d.ended
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.log)
		}
	})
	for deadline := time.Now().Add(patience); !strings.Contains(d.log.String(), "msg=ready"); time.Sleep(20 * time.Millisecond) {
		select {
		case <-d.ended:
			t.Fatalf("the daemon ended: %v", d.err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemon is not ready within %v", patience)
		}
	}
	return d
}

// stop ends the daemon as an operator does.
func (d *daemon) stop() {
	d.t.Helper()
	check(d.t, d.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Fatalf("the daemon does not end within %v", patience)
	}
	if d.err != nil {
		d.t.Errorf("the daemon ended with %v, want exit code 0", d.err)
	}
}

// passes checks that frames of the first site's container reach the second's and
// back.
func passes(t testing.TB, sites []*netlab.Site) {
	t.Helper()
	var last netlab.PingResult
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		r, err := netlab.Ping(sites[0].Container, sites[1].IPv4, netlab.PingOptions{Count: 3})
		check(t, err)
		if last = r; r.Received == r.Sent {
			return
		}
	}
	t.Fatalf("ping across: %v", last)
}

// sites makes two of them, of which the second has the kernel's vxlan and the first
// waits for overtap.
func sites(t testing.TB) []*netlab.Site {
	t.Helper()
	netlabtest.KernelVXLAN(t)
	s := must[[]*netlab.Site](t)(netlabtest.New(t).Sites(netlab.SiteSpec{}))
	check(t, s[1].AddKernelVXLAN(100, 4789, s...))
	return s
}

// configuration joins the first site to the second.
func configuration(s []*netlab.Site) []byte {
	return fmt.Appendf(nil, "[underlay]\naddress = %q\n[[vxlan]]\nname = \"blue\"\nvni = 100\nbridge = %q\n[[vxlan.peer]]\naddress = %q\n",
		s[0].Underlay, netlab.SiteBridge, s[1].Underlay)
}

// The package is installed with dpkg, runs, is upgraded, removed and purged, and what
// is on the disk is what was there before. There is no systemd: TestService has one.
func TestInstall(t *testing.T) {
	built(t)
	root := unpackDebian(t)
	s := sites(t)
	for name, deb := range map[string]string{"old.deb": packages.old, "new.deb": packages.new} {
		copyFile(t, deb, filepath.Join(root, name))
	}
	// Where the daemon's start mounts something.
	check(t, os.MkdirAll(filepath.Join(root, "dev/net"), 0o755))
	check(t, os.WriteFile(filepath.Join(root, "dev/net/tun"), nil, 0o600))
	dpkg := func(args ...string) string {
		t.Helper()
		return command(t, "chroot", append([]string{root, "dpkg", "--force-unsafe-io"}, args...)...)
	}
	const conf, unit, bin = "/etc/overtap/overtap.toml", "/usr/lib/systemd/system/overtap.service", "/usr/sbin/overtap"
	exists := func(name string, want bool) {
		t.Helper()
		if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	// dpkg's own log is there from the first package on.
	check(t, os.WriteFile(filepath.Join(root, "var/log/dpkg.log"), nil, 0o644))
	before := tree(t, root)

	dpkg("--install", "/old.deb")
	for _, name := range []string{conf, unit, bin} {
		exists(name, true)
	}
	exists("/etc/systemd/system/multi-user.target.wants/overtap.service", false)
	if got := command(t, "chroot", root, bin, "version"); !strings.HasPrefix(got, "overtap "+oldVersion+" ") {
		t.Errorf("installed is %s", got)
	}

	own := configuration(s)
	check(t, os.WriteFile(filepath.Join(root, conf), own, 0o644))
	run := func() {
		t.Helper()
		d := start(t, s[0].Host, `
			mount -t proc proc "$1/proc"
			mount -t sysfs sysfs "$1/sys"
			mount --bind /dev/net/tun "$1/dev/net/tun"
			exec chroot "$1" /usr/sbin/overtap run --config /etc/overtap/overtap.toml`, root)
		passes(t, s)
		if got := command(t, "chroot", root, bin, "peers"); !strings.Contains(got, s[1].Underlay.String()) {
			t.Errorf("its peers are\n%s", got)
		}
		d.stop()
		if links := must[[]string](t)(s[0].Host.Links()); slices.Contains(links, "blue") {
			t.Errorf("stopped, it left %v", links)
		}
	}
	run()

	dpkg("--install", "/new.deb")
	if got := command(t, "chroot", root, bin, "version"); !strings.HasPrefix(got, "overtap "+newVersion+" ") {
		t.Errorf("upgraded, it is %s", got)
	}
	kept := func() {
		t.Helper()
		if b := must[[]byte](t)(os.ReadFile(filepath.Join(root, conf))); !bytes.Equal(b, own) {
			t.Errorf("the configuration became\n%s", b)
		}
	}
	kept()
	run()

	dpkg("--remove", "overtap")
	exists(bin, false)
	exists(unit, false)
	kept()
	// Files that the daemon and the operator may have made are gone too.
	check(t, os.MkdirAll(filepath.Join(root, "run/overtap"), 0o700))
	for _, name := range []string{"run/overtap/state", "etc/overtap/another.toml"} {
		check(t, os.WriteFile(filepath.Join(root, name), nil, 0o600))
	}
	dpkg("--purge", "overtap")
	after := tree(t, root)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if was, ok := before[name]; !ok {
			t.Errorf("left behind: %s", name)
		} else if was != after[name] {
			t.Errorf("changed: %s was %s and is %s", name, was, after[name])
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			t.Errorf("lost: %s", name)
		}
	}
}
