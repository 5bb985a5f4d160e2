package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	// revision is Debian's of one version; nfpm.yaml has the same.
	revision = "1"
	// here is this folder, from the module's root.
	here = "cmd/overtap/packaging"
)

// architectures are those that packages are built for.
var architectures = []string{"amd64", "arm64"}

// build builds a package for each architecture and returns their paths.
func build(ctx context.Context, version string, archs []string, out string) (made []string, err error) {
	for _, arch := range archs {
		if !slices.Contains(architectures, arch) {
			return nil, fmt.Errorf("architecture %q: want some of %s", arch, strings.Join(architectures, ","))
		}
	}
	gomod, err := output(ctx, "", nil, "go", "env", "GOMOD")
	if err != nil {
		return nil, err
	}
	root := filepath.Dir(gomod)
	r, err := newRelease(ctx, root, version)
	if err != nil {
		return nil, err
	}
	if out, err = filepath.Abs(out); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("making the directory for packages: %w", err)
	}
	// The Go command builds the tool once, and prints its path.
	nfpm, err := output(ctx, filepath.Join(root, here, "nfpm"), nil, "go", "tool", "-n", "nfpm")
	if err != nil {
		return nil, fmt.Errorf("building nfpm: %w", err)
	}
	for _, arch := range archs {
		path := filepath.Join(out, fmt.Sprintf("overtap_%s-%s_%s.deb", r.debian, revision, arch))
		if err := pack(ctx, root, nfpm, r, arch, path); err != nil {
			return nil, fmt.Errorf("packaging %s for %s: %w", r.stamp, arch, err)
		}
		made = append(made, path)
	}
	return made, nil
}

// pack builds one package.
func pack(ctx context.Context, root, nfpm string, r release, arch, path string) (err error) {
	dir, err := os.MkdirTemp("", "overtap-packaging")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := stage{root: root, dir: dir, release: r, maintainer: maintainer()}
	if err := s.fill(ctx, arch); err != nil {
		return err
	}
	_, err = output(ctx, dir, []string{
		"OVERTAP_ARCH=" + arch, "OVERTAP_VERSION=" + r.debian, "OVERTAP_MAINTAINER=" + s.maintainer,
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.time.Unix()),
	}, nfpm, "package", "--packager", "deb", "--config", filepath.Join(root, here, "nfpm.yaml"), "--target", path)
	return err
}

// maintainer is the builder of the package, from the variables of debchange(1).
func maintainer() string {
	name, mail := os.Getenv("DEBFULLNAME"), os.Getenv("DEBEMAIL")
	if name == "" {
		name = "overtap"
	}
	if mail == "" {
		mail = "overtap@overtap.invalid"
	}
	return name + " <" + mail + ">"
}

// stage is the folder in which nfpm finds its sources.
type stage struct {
	root, dir  string
	release    release
	maintainer string
}

// fill makes all files that nfpm.yaml names.
func (s *stage) fill(ctx context.Context, arch string) error {
	if err := s.compile(ctx, arch, "overtap"); err != nil {
		return err
	}
	// Pages and completion are printed by a binary that runs on this machine.
	own := filepath.Join(s.dir, "overtap")
	if arch != runtime.GOARCH {
		own = filepath.Join(s.dir, "own")
		if err := s.compile(ctx, runtime.GOARCH, "own"); err != nil {
			return err
		}
	}
	for _, section := range []string{"8", "5"} {
		if err := s.manual(ctx, own, section); err != nil {
			return err
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		text, err := output(ctx, s.dir, nil, own, "completion", shell)
		if err != nil {
			return err
		}
		if err := s.write("completion."+shell, text+"\n"); err != nil {
			return err
		}
	}
	if err := s.documents(ctx, arch); err != nil {
		return err
	}
	for _, name := range []string{"overtap.service", "deb/overtap.toml", "deb/lintian-overrides", "deb/postinst", "deb/prerm", "deb/postrm"} {
		text, err := os.ReadFile(filepath.Join(s.root, here, name))
		if err != nil {
			return err
		}
		if err := s.write(filepath.Base(name), string(text)); err != nil {
			return err
		}
	}
	return s.date()
}

// target is the environment of a build for an architecture.
func target(arch string) []string { return []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch} }

// compile builds the binary, with no path of this machine in it.
func (s *stage) compile(ctx context.Context, arch, name string) error {
	_, err := output(ctx, s.root, target(arch), "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+s.release.stamp, "-o", filepath.Join(s.dir, name), "./cmd/overtap")
	return err
}

// manual makes the manual pages of a section.
func (s *stage) manual(ctx context.Context, own, section string) error {
	dir := filepath.Join(s.dir, "man"+section)
	if _, err := output(ctx, s.dir, nil, own, "man", "--section", section, dir); err != nil {
		return err
	}
	pages, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, page := range pages {
		path := filepath.Join(dir, page.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := s.compress("man"+section+"/"+page.Name(), string(text)); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// documents makes what is in /usr/share/doc/overtap.
func (s *stage) documents(ctx context.Context, arch string) error {
	modules, err := linked(ctx, s.root, arch)
	if err != nil {
		return err
	}
	text, err := copyright(modules)
	if err != nil {
		return err
	}
	if err := s.write("doc/copyright", text); err != nil {
		return err
	}
	files := map[string]string{
		"config.example.toml":         "examples/overtap.toml",
		"docs/alerts.yml":             "examples/alerts.yml",
		"docs/grafana-dashboard.json": "examples/grafana-dashboard.json",
		here + "/deb/README.Debian":   "README.Debian",
	}
	guides, err := filepath.Glob(filepath.Join(s.root, "docs", "*.md"))
	if err != nil {
		return err
	}
	for _, guide := range guides {
		name := filepath.Base(guide)
		files["docs/"+name] = name
	}
	for from, to := range files {
		text, err := os.ReadFile(filepath.Join(s.root, from))
		if err != nil {
			return err
		}
		if err := s.write("doc/"+to, relink(string(text), from, files)); err != nil {
			return err
		}
	}
	changes, err := os.ReadFile(filepath.Join(s.root, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	return errors.Join(
		s.compress("doc/changelog", string(changes)),
		s.compress("doc/changelog.Debian", fmt.Sprintf("overtap (%s-%s) unstable; urgency=medium\n\n  * %s: changelog.gz lists the changes.\n\n -- %s  %s\n",
			s.release.debian, revision, s.release.stamp, s.maintainer, s.release.time.Format(time.RFC1123Z))),
	)
}

// markdownLink is a link to a file of the module, with its text.
var markdownLink = regexp.MustCompile(`\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)`)

// relink makes the links of a guide, which is the module's file from, lead to where
// files are put in the package. A link to a file that is not in it becomes its text.
func relink(text, from string, files map[string]string) string {
	if path.Ext(from) != ".md" {
		return text
	}
	return markdownLink.ReplaceAllStringFunc(text, func(link string) string {
		m := markdownLink.FindStringSubmatch(link)
		to, ok := files[path.Join(path.Dir(from), m[2])]
		if !ok {
			return m[1]
		}
		return "[" + m[1] + "](" + to + m[3] + ")"
	})
}

// write makes a file of the stage.
func (s *stage) write(name, text string) error {
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// compress makes a file of the stage, as `gzip -9n` does.
func (s *stage) compress(name, text string) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write([]byte(text)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return s.write(name+".gz", b.String())
}

// date sets the time of all files to that of the release.
func (s *stage) date() error {
	return filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, s.release.time, s.release.time)
	})
}

// output runs a command in a directory, with more in its environment, and returns
// its output, without the end of the last line. The error has its standard error.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
