// Package terminaltest runs programs on a terminal that understands what they
// draw, tmux, and tells what stands on its screen.
package terminaltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long anything may take that happens at once on an idle
// machine.
const patience = 30 * time.Second

var screens atomic.Uint32

// Screen is a terminal with a program on it.
type Screen struct {
	tb     testing.TB
	server string // tmux's name for it
	dir    string
}

// script is what runs on the terminal: the program, with what is looked at before
// and after. It stays until the test has looked.
const script = `cd "$1" && shift
echo the screen before
stty -a >before
"$@"
echo "$?" >status.new
stty -a >after
echo the screen after
mv status.new status
while :; do sleep 1; done
`

// New runs a program on a terminal of so many columns and rows, whose encoding is
// UTF-8, with further variables in its environment. It ends with the test. Without
// tmux the test is skipped, or fails when the environment says REQUIRE_ROOT=1.
func New(tb testing.TB, columns, rows int, env []string, argv ...string) *Screen {
	tb.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("REQUIRE_ROOT") == "1" {
			tb.Fatalf("REQUIRE_ROOT=1 forbids to skip: %v", err)
		}
		tb.Skip(err)
	}
	s := &Screen{tb: tb, server: fmt.Sprintf("overtap%dn%d", os.Getpid(), screens.Add(1)), dir: tb.TempDir()}
	config := filepath.Join(s.dir, "tmux.conf")
	if err := os.WriteFile(config, []byte("set -g status off\nset -s escape-time 10\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	args := append([]string{"-u", "-f", config, "new-session", "-d", "-x", strconv.Itoa(columns), "-y", strconv.Itoa(rows),
		"sh", "-c", script, "sh", s.dir}, argv...)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the screen:\n%s", s.look())
		}
		if out, err := s.tmux(nil, "kill-server"); err != nil {
			tb.Errorf("tmux kill-server: %v: %s", err, out)
		}
	})
	if out, err := s.tmux(append([]string{"LC_ALL=C.UTF-8"}, env...), args...); err != nil {
		tb.Fatalf("tmux: %v: %s", err, out)
	}
	return s
}

// tmux runs a command of the server.
func (s *Screen) tmux(env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("tmux", append([]string{"-L", s.server}, args...)...)
	// A tmux of its own, also when the test runs inside of one.
	cmd.Env = append(os.Environ(), "TMUX=", "TMUX_TMPDIR="+s.dir)
	cmd.Env = append(cmd.Env, env...)
	return cmd.CombinedOutput()
}

func (s *Screen) look() string {
	out, err := s.tmux(nil, "capture-pane", "-p")
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return string(out)
}

// Text returns what stands on the screen, a line each row, without the spaces at
// their ends.
func (s *Screen) Text() string {
	s.tb.Helper()
	out, err := s.tmux(nil, "capture-pane", "-p")
	if err != nil {
		s.tb.Fatalf("tmux capture-pane: %v: %s", err, out)
	}
	return string(out)
}

// All returns what stands on the screen and above it.
func (s *Screen) All() string {
	s.tb.Helper()
	out, err := s.tmux(nil, "capture-pane", "-p", "-S", "-")
	if err != nil {
		s.tb.Fatalf("tmux capture-pane: %v: %s", err, out)
	}
	return string(out)
}

// Styled returns what stands on the screen with the sequences that set colours
// and the like.
func (s *Screen) Styled() string {
	s.tb.Helper()
	out, err := s.tmux(nil, "capture-pane", "-p", "-e")
	if err != nil {
		s.tb.Fatalf("tmux capture-pane: %v: %s", err, out)
	}
	return string(out)
}

// Press sends keys by tmux's names: a letter, Enter, Escape, PgDn, C-c.
func (s *Screen) Press(keys ...string) {
	s.tb.Helper()
	if out, err := s.tmux(nil, append([]string{"send-keys"}, keys...)...); err != nil {
		s.tb.Fatalf("tmux send-keys %q: %v: %s", keys, err, out)
	}
}

// Resize makes the terminal another size.
func (s *Screen) Resize(columns, rows int) {
	s.tb.Helper()
	if out, err := s.tmux(nil, "resize-window", "-x", strconv.Itoa(columns), "-y", strconv.Itoa(rows)); err != nil {
		s.tb.Fatalf("tmux resize-window: %v: %s", err, out)
	}
}

// Await waits until the screen is as f wants it, which returns why it is not.
func (s *Screen) Await(what string, f func(screen string) error) {
	s.tb.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		text := s.Text()
		err := f(text)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("%s: not within %v: %v\n%s", what, patience, err, text)
		}
	}
}

// Shows waits until every text stands somewhere on the screen.
func (s *Screen) Shows(texts ...string) {
	s.tb.Helper()
	s.Await("the screen", func(screen string) error {
		for _, t := range texts {
			if !strings.Contains(screen, t) {
				return fmt.Errorf("no %q", t)
			}
		}
		return nil
	})
}

// PID returns the id of the program.
func (s *Screen) PID() int {
	s.tb.Helper()
	shell, err := s.tmux(nil, "display-message", "-p", "#{pane_pid}")
	if err != nil {
		s.tb.Fatalf("tmux display-message: %v: %s", err, shell)
	}
	id := strings.TrimSpace(string(shell))
	children, err := os.ReadFile(filepath.Join("/proc", id, "task", id, "children"))
	if err != nil {
		s.tb.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		s.tb.Fatalf("the programs on the terminal: %q", children)
	}
	return pid
}

// Over waits for the program's end, and checks that the terminal is as it was
// before: its settings, the cursor, and the screen that stood there. It returns
// the exit status.
func (s *Screen) Over() int {
	s.tb.Helper()
	var status []byte
	s.Await("the program's end", func(string) (err error) {
		status, err = os.ReadFile(filepath.Join(s.dir, "status"))
		return err
	})
	var stty [2]string
	for i, name := range []string{"before", "after"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			s.tb.Fatal(err)
		}
		stty[i] = string(b)
	}
	// A terminal that was resized is not as it was in that: the first line has the size.
	settings := func(s string) string { _, rest, _ := strings.Cut(s, "\n"); return rest }
	if settings(stty[0]) != settings(stty[1]) || settings(stty[0]) == "" {
		s.tb.Errorf("stty -a before:\n%s\nand after:\n%s", stty[0], stty[1])
	}
	for _, line := range []string{"the screen before", "the screen after"} {
		if all := s.All(); !strings.Contains(all, line) {
			s.tb.Errorf("no %q on the terminal:\n%s", line, all)
		}
	}
	modes, err := s.tmux(nil, "display-message", "-p", "alternate #{alternate_on} cursor #{cursor_flag} keypad #{keypad_cursor_flag} mouse #{mouse_any_flag}")
	if err != nil {
		s.tb.Fatalf("tmux display-message: %v: %s", err, modes)
	}
	if got := strings.TrimSpace(string(modes)); got != "alternate 0 cursor 1 keypad 0 mouse 0" {
		s.tb.Errorf("the terminal has %s", got)
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(status)))
	if err != nil {
		s.tb.Fatalf("the exit status: %q", status)
	}
	return code
}

// Alternate reports whether a program has the whole screen to itself.
func (s *Screen) Alternate() bool {
	s.tb.Helper()
	out, err := s.tmux(nil, "display-message", "-p", "#{alternate_on}")
	if err != nil {
		s.tb.Fatalf("tmux display-message: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out)) == "1"
}
