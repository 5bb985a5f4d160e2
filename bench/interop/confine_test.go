package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
)

// The running daemon has the capabilities that docs/security.md lists on every
// thread, and no others within reach; files outside are closed to it.
func TestConfined(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a := sites[0]
	c := at(a, blue(a, sites...))
	file, socket := prepare(t, c)
	d := startFile(t, a.Host, c, file, socket)

	var want uint64
	for _, v := range []int{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_ADMIN} {
		want |= 1 << v
	}
	tasks := must[[]string](t)(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid)))
	if len(tasks) < 5 {
		t.Errorf("only %d threads", len(tasks))
	}
	for _, task := range tasks {
		text := string(must[[]byte](t)(os.ReadFile(task)))
		for _, line := range []string{
			"CapInh:\t0000000000000000", fmt.Sprintf("CapPrm:\t%016x", want), fmt.Sprintf("CapEff:\t%016x", want),
			fmt.Sprintf("CapBnd:\t%016x", want), "CapAmb:\t0000000000000000", "NoNewPrivs:\t1",
		} {
			if !strings.Contains(text, line+"\n") {
				t.Errorf("%s lacks %q in\n%s", task, line, text)
			}
		}
	}

	// The configuration's own directory may be read, what it points to may not.
	good := must[[]byte](t)(os.ReadFile(file))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere.toml")
	check(t, os.WriteFile(elsewhere, good, 0o600))
	d.verb("reload")
	check(t, os.Remove(file))
	check(t, os.Symlink(elsewhere, file))
	_, err := d.try("reload")
	if landlocked() {
		if err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("a file outside was read: %v", err)
		}
	} else if err != nil {
		t.Error(err)
	}
}

// landlocked reports whether the kernel has Landlock.
func landlocked() bool {
	const version = 1 // LANDLOCK_CREATE_RULESET_VERSION
	_, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	return e == 0
}

// With confine = false nothing is given up.
func TestNotConfined(t *testing.T) {
	t.Parallel()
	lab := netlabtest.New(t)
	sites := must[[]*netlab.Site](t)(lab.Sites(netlab.SiteSpec{}))
	a := sites[0]
	c := at(a, blue(a, sites...))
	c.engine = append(c.engine, "confine = false")
	d := start(t, a.Host, c)
	text := string(must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))))
	own := string(must[[]byte](t)(os.ReadFile("/proc/self/status")))
	for _, key := range []string{"CapEff:", "CapBnd:", "NoNewPrivs:"} {
		line := func(s string) string {
			_, rest, _ := strings.Cut(s, key)
			value, _, _ := strings.Cut(rest, "\n")
			return value
		}
		if line(text) != line(own) {
			t.Errorf("%s%s, the test's own is%s", key, line(text), line(own))
		}
	}
}
