package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestDebianVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                       "1.2.3",
		"v1.2.3-rc.1":                  "1.2.3~rc.1",
		"v1.2.3-a-b":                   "1.2.3~a.b",
		"v1.2.3+4.gabcdef0":            "1.2.3+4.gabcdef0",
		"v1.2.3-rc.1+4.gabcdef0.dirty": "1.2.3~rc.1+4.gabcdef0.dirty",
		"v0.0.0-20260102030405-abcdef": "0.0.0~20260102030405.abcdef",
	} {
		if got, err := debianVersion(version); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", version, got, err, want)
		}
	}
	for _, version := range []string{"", "1.2.3", "v1.2", "v1.2.3-", "v1.2.3 ", "v1.2.3\n", "latest", "v1.2.3~rc1", "v1.2.3-$(id)"} {
		if got, err := debianVersion(version); err == nil || !strings.Contains(err.Error(), "want v1.2.3") {
			t.Errorf("%q: %q, %v", version, got, err)
		}
	}
}

// Debian upgrades in the order in which versions were made.
func TestVersionsAscend(t *testing.T) {
	requireTools(t, "dpkg:dpkg")
	ascending := []string{"v0.0.0-20260102030405-f0", "v0.0.0-20260102030406-a0", "v0.0.0", "v1.2.3-rc.1", "v1.2.3-rc.1+2.gf0", "v1.2.3-rc.2", "v1.2.3", "v1.2.3+4.gf0", "v1.2.4-rc.1"}
	last := ""
	for _, version := range ascending {
		v, err := debianVersion(version)
		check(t, err)
		if last != "" {
			if err := exec.Command("dpkg", "--compare-versions", last+"-"+revision, "lt", v+"-"+revision).Run(); err != nil {
				t.Errorf("%s is not below %s: %v", last, v, err)
			}
		}
		last = v
	}
}

// Where no version is named git says which it is.
func TestDescribe(t *testing.T) {
	requireTools(t, "git:git")
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	t.Setenv("GIT_CONFIG_SYSTEM", os.DevNull)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_COMMITTER_DATE=2026-01-02T04:04:05+0100")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	is := func(stamp, debian string) {
		t.Helper()
		r, err := newRelease(t.Context(), dir, "")
		if err != nil || r.stamp != stamp || r.debian != debian || r.time.Unix() != 1767323045 {
			t.Errorf("%+v, %v, want %s, %s", r, err, stamp, debian)
		}
	}
	if _, err := newRelease(t.Context(), dir, ""); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("without git: %v", err)
	}
	git("init", "-q")
	git("commit", "-q", "--allow-empty", "-m", "one")
	hash := git("rev-parse", "--short", "HEAD")
	is("v0.0.0-20260102030405-"+hash, "0.0.0~20260102030405."+hash)
	git("tag", "v1.2.3")
	is("v1.2.3", "1.2.3")
	check(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600))
	git("add", "a")
	is("v1.2.3+dirty", "1.2.3+dirty")
	git("commit", "-q", "-m", "two")
	hash = git("rev-parse", "--short", "HEAD")
	is("v1.2.3+1.g"+hash, "1.2.3+1.g"+hash)
	check(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o600))
	is("v1.2.3+1.g"+hash+".dirty", "1.2.3+1.g"+hash+".dirty")
}
