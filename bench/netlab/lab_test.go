package netlab_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/netlabtest"
)

// must returns a function that takes a call's results and fails the test on an
// error.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// labNamed returns a lab name of this process's own.
func labNamed(s string) string { return fmt.Sprintf("self%d-%s", os.Getpid(), s) }

// remains returns what is left outside of the labs of labNamed: their files,
// and devices that belong inside.
func remains(t testing.TB) (left []string) {
	files, _ := os.ReadDir("/run/netns")
	for _, f := range files {
		if strings.Contains(f.Name(), labNamed("")) {
			left = append(left, f.Name())
		}
	}
	for _, l := range must[[]net.Interface](t)(net.Interfaces()) {
		if strings.HasPrefix(l.Name, "selftest") {
			left = append(left, l.Name)
		}
	}
	return left
}

func openFiles(t testing.TB) int { return len(must[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd"))) }

func ownNamespace(t testing.TB) string {
	return must[string](t)(os.Readlink("/proc/thread-self/ns/net"))
}

func TestDestroyLeavesNothing(t *testing.T) {
	netlabtest.Root(t)
	home := ownNamespace(t)
	leaks, files := goleak.IgnoreCurrent(), openFiles(t)
	threads := func() int { return len(must[[]os.DirEntry](t)(os.ReadDir("/proc/self/task"))) }

	name := labNamed("1")
	var started int
	for i := range 5 {
		lab := must[*netlab.Lab](t)(netlab.New(name))
		defer lab.Destroy()
		a := must[*netlab.Host](t)(lab.AddHost("a"))
		b := must[*netlab.Host](t)(lab.AddHost("b"))
		check(t, netlab.AddVeth(a, "selftest0", b, "selftest1", 1500))
		if _, err := lab.AddHost("a"); !errors.Is(err, netlab.ErrExists) {
			t.Errorf("second host of one name: %v, want ErrExists", err)
		}
		if _, err := netlab.New(name); !errors.Is(err, netlab.ErrExists) {
			t.Errorf("second lab of one name: %v, want ErrExists", err)
		}
		if links := must[[]string](t)(a.Links()); fmt.Sprint(links) != "[selftest0]" {
			t.Errorf("devices of host a: %v, want selftest0", links)
		}
		check(t, lab.Destroy())
		check(t, lab.Destroy())
		if i == 0 {
			started = threads()
		}
	}
	if left := remains(t); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if got := ownNamespace(t); got != home {
		t.Errorf("the caller is in %s now, was in %s", got, home)
	}
	// Threads that the runtime starts for itself are few and come early.
	if n := threads(); n > started+3 {
		t.Errorf("%d threads, %d after the first lab", n, started)
	}
	if n := openFiles(t); n != files {
		t.Errorf("%d files open, %d before", n, files)
	}
	goleak.VerifyNone(t, leaks)
}

func TestCrashedLabIsFoundAndRemoved(t *testing.T) {
	netlabtest.Root(t)
	name := labNamed("crash")
	lab := must[*netlab.Lab](t)(netlab.New(name))
	a := must[*netlab.Host](t)(lab.AddHost("a"))
	must[*netlab.Host](t)(lab.AddHost("b"))
	// A host whose making was cut short: its file without the namespace.
	half := filepath.Join("/run/netns", "ot-"+name+"-c")
	check(t, os.WriteFile(half, nil, 0o444))
	t.Cleanup(func() { os.Remove(half) })
	sleeper := a.Command("sleep", "1000")
	pid := must[int](t)(sleeper.Detach(filepath.Join(t.TempDir(), "log")))

	// From here on as a later process would.
	if labs := must[[]string](t)(netlab.List()); !strings.Contains(fmt.Sprint(labs), name) {
		t.Fatalf("labs %v lack %s", labs, name)
	}
	again := must[*netlab.Lab](t)(netlab.Open(name))
	t.Cleanup(func() { again.Destroy() })
	if hosts := must[[]string](t)(again.Hosts()); fmt.Sprint(hosts) != "[a b c]" {
		t.Errorf("hosts %v, want a b c", hosts)
	}
	if _, err := again.Host("c"); err == nil {
		t.Error("a half-built host opened without an error")
	}
	if _, err := again.Host("d"); !errors.Is(err, netlab.ErrNotFound) {
		t.Errorf("unknown host: %v, want ErrNotFound", err)
	}
	host := must[*netlab.Host](t)(again.Host("a"))
	if ids := must[[]int](t)(host.Processes()); fmt.Sprint(ids) != fmt.Sprint([]int{pid}) {
		t.Errorf("processes in a: %v, want %d", ids, pid)
	}
	check(t, again.Destroy())
	check(t, lab.Destroy())
	if left := remains(t); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		// Reaped in the background.
		time.Sleep(100 * time.Millisecond)
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d of the lab lives on: %v", pid, err)
		}
	}
	if _, err := netlab.Open(name); !errors.Is(err, netlab.ErrNotFound) {
		t.Errorf("open a lab that is gone: %v, want ErrNotFound", err)
	}
}

func TestNamesAreChecked(t *testing.T) {
	for _, name := range []string{"", "-a", "a-", "A", "a/b", "..", strings.Repeat("a", 41)} {
		if _, err := netlab.New(name); err == nil {
			t.Errorf("New(%q) passed", name)
		}
		if _, err := netlab.Open(name); err == nil || errors.Is(err, netlab.ErrNotFound) {
			t.Errorf("Open(%q): %v, want a complaint about the name", name, err)
		}
	}
	lab := must[*netlab.Lab](t)(netlab.New(labNamed("names")))
	defer lab.Destroy()
	for _, name := range []string{"", "a-b", "../a", "A", strings.Repeat("a", 16)} {
		if _, err := lab.AddHost(name); err == nil {
			t.Errorf("AddHost(%q) passed", name)
		}
	}
}

func TestDoStaysInside(t *testing.T) {
	lab := netlabtest.New(t)
	a := must[*netlab.Host](t)(lab.AddHost("a"))
	home := ownNamespace(t)
	var inside string
	check(t, a.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	if inside == home || inside == "" {
		t.Errorf("Do ran in %s, the caller's namespace is %s", inside, home)
	}
	if got := ownNamespace(t); got != home {
		t.Errorf("Do left the caller in %s, not %s", got, home)
	}
	want := errors.New("mine")
	if err := a.Do(func() error { return want }); err != want {
		t.Errorf("Do returned %v, want the function's own error", err)
	}
	if err := a.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Do returned nil though the function did not return")
	}
	// No thread that others use may be left inside.
	for range 50 {
		done := make(chan string)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ns, _ := os.Readlink("/proc/thread-self/ns/net")
			done <- ns
		}()
		if ns := <-done; ns != home {
			t.Fatalf("a goroutine ran in %s, want %s", ns, home)
		}
	}
}

