package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A capture file is readable by its user alone, also one that exists already, and a file
// that another user may have placed at its path is neither written to nor changed.
func TestCaptureFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, mode os.FileMode) string {
		t.Helper()
		path := at(name)
		if err := errors.Join(os.WriteFile(path, []byte("precious"), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{at("new"), write("old", 0o644)} {
		f, regular, err := createCapture(path)
		if err != nil || !regular {
			t.Fatalf("%s: regular %t, %v", path, regular, err)
		}
		info, err := f.Stat()
		if err != nil || info.Mode() != 0o600 || info.Size() != 0 {
			t.Errorf("%s has mode %v and %d bytes (%v), want 0600 and none", path, info.Mode(), info.Size(), err)
		}
		f.Close()
	}
	if f, regular, err := createCapture(os.DevNull); err != nil || regular {
		t.Errorf("%s: regular %t, %v", os.DevNull, regular, err)
	} else {
		f.Close()
	}

	target, linked := write("target", 0o644), write("linked", 0o644)
	if err := errors.Join(os.Symlink(target, at("symlink")), os.Symlink(at("none"), at("dangling")), os.Link(linked, at("hardlink"))); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{
		at("symlink"):  "is a symbolic link: name the file itself",
		at("dangling"): "is a symbolic link",
		at("hardlink"): "it has 2 names (hard links)",
	}
	if os.Geteuid() == 0 {
		foreign, pipe := write("foreign", 0o666), at("pipe")
		if err := errors.Join(os.Chown(foreign, nobody, nobody), unix.Mkfifo(pipe, 0o666), os.Chown(pipe, nobody, nobody)); err != nil {
			t.Fatal(err)
		}
		reader, err := os.OpenFile(pipe, os.O_RDONLY|unix.O_NONBLOCK, 0) // else the open waits for one
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		refused[foreign], refused[pipe] = "it belongs to user 65534: remove it", "it belongs to user 65534"
	} else if os.Getenv("REQUIRE_ROOT") == "1" {
		t.Fatal("this test needs root, to make files of another user")
	}
	for path, want := range refused {
		f, _, err := createCapture(path)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	for _, name := range []string{"target", "linked"} {
		b, err := os.ReadFile(at(name))
		info, serr := os.Stat(at(name))
		if err != nil || serr != nil || string(b) != "precious" || info.Mode() != 0o644 {
			t.Errorf("%s was changed: %q, %v (%v, %v)", name, b, info.Mode(), err, serr)
		}
	}
	if _, err := os.Lstat(at("none")); err == nil {
		t.Error("the dangling link's target was made")
	}
}

// The help names no file in a directory where every user can make files.
func TestNoExampleInTmp(t *testing.T) {
	commands := []*cobra.Command{newRootCommand()}
	for len(commands) > 0 {
		c := commands[0]
		if strings.Contains(c.Long+c.Example, "/tmp") {
			t.Errorf("the help of %s names a file in /tmp", c.CommandPath())
		}
		commands = append(commands[1:], c.Commands()...)
	}
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(paths) < 10 {
		t.Fatal(paths, err)
	}
	for _, path := range append(paths, "../../README.md", "../../config.example.toml") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, " /tmp/") || strings.Contains(line, "\"/tmp") || strings.Contains(line, "=/tmp") {
				t.Errorf("%s names a file in /tmp: %s", path, line)
			}
		}
	}
}
