package confine

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const unit = "../../overtap/packaging/overtap.service"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The documentation names each capability that is kept, and the unit leaves those
// and the one that it takes to drop the others.
func TestKeptIsTold(t *testing.T) {
	want := []string{"CAP_SETPCAP"}
	docs := read(t, "../../../docs/security.md")
	for _, k := range Kept {
		name := strings.ToUpper(k.Value.String())
		want = append(want, name)
		if !strings.Contains(docs, "`"+name+"`") {
			t.Errorf("docs/security.md does not name %s", name)
		}
	}
	slices.Sort(want)
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(read(t, unit))
	if m == nil {
		t.Fatal("the unit has no CapabilityBoundingSet")
	}
	got := strings.Fields(m[1])
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the unit leaves %v, want %v", got, want)
	}
}

// The unit is one that systemd understands, and no more exposed than the
// documentation says.
func TestUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("systemd-analyze is not installed")
		}
		t.Skip("systemd-analyze is not installed")
	}
	m := regexp.MustCompile(`gives it (\d+)\.(\d) `).FindStringSubmatch(read(t, "../../../docs/security.md"))
	if m == nil {
		t.Fatal("docs/security.md does not say how exposed the unit is")
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--threshold="+m[1]+m[2], unit).CombinedOutput()
	if err != nil {
		t.Errorf("more exposed than %s.%s: %v\n%s", m[1], m[2], err, out)
	}
	// With a program that is there.
	text := regexp.MustCompile(`/usr/sbin/overtap`).ReplaceAllString(read(t, unit), "/bin/true")
	path := filepath.Join(t.TempDir(), "overtap.service")
	if err := os.WriteFile(path, []byte(strings.Replace(text, "Documentation=man:overtap(8)\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if complaint := regexp.MustCompile(`(?m)^.*overtap\.service.*$`).FindString(string(out)); err != nil || complaint != "" {
		t.Errorf("%v: %s", err, out)
	}
}

// What the unit closes beside Landlock, and what it leaves open.
func TestUnitPaths(t *testing.T) {
	text := read(t, unit)
	for _, line := range []string{
		"ReadOnlyPaths=/proc/sys /sys", "ReadWritePaths=/proc/sys/net",
		"InaccessiblePaths=-/run/docker.sock ", "InaccessiblePaths=-/etc/shadow ",
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("the unit lacks %s", line)
		}
	}
}

// confined is set in the process that TestFiles starts: the directory that it may use.
const confined = "OVERTAP_TEST_CONFINED"

// A process that was confined as the daemon is writes nothing of the host but
// /proc/sys/net and the socket's directory, and reads no secrets.
func TestFiles(t *testing.T) {
	if dir := os.Getenv(confined); dir != "" {
		tryFiles(t, dir)
		return
	}
	if Landlock() == 0 || os.Geteuid() != 0 {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatal("this test needs root and Landlock")
		}
		t.Skip("needs root and Landlock")
	}
	dir := t.TempDir()
	for _, d := range []string{"etc", "run/overtap", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"etc/overtap.toml", "other/secret"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestFiles$", "-test.v")
	c.Env = append(os.Environ(), confined+"="+dir)
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestFiles") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func tryFiles(t *testing.T, dir string) {
	at := func(name string) string { return filepath.Join(dir, name) }
	p := Paths{Config: at("etc/overtap.toml"), Socket: at("run/overtap/control.sock"), Made: []string{at("run/overtap"), at("run")}}
	if err := errors.Join(Files(p), Privileges()); err != nil {
		t.Fatal(err)
	}
	open := func(path string, flags int) error {
		f, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			f.Close()
		}
		return err
	}
	for _, c := range []struct {
		path  string
		flags int
		may   bool
	}{
		{"/proc/sys/kernel/core_pattern", os.O_WRONLY, false},
		{"/proc/sys/vm/swappiness", os.O_WRONLY, false},
		{"/proc/sys/net/ipv4/ip_forward", os.O_WRONLY, true},
		{"/proc/sys/kernel/random/boot_id", os.O_RDONLY, true},
		{"/proc/self/oom_score_adj", os.O_WRONLY, false},
		{"/proc/thread-self/ns/net", os.O_RDONLY, true},
		{"/etc/shadow", os.O_RDONLY, false},
		{"/etc/passwd", os.O_RDONLY, false},
		{"/etc/hosts", os.O_RDONLY, true},
		{"/run/x", os.O_WRONLY | os.O_CREATE, false},
		{at("other/secret"), os.O_RDONLY, false},
		{at("etc/overtap.toml"), os.O_RDONLY, true},
		{at("etc/overtap.toml"), os.O_WRONLY, false},
		{at("run/x"), os.O_WRONLY | os.O_CREATE, false},
		{at("run/overtap/journal"), os.O_RDWR | os.O_CREATE, true},
	} {
		err := open(c.path, c.flags)
		if c.may == errors.Is(err, fs.ErrPermission) {
			t.Errorf("opening %s (flags %#x): %v, want it allowed: %t", c.path, c.flags, err, c.may)
		}
	}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := errors.Join(os.Remove(at("run/overtap/journal")), os.Remove(at("run/overtap")), os.Remove(at("run"))); err != nil {
		t.Error("what was made for the socket cannot be removed: ", err)
	}
}

// Of a configuration in /etc itself the file is readable, and no other.
func TestAbsoluteDir(t *testing.T) {
	t.Chdir("/etc")
	for path, want := range map[string]string{"/etc/overtap.toml": "/etc", "overtap.toml": "/etc", "overtap/overtap.toml": "/etc/overtap", "/x": "/"} {
		if got := absoluteDir(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
