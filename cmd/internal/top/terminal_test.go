package top

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/terminal/terminaltest"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// actVar names what the test binary must be on a terminal, in place of a test.
const actVar = "OVERTAP_TEST_TOP"

func TestMain(m *testing.M) {
	if act := os.Getenv(actVar); act != "" {
		if err := (Options{Source: acts(act), Interval: MinInterval, Getenv: os.Getenv}).Run(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// acts is a daemon that behaves as named: "well", "gone" (from the tenth sample to
// the twentieth), or whose answer panics ("panic").
func acts(act string) Source {
	s := source()
	well := s.Sample
	var n atomic.Int32
	s.Sample = func(ctx context.Context) (control.Status, dataplane.Stats, error) {
		n := n.Add(1)
		switch {
		case act == "gone" && n > 10 && n < 20:
			return control.Status{}, dataplane.Stats{}, errors.New("no overtap daemon answers here")
		case act == "panic" && n > 10:
			panic("the daemon's answer is too much")
		}
		return well(ctx)
	}
	return s
}

func onScreen(t *testing.T, act string, env ...string) *terminaltest.Screen {
	t.Helper()
	s := terminaltest.New(t, 80, 24, append(env, actVar+"="+act), os.Args[0])
	s.Shows("overtap top  v1.2.3, pid 4242, ready", "by LAST MINUTE ▼", "q quit")
	if !s.Alternate() {
		t.Error("it draws over what stood there")
	}
	return s
}

func TestQuitRestores(t *testing.T) {
	for _, key := range []string{"q", "C-c"} {
		s := onScreen(t, "well")
		s.Press(key)
		if code := s.Over(); code != 0 {
			t.Errorf("%s: exit status %d", key, code)
		}
	}
}

func TestSignalsRestore(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		s := onScreen(t, "well")
		if err := unix.Kill(s.PID(), sig); err != nil {
			t.Fatal(err)
		}
		if code := s.Over(); code != 0 {
			t.Errorf("%v: exit status %d", sig, code)
		}
	}
}

// After a panic the terminal is as it was, and then the panic is printed.
func TestPanicRestores(t *testing.T) {
	s := onScreen(t, "panic")
	if code := s.Over(); code != 1 {
		t.Errorf("exit status %d", code)
	}
	if got := s.All(); !strings.Contains(got, "drawing the screen: panic: the daemon's answer is too much") {
		t.Errorf("it does not say so:\n%s", got)
	}
}

// The goroutines that draw and that read keys end the program in order too.
func TestPanicEnds(t *testing.T) {
	for name, do := range map[string]func(*model){
		"View":   func(m *model) { m.View() },
		"Update": func(m *model) { m.Update(beat{}) },
	} {
		ended := make(chan struct{})
		m := &model{end: func() { close(ended) }} // without a state
		do(m)
		<-ended
		if err := m.crash.Load(); err == nil || !strings.Contains((*err).Error(), "nil pointer") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysOnTerminal(t *testing.T) {
	s := onScreen(t, "well")
	s.Press("2")
	s.Shows("PEER", "192.0.2.2", "2001:db8")
	s.Press("Tab")
	s.Shows("too_big", "LAST PEER", "by DROP/S ▼")
	s.Press("r")
	s.Shows("by DROP/S ▲")
	s.Press("Right")
	s.Shows("02:42:0a:00:00:00", "1-18 of 120, by NETWORK ▲")
	s.Press("PgDn")
	s.Shows("02:42:0a:00:00:12", "19-36 of 120")
	s.Press("/", "2", "a", "Enter")
	s.Shows("/2a", "02:42:0a:00:00:2a")
	s.Press("Escape")
	s.Shows("1-18 of 120")
	s.Press("?")
	s.Shows("show only what contains a text")
	s.Press("1", "Space")
	s.Shows("paused", "NETWORK  TX BIT/S")
	paused := strings.SplitN(s.Text(), "\n", 2)[0]
	time.Sleep(5 * MinInterval)
	if now := strings.SplitN(s.Text(), "\n", 2)[0]; now != paused {
		t.Errorf("it goes on while paused: %q, then %q", paused, now)
	}
	s.Resize(120, 30)
	s.Await("the wider screen", func(screen string) error {
		if w := longest(screen); w <= 100 {
			return fmt.Errorf("%d wide", w)
		}
		return nil
	})
	s.Resize(30, 6)
	s.Shows("overtap top needs 40x8", "this is 30x6")
	s.Resize(60, 10)
	s.Shows("paused", "blue", "q quit")
	s.Press("q")
	if code := s.Over(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func longest(screen string) (n int) {
	for l := range strings.Lines(screen) {
		n = max(n, len([]rune(l)))
	}
	return n
}

// A daemon that does not answer is shown so, and asked again.
func TestReconnects(t *testing.T) {
	s := onScreen(t, "gone")
	s.Shows("no answer for", "reconnecting: no overtap daemon answers here", "blue")
	s.Await("the daemon again", func(screen string) error {
		if strings.Contains(screen, "reconnecting") {
			return errors.New("it still says that it reconnects")
		}
		return nil
	})
	s.Shows("ready, up")
}

// colored finds what sets one of the terminal's colours.
var colored = regexp.MustCompile(`\x1b\[([0-9]+;)*3[0-7]m`)

func TestNoColorOnTerminal(t *testing.T) {
	for _, noColor := range []string{"", "yes"} {
		s := onScreen(t, "gone", "NO_COLOR="+noColor)
		s.Shows("reconnecting")
		if got := s.Styled(); colored.MatchString(got) == (noColor != "") {
			t.Errorf("with NO_COLOR=%s: %q", noColor, got)
		}
	}
}

// What is no terminal, or cannot be drawn on, is refused.
func TestNoTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	o := Options{Source: source(), Interval: MinInterval, Getenv: os.Getenv}
	if err := o.Run(t.Context(), r, w); err == nil || !strings.Contains(err.Error(), "`overtap stats --watch`") {
		t.Error(err)
	}
	s := terminaltest.New(t, 80, 24, []string{actVar + "=well"}, "env", "TERM=dumb", os.Args[0])
	if code := s.Over(); code != 1 {
		t.Errorf("exit status %d", code)
	}
	s.Shows("TERM=dumb is no terminal to draw on")
}
