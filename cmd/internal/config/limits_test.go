package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// refused wants one located error in time.
func refused(t *testing.T, line int, problem string, load func() (*Config, error)) {
	t.Helper()
	type result struct {
		cfg *Config
		err error
	}
	done := make(chan result, 1)
	go func() {
		cfg, err := load()
		done <- result{cfg, err}
	}()
	select {
	case r := <-done:
		var es Errors
		if !errors.As(r.err, &es) || len(es) != 1 || es[0].Line != line || es[0].File == "" || !strings.Contains(es[0].Problem, problem) {
			t.Errorf("want one error on line %d with %q, got %.300v", line, problem, r.err)
		}
		if len(fmt.Sprint(r.err)) > 400 || r.cfg != nil {
			t.Errorf("an error of %d bytes, a configuration %v", len(fmt.Sprint(r.err)), r.cfg)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not done within 10 s")
	}
}

func TestTooMuch(t *testing.T) {
	const n = 20_000
	// The parser takes six quotes behind an escaped backslash for the end of a
	// string, and so must tooMuch, which counts brackets behind it.
	const odd = `"""\\""""""`
	for name, c := range map[string]struct {
		text, problem string
		line          int
	}{
		"brackets":             {strings.Repeat("[", 3<<20), "nests", 1},
		"arrays":               {"\n\na = " + strings.Repeat("[", n) + strings.Repeat("]", n), "nests", 3},
		"arrays over lines":    {"a = " + strings.Repeat("[\n", n), "nests", 17},
		"inline tables":        {"\n" + strings.Repeat("{a=", n), "nests", 2},
		"mixed":                {"a = " + strings.Repeat("[{b=", n), "nests", 1},
		"behind a comment":     {"a = [#[\r\n" + strings.Repeat("[", n), "nests", 2},
		"behind a string":      {`a = ["\"", '"', """"""", ''''''', """\"""""", ` + strings.Repeat("[", n), "nests", 1},
		"behind an odd string": {"a = [" + odd + ", " + strings.Repeat("[", n), "nests", 1},
		"key":                  {"\n" + strings.Repeat("a.", n) + "a = 1", "parts", 2},
		"quoted key":           {strings.Repeat(`"."."a" . `, n) + "a = 1", "parts", 1},
		"header":               {"[" + strings.Repeat("a.", n) + "a]", "parts", 1},
		"array header":         {"[[" + strings.Repeat("a.", n) + "a]]", "parts", 1},
		"key of inline table":  {"a = {b = 1, " + strings.Repeat("a.", n) + "a = 1}", "parts", 1},
		"length":               {"# " + strings.Repeat("x", maxText-1), "longer", 1},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, c.line, c.problem, func() (*Config, error) { return Parse("test.toml", []byte(c.text)) })
		})
	}
}

// TestNotTooMuch checks what is as long and deep as may be, and what only looks
// deeper.
func TestNotTooMuch(t *testing.T) {
	for name, text := range map[string]string{
		"length":         "# " + strings.Repeat("x", maxText-2),
		"arrays":         "a = " + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
		"side by side":   "a = [" + strings.Repeat("[1.5], ", 1000) + "]",
		"key":            strings.Repeat("a.", maxDepth-1) + "a = 1",
		"header":         "[" + strings.Repeat("a.", maxDepth-1) + "a]",
		"many keys":      strings.Repeat("a.b = 1.5 # .\n", 1000),
		"comment":        "# " + strings.Repeat("[", 100) + strings.Repeat(".", 100),
		"basic string":   `a = "\"` + strings.Repeat("[", 100) + strings.Repeat(".", 100) + `"`,
		"literal string": `a = '\` + strings.Repeat("[", 100) + `'`,
		"long strings":   `a = ["""` + strings.Repeat("\n\"[", 100) + `""""", '''` + strings.Repeat("\n'[", 100) + `''''']`,
	} {
		t.Run(name, func(t *testing.T) {
			if es := tooMuch("test.toml", text); es != nil {
				t.Error(es)
			}
		})
	}
}

// TestManyEntries wants 100,000 forwarding entries to be within the limits.
func TestManyEntries(t *testing.T) {
	var b strings.Builder
	b.WriteString(least)
	for i := range 100_000 {
		fmt.Fprintf(&b, "\n[[vxlan.fdb]] # container %d\nmac  = \"02:42:00:%02x:%02x:%02x\"\npeer = \"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff\"\n", i, i>>16, i>>8&0xff, i&0xff)
	}
	if es := tooMuch("test.toml", b.String()); es != nil {
		t.Error(es)
	}
}

// TestLoadRefuses what is no regular file, or has no end.
func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo, long := filepath.Join(dir, "fifo"), filepath.Join(dir, "long")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(long, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(long, 1<<40); err != nil { // sparse
		t.Fatal(err)
	}
	for path, problem := range map[string]string{
		dir: "is a directory", "/dev/zero": "is a device", fifo: "is a FIFO", long: "is longer than",
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			refused(t, 1, problem, func() (*Config, error) { return Load(path) })
		})
	}
}
