package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/*.bad.txt from what Load says, and docs/configuration.md")

// TestBad compares, for every kind of mistake, all that is said of a file with
// what stands beside it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".bad.toml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := Parse(filepath.Base(file), text)
			if err == nil {
				t.Fatalf("accepted: %+v", cfg)
			}
			if cfg != nil {
				t.Errorf("a configuration came with the error: %+v", cfg)
			}
			checkErrors(t, err, text)

			golden := strings.TrimSuffix(file, ".toml") + ".txt"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
				t.Errorf("errors differ (-want +got):\n%s", d)
			}
		})
	}
}

// checkErrors checks what must hold for the errors of any text.
func checkErrors(t *testing.T, err error, text []byte) {
	t.Helper()
	var es Errors
	if !errors.As(err, &es) || len(es) == 0 {
		t.Fatalf("error is a %T, not Errors: %v", err, err)
	}
	if !slices.IsSortedFunc(es, func(a, b Error) int { return a.Line - b.Line }) {
		t.Errorf("not in the order of lines:\n%v", err)
	}
	lines := strings.Count(string(text), "\n") + 1
	for _, e := range es {
		if e.Line < 1 || e.Line > lines {
			t.Errorf("line %d is not in a file of %d lines: %v", e.Line, lines, e)
		}
		if e.Problem == "" || strings.ContainsAny(e.Error(), "\n\r\x1b") {
			t.Errorf("not one line of text: %q", e.Error())
		}
	}
}

// TestBadHasNoStrays checks that each expectation has its file.
func TestBadHasNoStrays(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, err := os.Stat(strings.TrimSuffix(f, ".txt") + ".toml"); err != nil {
			t.Error(err)
		}
	}
}
