package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module is one with a target that fails on what begins with an x, and one that
// nothing harms.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":        "module m\n\ngo 1.24\n",
		"in/a_test.go":  "package in\nimport (\"testing\"; \"os\")\nfunc FuzzBad(f *testing.F) {\n\tf.Add([]byte(\"y\"))\n\tf.Fuzz(func(t *testing.T, b []byte) {\n\t\tif len(b) > 1 { t.Error(\"too long\") }\n\t})\n}\nfunc FuzzGood(f *testing.F) {\n\tif _, err := os.Stat(\"../beside\"); err != nil { f.Fatal(err) }\n\tf.Add([]byte{})\n\tf.Fuzz(func(*testing.T, []byte) {})\n}\n",
		"beside":        "",
		"out/b_test.go": "package out\nimport \"testing\"\nfunc TestNothing(*testing.T) {}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestFindings wants a target that fails to be named, and its input to be kept where
// it is asked to be and nowhere else.
func TestFindings(t *testing.T) {
	dir := module(t)
	kept := func() int {
		all, err := filepath.Glob(filepath.Join(dir, "in/testdata/fuzz/FuzzBad/*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	for _, keep := range []bool{false, true} {
		args := []string{"-module", dir, "-time", "5s", "-targets", "Bad"}
		if keep {
			args = append(args, "-keep")
		}
		var page, log bytes.Buffer
		err := run(t.Context(), args, &page, &log)
		if err == nil || err.Error() != "1 of 1 targets failed" || !strings.Contains(page.String(), "| in.FuzzBad |") ||
			!strings.Contains(page.String(), "**failed**") || !strings.Contains(log.String(), "too long") {
			t.Errorf("keep=%t: %v\n%s\n%s", keep, err, &page, &log)
		}
		if n := kept(); (n > 0) != keep {
			t.Errorf("keep=%t: %d inputs are kept", keep, n)
		}
	}
}

// TestSound wants a target that nothing harms to pass, beside the files that it
// reads, and its corpus to be kept.
func TestSound(t *testing.T) {
	dir, corpus := module(t), t.TempDir()
	var page, log bytes.Buffer
	if err := run(t.Context(), []string{"-module", dir, "-time", "300ms", "-targets", "Good", "-corpus", corpus}, &page, &log); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if !strings.Contains(page.String(), "| in.FuzzGood |") || !strings.Contains(page.String(), "| ok |") {
		t.Errorf("%s", &page)
	}
	if err := run(t.Context(), []string{"-module", dir, "-targets", "None"}, io.Discard, io.Discard); err == nil {
		t.Error("no target, and no error")
	}
}

func TestReading(t *testing.T) {
	all := listed("FuzzA\nFuzzB\nok  \tm/x\t0.1s\nok  \tm/y\t0.1s\n?   \tm/z\t[no test files]\nFuzzC\nok  \tm/w\t(cached)\n")
	if len(all) != 2 || all[0].path != "m/x" || len(all[0].targets) != 2 || all[1].path != "m/w" {
		t.Errorf("%+v", all)
	}
	execs, interesting := progress([]byte("fuzz: elapsed: 0s, gathering baseline coverage: 0/3 completed\n" +
		"fuzz: elapsed: 3s, execs: 100 (33/sec), new interesting: 0 (total: 3)\nfuzz: elapsed: 6s, execs: 2500 (800/sec), new interesting: 7 (total: 10)\nPASS\n"))
	if execs != 2500 || interesting != 7 {
		t.Errorf("%d execs, %d interesting", execs, interesting)
	}
	late := "--- FAIL: FuzzX (61.13s)\n    context deadline exceeded\nFAIL\n"
	if !timeWasUp([]byte(late)) || timeWasUp([]byte(late+"Failing input written to testdata/fuzz/FuzzX/00")) || timeWasUp([]byte("--- FAIL: FuzzX (1s)\n    x_test.go:1: wrong\nFAIL\n")) {
		t.Error("the end of its time is mistaken")
	}
	for args, want := range map[string]string{"-time 0s": "want more than none", "-parallel 0": "want 1 at least", "-targets (": "-targets", "x": "unexpected"} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
