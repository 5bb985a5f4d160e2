package confine

import (
	"fmt"
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

// What is there is found from below what is not.
func TestStanding(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir: dir, filepath.Join(dir, "a", "b"): dir, "/no/such/place": "/", fmt.Sprintf("%s/../%s", dir, filepath.Base(dir)): dir,
	} {
		if got := standing(path); filepath.Clean(got) != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