func TestCommandRunsInside(t *testing.T) {
	lab := netlabtest.New(t)
	a := must[*netlab.Host](t)(lab.AddHost("a"))
	var inside string
	check(t, a.Do(func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	script := []string{"-c", "readlink /proc/self/ns/net; echo oops >&2"}
	out := must[[]byte](t)(a.Command("sh", script...).Output())
	if got := strings.TrimSpace(string(out)); got != inside {
		t.Errorf("Output ran in %s, want %s", got, inside)
	}
	out = must[[]byte](t)(a.Command("sh", script...).CombinedOutput())
	if got := strings.TrimSpace(string(out)); got != inside+"\noops" {
		t.Errorf("CombinedOutput gave %q", got)
	}
	var buf bytes.Buffer
	c := a.Command("sh", script...).KillWithParent()
	c.Stdout = &buf
	check(t, c.Run())
	if got := strings.TrimSpace(buf.String()); got != inside {
		t.Errorf("Run ran in %s, want %s", got, inside)
	}
	var exit *exec.ExitError
	if err := a.Command("sh", "-c", "exit 3").Run(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("exit status: %v, want 3", err)
	}
	log := filepath.Join(t.TempDir(), "log")
	pid := must[int](t)(a.Command("sh", append(script[:1:1], script[1]+"; exec sleep 1000")...).Detach(log))
	deadline := time.Now().Add(5 * time.Second)
	for !strings.Contains(string(must[[]byte](t)(os.ReadFile(log))), inside+"\noops") {
		if time.Now().After(deadline) {
			t.Fatalf("log of the detached process: %q", must[[]byte](t)(os.ReadFile(log)))
		}
		time.Sleep(5 * time.Millisecond)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session of the detached process %d: %d, %v", pid, sid, err)
	}
}

func TestPingAcrossVeth(t *testing.T) {
	lab := netlabtest.New(t)
	a := must[*netlab.Host](t)(lab.AddHost("a"))
	b := must[*netlab.Host](t)(lab.AddHost("b"))
	check(t, netlab.AddVeth(a, "eth0", b, "eth0", 1400))
	for i, h := range []*netlab.Host{a, b} {
		check(t, h.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))))
		check(t, h.AddAddr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8:0:1::%d/64", i+1))))
	}
	for _, dst := range []string{"192.0.2.2", "2001:db8:0:1::2"} {
		to := netip.MustParseAddr(dst)
		r := must[netlab.PingResult](t)(netlab.Ping(a, to, netlab.PingOptions{Count: 20, Size: 1000, DF: true}))
		if r.Sent != 20 || r.Received != 20 || len(r.RTTs) != 20 || r.Duplicates+r.Corrupted+r.Errors != 0 || r.PathMTU != 1400 {
			t.Errorf("%s: %v, path MTU %d; want all 20 and 1400", dst, r, r.PathMTU)
		}
		if r.Min() <= 0 || r.Min() > r.Median() || r.Median() > r.Max() {
			t.Errorf("%s: round trips out of order: %v", dst, r)
		}
		r = must[netlab.PingResult](t)(netlab.Ping(a, to, netlab.PingOptions{Count: 2, Size: 3000}))
		if r.Received != 2 {
			t.Errorf("%s: in fragments: %v, want both", dst, r)
		}
		r = must[netlab.PingResult](t)(netlab.Ping(a, to, netlab.PingOptions{Size: 3000, DF: true}))
		if r.Received != 0 || !errors.Is(r.Err, unix.EMSGSIZE) {
			t.Errorf("%s: too big with DF: %v, want EMSGSIZE", dst, r)
		}
	}
	unused := netip.MustParseAddr("192.0.2.9")
	r := must[netlab.PingResult](t)(netlab.Ping(a, unused, netlab.PingOptions{Count: 1, Timeout: 50 * time.Millisecond}))
	if r.Sent != 1 || r.Received != 0 {
		t.Errorf("to an unused address: %v, want no answer", r)
	}
}
