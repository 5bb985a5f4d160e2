package main

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The packages hold the program of their architecture, linked statically, and what
// belongs to it, owned by root.
func TestPackage(t *testing.T) {
	built(t)
	for _, p := range []struct {
		path, arch, version string
		machine             elf.Machine
	}{
		{packages.old, "amd64", "1.0.0-1", elf.EM_X86_64},
		{packages.new, "amd64", "1.1.0-1", elf.EM_X86_64},
		{packages.arm, "arm64", "1.1.0-1", elf.EM_AARCH64},
	} {
		if want := "overtap_" + p.version + "_" + p.arch + ".deb"; filepath.Base(p.path) != want {
			t.Errorf("%s, want %s", p.path, want)
		}
		for field, want := range map[string]string{
			"Package": "overtap", "Version": p.version, "Architecture": p.arch, "Depends": "", "Section": "net",
		} {
			if got := strings.TrimSpace(command(t, "dpkg-deb", "--field", p.path, field)); got != want {
				t.Errorf("%s: %s is %q, want %q", p.path, field, got, want)
			}
		}
		if got := command(t, "dpkg-deb", "--info", p.path, "conffiles"); strings.TrimSpace(got) != "/etc/overtap/overtap.toml" {
			t.Errorf("%s: the conffiles are %q", p.path, got)
		}
		files := contents(t, p.path)
		for name, f := range files {
			mode := f.FileInfo().Mode()
			want := fs.FileMode(0o644)
			if mode.IsDir() || name == "/usr/sbin/overtap" {
				want = 0o755
			}
			if f.Uid != 0 || f.Gid != 0 || mode.Perm() != want || !mode.IsDir() && !mode.IsRegular() {
				t.Errorf("%s: %s is %s of %d:%d", p.path, name, mode, f.Uid, f.Gid)
			}
			if f.ModTime.Unix() != 1767323045 {
				t.Errorf("%s: %s is of %v", p.path, name, f.ModTime)
			}
		}
		for _, name := range []string{
			"/usr/lib/systemd/system/overtap.service", "/usr/share/doc/overtap/copyright", "/usr/share/doc/overtap/README.Debian",
			"/usr/share/doc/overtap/examples/overtap.toml", "/usr/share/doc/overtap/changelog.gz", "/usr/share/doc/overtap/changelog.Debian.gz",
			"/usr/share/bash-completion/completions/overtap", "/usr/share/zsh/vendor-completions/_overtap", "/usr/share/fish/vendor_completions.d/overtap.fish",
		} {
			if len(files[name].content) == 0 {
				t.Errorf("%s has no %s", p.path, name)
			}
		}
		for _, guide := range must[[]string](t)(filepath.Glob("../../../docs/*.md")) {
			name := "/usr/share/doc/overtap/" + filepath.Base(guide)
			if len(files[name].content) == 0 {
				t.Errorf("%s has no %s", p.path, name)
			}
			for _, link := range markdownLink.FindAllStringSubmatch(string(files[name].content), -1) {
				if _, ok := files[path.Join(path.Dir(name), link[2])]; !ok {
					t.Errorf("%s: %s leads to %s, which is not in it", p.path, name, link[2])
				}
			}
		}
		static(t, files["/usr/sbin/overtap"].content, p.machine)
		if head := gunzip(t, files["/usr/share/doc/overtap/changelog.Debian.gz"].content); !strings.HasPrefix(head, "overtap ("+p.version+") ") {
			t.Errorf("%s: its changelog is of another version:\n%s", p.path, head)
		}
	}
}

// static checks that a program needs no library: it names no interpreter.
func static(t testing.TB, program []byte, machine elf.Machine) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	check(t, err)
	if f.Machine != machine {
		t.Errorf("the program is for %v, want %v", f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program is linked dynamically: %v", p.Type)
		}
	}
}

func gunzip(t testing.TB, b []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	check(t, err)
	return string(must[[]byte](t)(io.ReadAll(z)))
}

// program unpacks this machine's package and returns its program.
func program(t *testing.T) (path string, files map[string]file) {
	t.Helper()
	built(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the package that can run here is not among those under test")
	}
	files = contents(t, packages.old)
	path = filepath.Join(t.TempDir(), "overtap")
	check(t, os.WriteFile(path, files["/usr/sbin/overtap"].content, 0o700))
	return path, files
}

