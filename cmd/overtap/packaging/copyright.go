package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// module is a Go module that is linked into the binary.
type module struct{ path, version, dir string }

// linked returns the modules that the binary is made of beside overtap, the
// standard library first.
func linked(ctx context.Context, root, arch string) ([]module, error) {
	toolchain, err := output(ctx, root, nil, "go", "env", "GOVERSION", "GOROOT")
	if err != nil {
		return nil, err
	}
	version, goroot, _ := strings.Cut(toolchain, "\n")
	all := []module{{"the Go standard library", strings.TrimPrefix(version, "go"), goroot}}
	list, err := output(ctx, root, target(arch), "go", "list", "-deps",
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}", "./cmd/overtap")
	if err != nil {
		return nil, err
	}
	lines := strings.Fields(strings.ReplaceAll(list, "\t", "\x00"))
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		f := strings.Split(line, "\x00")
		if len(f) != 3 {
			return nil, fmt.Errorf("go list says %q: want a module's path, version and directory", f)
		}
		all = append(all, module{f[0], f[1], f[2]})
	}
	return all, nil
}

// licence returns the text under which a module is had.
func (m module) licence() (string, error) {
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "License", "COPYING"} {
		text, err := os.ReadFile(filepath.Join(m.dir, name))
		if err == nil {
			return string(text), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("reading the licence of %s: %w", m.path, err)
		}
	}
	return "", fmt.Errorf("%s %s has no licence in %s", m.path, m.version, m.dir)
}

// The beginnings of two licences that Debian has once for all packages.
const (
	apache = "Apache License\n"
	gpl    = "GNU GENERAL PUBLIC LICENSE\n"
)

// copyright is the package's copyright file (Debian policy 12.5): overtap's own
// licence and those of all that is linked in.
func copyright(modules []module) (string, error) {
	var b strings.Builder
	b.WriteString(`overtap
=======

Copyright the authors of overtap.

overtap is licensed under the Apache License, Version 2.0, which on Debian systems is
in /usr/share/common-licenses/Apache-2.0. The programs that it has the kernel run
are also under the BSD licence and the GNU General Public License, version 2, which
is in /usr/share/common-licenses/GPL-2.

The binary contains the following.
`)
	for _, m := range modules {
		text, err := m.licence()
		if err != nil {
			return "", err
		}
		title := m.path + " " + m.version
		fmt.Fprintf(&b, "\n\n%s\n%s\n\n", title, strings.Repeat("=", len(title)))
		if head, _, ok := strings.Cut(text, apache); ok && strings.TrimSpace(head) == "" {
			text = "Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0\n"
		}
		// A licence that offers a choice has all of the GPL behind its own terms.
		if own, _, ok := strings.Cut(text, gpl); ok {
			text = own + "The GNU General Public License: /usr/share/common-licenses/GPL-2\n"
		}
		b.WriteString(strings.TrimSpace(text) + "\n")
	}
	return b.String(), nil
}
