package repeat

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// buffer is written by the goroutines of timers and read by the test's: that the
// bubble's clock orders them is not known to the race detector.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns what was written since the last call.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.text.String()
	b.text.Reset()
	return s
}

// lines is a log without times.
func lines(b *buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// said are the lines since the last call.
func said(b *buffer) []string {
	synctest.Wait()
	text := strings.TrimSuffix(b.take(), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func want(t *testing.T, b *buffer, lines ...string) {
	t.Helper()
	got := said(b)
	if fmt.Sprint(got) != fmt.Sprint(lines) {
		t.Errorf("after %q\nwant %q", got, lines)
	}
}

// The first lines about a thing are written at once, the rest of a minute in one,
// which is the last of them; what is rare is never summed, nor held up by what
// is not.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b buffer
		var l Limiter
		log := lines(&b)
		put := func(n int) { l.Warn("blue", log.With("network", "blue"), "put back", "n", n) }
		for n := range 21 {
			put(n)
			time.Sleep(time.Second)
		}
		l.Info("red", log, "rare")
		want(t, &b,
			"level=WARN msg=\"put back\" network=blue n=0", "level=WARN msg=\"put back\" network=blue n=1",
			"level=WARN msg=\"put back\" network=blue n=2", "level=WARN msg=\"put back\" network=blue n=3", "level=INFO msg=rare")
		time.Sleep(38 * time.Second)
		want(t, &b)
		time.Sleep(2 * time.Second)
		const sum = "level=WARN msg=\"put back\" network=blue n=%d repeated=\"%d more in the last minute\""
		want(t, &b, fmt.Sprintf(sum, 20, 17))

		// It goes on: a line a minute. When it ended, all begins again.
		for n := range 100 {
			put(n)
		}
		want(t, &b)
		time.Sleep(time.Minute)
		want(t, &b, fmt.Sprintf(sum, 99, 100))
		time.Sleep(2 * time.Minute)
		want(t, &b)
		put(7)
		want(t, &b, "level=WARN msg=\"put back\" network=blue n=7")
		time.Sleep(time.Hour)
		want(t, &b)
		l.mu.Lock()
		if len(l.abouts) != 0 {
			t.Errorf("%d things are remembered", len(l.abouts))
		}
		l.mu.Unlock()
		l.Stop()
	})
}

// At the end what is held is logged, and nothing is held any more.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b buffer
		var l Limiter
		log := lines(&b)
		for n := range atOnce + 2 {
			l.Info("blue", log, "gone", "n", n)
		}
		said(&b)
		l.Stop()
		want(t, &b, "level=INFO msg=gone n=5 repeated=\"2 more in the last minute\"")
		for range atOnce + 1 {
			l.Info("blue", log, "gone")
		}
		if got := said(&b); len(got) != atOnce+1 {
			t.Errorf("after Stop: %q", got)
		}
		time.Sleep(2 * time.Minute)
		want(t, &b)
		l.Stop()
	})
}

// A line that stands for several leaves the caller's arguments alone.
func TestArguments(t *testing.T) {
	var b buffer
	args := append(make([]any, 0, 8), "n", 1)
	line{lines(&b), slog.LevelInfo, "gone", args}.write(2)
	if len(args[:3:8]) == 3 && args[:3][2] != nil {
		t.Errorf("%v was written to the caller's list", args[:3][2])
	}
}