// The program knows its version, and the package has the documents that it
// prints: a manual page for each verb, and the three shells' completion.
func TestPackageIsOfItsProgram(t *testing.T) {
	own, files := program(t)
	if got := command(t, own, "version"); !strings.HasPrefix(got, "overtap "+oldVersion+" go") {
		t.Errorf("it is version %q", got)
	}
	dir := t.TempDir()
	for section, least := range map[string]int{"8": 10, "5": 1} {
		written := filepath.Join(dir, section)
		command(t, own, "man", "--section", section, written)
		pages := must[[]os.DirEntry](t)(os.ReadDir(written))
		in := "/usr/share/man/man" + section + "/"
		for _, page := range pages {
			text := must[[]byte](t)(os.ReadFile(filepath.Join(written, page.Name())))
			packed, ok := files[in+page.Name()+".gz"]
			if !ok || gunzip(t, packed.content) != string(text) {
				t.Errorf("the package lacks %s as the program writes it", page.Name())
			}
		}
		packed := slices.DeleteFunc(slices.Collect(maps.Keys(files)), func(n string) bool { return !strings.HasPrefix(n, in) })
		if len(pages) < least || len(packed) != len(pages) {
			t.Errorf("%d manual pages of section %s are packed, %d were written", len(packed), section, len(pages))
		}
	}
	for shell, name := range map[string]string{
		"bash": "/usr/share/bash-completion/completions/overtap", "zsh": "/usr/share/zsh/vendor-completions/_overtap", "fish": "/usr/share/fish/vendor_completions.d/overtap.fish",
	} {
		if string(files[name].content) != command(t, own, "completion", shell) {
			t.Errorf("%s is not the completion for %s", name, shell)
		}
	}
	// bash takes it.
	script := filepath.Join(dir, "overtap.bash")
	check(t, os.WriteFile(script, files["/usr/share/bash-completion/completions/overtap"].content, 0o600))
	if got := command(t, "bash", "--norc", "-c", "source "+script+" && complete -p overtap"); !strings.Contains(got, "__start_overtap") {
		t.Errorf("bash completes %q", got)
	}
}

// The configuration of the package is refused as it is, and is one of two hosts when
// it is switched on.
func TestConffile(t *testing.T) {
	own, files := program(t)
	text := string(files["/etc/overtap/overtap.toml"].content)
	path := filepath.Join(t.TempDir(), "overtap.toml")
	check(t, os.WriteFile(path, []byte(text), 0o600))
	out, err := exec.Command(own, "check", "--config", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "underlay.address") {
		t.Errorf("switched off: %v, %s", err, out)
	}
	on := ""
	for line := range strings.Lines(text) {
		if len(line) > 1 && line[0] == '#' && line[1] != ' ' && line[1] != '\n' {
			line = line[1:]
		}
		on += line
	}
	check(t, os.WriteFile(path, []byte(on), 0o600))
	command(t, own, "check", "--config", path)
}

// The copyright file has a licence for each module of the program.
func TestCopyright(t *testing.T) {
	_, files := program(t)
	text := string(files["/usr/share/doc/overtap/copyright"].content)
	for _, name := range []string{"the Go standard library", "github.com/cilium/ebpf", "github.com/spf13/cobra", "golang.org/x/sys"} {
		if !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("no word of %s", name)
		}
	}
	if strings.Contains(text, "TERMS AND CONDITIONS FOR COPYING") {
		t.Error("it has the whole GPL, which Debian has once for all packages")
	}
	bare := module{"example.org/bare", "v1.0.0", t.TempDir()}
	if _, err := copyright([]module{bare}); err == nil || !strings.Contains(err.Error(), "example.org/bare v1.0.0 has no licence") {
		t.Errorf("a module without a licence: %v", err)
	}
}

// The same sources make the same bytes.
func TestReproducible(t *testing.T) {
	built(t)
	again, err := build(t.Context(), newVersion, []string{"arm64"}, t.TempDir())
	check(t, err)
	if !bytes.Equal(must[[]byte](t)(os.ReadFile(packages.arm)), must[[]byte](t)(os.ReadFile(again[0]))) {
		t.Error("another build made another package")
	}
}

// lintian finds nothing.
func TestLintian(t *testing.T) {
	requireTools(t, "lintian:lintian")
	built(t)
	out, err := exec.CommandContext(t.Context(), "lintian", "--allow-root", "--fail-on", "error,warning", packages.new, packages.arm).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-arch", "riscv64"}, 1, `architecture "riscv64": want some of amd64,arm64`},
		{[]string{"-version", "latest"}, 1, `version "latest": want v1.2.3`},
		{[]string{"-nonsense"}, 2, "flag provided but not defined"},
		{[]string{"amd64"}, 2, "no arguments but flags"},
		{[]string{"-h"}, 0, "-arch"},
	} {
		var stdout, stderr strings.Builder
		code := run(t.Context(), c.args, &stdout, &stderr)
		if code != c.code || !strings.Contains(stderr.String(), c.want) || stdout.Len() > 0 {
			t.Errorf("%v: exit code %d, %q, %q", c.args, code, stdout.String(), stderr.String())
		}
	}
}
