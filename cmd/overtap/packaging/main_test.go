package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"overtap/bench/netlab/netlabtest"
)

// The packages under test: two versions of amd64's and one of arm64's.
const oldVersion, newVersion = "v1.0.0", "v1.1.0"

// packages holds their paths; they are built when the first test asks for them.
var packages struct {
	once          sync.Once
	dir           string
	old, new, arm string
	err           error
}

// epoch is the time of the packages under test.
const epoch = "1767323045" // 2026-01-02T03:04:05Z

func TestMain(m *testing.M) {
	// The packages are the same for every builder.
	os.Setenv("SOURCE_DATE_EPOCH", epoch)
	os.Unsetenv("DEBFULLNAME")
	os.Unsetenv("DEBEMAIL")
	code := m.Run()
	if err := os.RemoveAll(packages.dir); err != nil && packages.dir != "" {
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

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// built builds the packages, once.
func built(t testing.TB) {
	t.Helper()
	requireTools(t, "dpkg-deb:dpkg")
	packages.once.Do(func() {
		packages.err = func() (err error) {
			if packages.dir, err = os.MkdirTemp("", "overtap-packages"); err != nil {
				return err
			}
			made, err := build(context.Background(), oldVersion, []string{"amd64"}, packages.dir)
			if err != nil {
				return err
			}
			packages.old = made[0]
			if made, err = build(context.Background(), newVersion, []string{"amd64", "arm64"}, packages.dir); err != nil {
				return err
			}
			packages.new, packages.arm = made[0], made[1]
			return nil
		}()
	})
	check(t, packages.err)
}

// requireTools skips the test where one of the tools, each given with Debian's
// package of it, is not installed; with REQUIRE_ROOT=1 it fails it.
func requireTools(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		name, of, _ := strings.Cut(tool, ":")
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatalf("there is no %s, and REQUIRE_ROOT=1 forbids to skip: install Debian's %s", name, of)
		}
		t.Skipf("there is no %s: install Debian's %s", name, of)
	}
}

// command runs a program and returns its output and errors.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// debian returns the folder that root.sh made. Without it the test is skipped, or
// fails when the environment says REQUIRE_ROOT=1. Without root it does as
// netlabtest.Root.
func debian(t testing.TB) string {
	t.Helper()
	netlabtest.Root(t)
	script := must[[]byte](t)(os.ReadFile("testdata/root.sh"))
	cache := must[string](t)(os.UserCacheDir())
	dir := filepath.Join(cache, "overtap", fmt.Sprintf("debian-%x", sha256.Sum256(script))[:len("debian-")+12], "current")
	if _, err := os.Stat(filepath.Join(dir, "root.tar")); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			t.Fatalf("there is no Debian to install on, and REQUIRE_ROOT=1 forbids to skip: run testdata/root.sh: %v", err)
		}
		t.Skipf("there is no Debian to install on: run testdata/root.sh: %v", err)
	}
	return dir
}

// unpackDebian makes the throw-away root of a test.
func unpackDebian(t testing.TB) (root string) {
	t.Helper()
	from := debian(t)
	root = t.TempDir()
	check(t, os.Chmod(root, 0o755))
	command(t, "tar", "--numeric-owner", "-xpf", filepath.Join(from, "root.tar"), "-C", root)
	return root
}

// copyFile copies a file with its mode.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	info := must[os.FileInfo](t)(os.Stat(from))
	b := must[[]byte](t)(os.ReadFile(from))
	check(t, os.MkdirAll(filepath.Dir(to), 0o755))
	check(t, os.WriteFile(to, b, info.Mode().Perm()))
}

// file is a member of a package.
type file struct {
	*tar.Header
	content []byte
}

// contents reads a package: all of its files and directories, by path.
func contents(t testing.TB, deb string) map[string]file {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", deb, err, stderr.Bytes())
	}
	files := make(map[string]file)
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		check(t, err)
		b := must[[]byte](t)(io.ReadAll(r))
		files["/"+strings.Trim(strings.TrimPrefix(h.Name, "."), "/")] = file{h, b}
	}
}

// tree lists what is below a root: path, type and mode, and of regular files the
// sum. The files of dpkg itself are listed without the sum.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		all[name] = info.Mode().String()
		own := strings.HasPrefix(name, "/var/lib/dpkg/") || strings.HasPrefix(name, "/var/log/")
		if info.Mode().IsRegular() && !own {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			all[name] += fmt.Sprintf(" %x", sha256.Sum256(b))
		}
		return nil
	}))
	return all
}

// One package is made unless more are asked for: that of this machine.
func TestDefaultArchitecture(t *testing.T) {
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"-h"}, io.Discard, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	if want := fmt.Sprintf("some of amd64,arm64 (default %q)\n", runtime.GOARCH); !strings.Contains(stderr.String(), want) {
		t.Errorf("help lacks %q:\n%s", want, &stderr)
	}
}
