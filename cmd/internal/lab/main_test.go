package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests build labs by their real names. So that they touch none that is up
// on this machine, and so that nothing outlives them, they run in a second
// process with a /run, a /var/lib, process ids and a network of its own.
const inside = "OVERTAP_LAB_TEST_INSIDE"

// binary is the real program, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(inside) == "" {
		return runInside()
	}
	dir, err := furnish()
	if dir != "" {
		defer os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "run the tests in namespaces of their own:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// furnish makes the mounts and builds the program, which any user may run.
func furnish() (dir string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return "", fmt.Errorf("mount /proc: %w", err)
	}
	if dir, err = os.MkdirTemp("", "overtap-lab-test-"); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return dir, err
	}
	binary = filepath.Join(dir, "overtap")
	if out, err := exec.Command("go", "build", "-o", binary, "overtap/cmd/overtap").CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build overtap: %w\n%s", err, out)
	}
	// Copies of what labs of others mounted: hidden below our /run, they would
	// keep those labs alive.
	for _, at := range mountsBelow("/run/netns/") {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return dir, fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	for _, at := range []string{"/run", "/var/lib"} {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, "mode=755"); err != nil {
			return dir, fmt.Errorf("mount a %s of the tests' own: %w", at, err)
		}
	}
	return dir, nil
}

// mountsBelow returns the places of mounts whose path begins so.
func mountsBelow(prefix string) (at []string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.HasPrefix(f[1], prefix) {
			at = append(at, f[1])
		}
	}
	return at
}

// root skips the test without root, or fails it when that is forbidden. With
// root it checks in the end that the test left nothing behind.
func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		before := machine(t)
		t.Cleanup(func() {
			checkNothingLeft(t)
			if after := machine(t); after != before {
				t.Errorf("the machine before:\n%s\nafter:\n%s", before, after)
			}
		})
		return
	}
	if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("labs need root, and REQUIRE_ROOT=1 forbids to skip")
	}
	t.Skip("labs need root")
}

// machine lists the links, addresses and routes of this machine, which no lab
// may change.
func machine(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range links {
		a := l.Attrs()
		lines = append(lines, fmt.Sprintf("link %s %s flags %#x master %d MTU %d", a.Name, l.Type(), a.RawFlags, a.MasterIndex, a.MTU))
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		lines = append(lines, "address "+a.String())
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		lines = append(lines, fmt.Sprintf("route %v via %v dev %d table %d proto %d", r.Dst, r.Gw, r.LinkIndex, r.Table, r.Protocol))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// result is what came of running the program.
type result struct {
	out, err string
	code     int
}

// run runs the program with the arguments and says what came of it.
func run(t *testing.T, args ...string) result {
	t.Helper()
	return runCmd(t, program(args...))
}

func program(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SUDO_USER=")
	return cmd
}

func runCmd(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	cmd.Stderr = &errs
	// A detached daemon must not keep us waiting.
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer stop.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs the program, which must succeed and say nothing on standard error,
// and returns its output.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	r := run(t, args...)
	if r.code != 0 || r.err != "" {
		t.Fatalf("overtap %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// refused runs the program, which must fail with those words.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	r := run(t, args...)
	if r.code != 1 || !strings.Contains(r.err, want) {
		t.Errorf("overtap %s: exit code %d, %q; want 1 and %q", strings.Join(args, " "), r.code, r.err, want)
	}
}

func wants(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%q is missing in\n%s", w, out)
		}
	}
}

// checkNothingLeft looks for all that a lab consists of, and cleans up so that
// the next test may begin.
func checkNothingLeft(t *testing.T) {
	t.Helper()
	left := leftovers(t)
	// The kernel takes its time to end what was killed.
	for deadline := time.Now().Add(3 * time.Second); len(left) > 0 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
		left = leftovers(t)
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		run(t, "lab", "down", "--all")
	}
}

func leftovers(t *testing.T) (left []string) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/*", "/run/overtap", "/var/lib/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	for _, at := range mountsBelow("/run/netns/") {
		left = append(left, "mount "+at)
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if _, alive, err := startTime(pid); err == nil && alive {
			cmd, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
			left = append(left, fmt.Sprintf("process %d: %q", pid, cmd))
		}
	}
	return left
}

// vxlanTopology is what commands that name none mean.
func vxlanTopology() *Topology {
	t, err := Find(Default)
	if err != nil {
		panic(err)
	}
	return t
}
