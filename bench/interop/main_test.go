package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"overtap/bench/netlab/netlabtest"
)

// patience is how long anything may take that happens at once on an idle
// machine.
const patience = 30 * time.Second

// builtPath is the program under test, and builtErr why there is none.
var (
	builtPath string
	builtErr  error
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "overtap-interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if os.Geteuid() == 0 {
		builtPath = filepath.Join(dir, "overtap")
		builtErr = build(builtPath)
	}
	code := m.Run()
	if err := netlabtest.CloseGuest(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// build builds the program as this test was built.
func build(to string) error {
	args := []string{"build", "-o", to}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "overtap/cmd/overtap")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// program returns the path of the binary.
func program(t testing.TB) string {
	t.Helper()
	netlabtest.Root(t)
	check(t, builtErr)
	return builtPath
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must takes a call's results and fails the test on an error.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// eventually waits until f returns nil, and fails the test with its last error
// when patience ends.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}
