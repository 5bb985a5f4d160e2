// Package repeat keeps a log readable while the same happens again and again: of
// what a minute brings about one thing, the first lines are written at once, and
// the rest is summed up in one line when the minute is over.
package repeat

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// window is how long lines about the same are counted together.
	window = time.Minute
	// atOnce lines of a window are written as they come: something that goes and
	// comes back twice is logged whole.
	atOnce = 4
)

// Limiter passes lines on to a log. The zero value is ready; its methods may be
// called from any goroutine.
type Limiter struct {
	mu      sync.Mutex
	abouts  map[string]*about
	stopped bool
}

// about is what was said of one thing in the window that is open.
type about struct {
	said  int
	held  int  // lines that were not written
	last  line // of them
	timer *time.Timer
}

type line struct {
	log   *slog.Logger
	level slog.Level
	msg   string
	args  []any
}

// Log writes a line, as slog.Logger.Log does, or counts it when there were too
// many about the same lately. What is said of one thing's coming and going must be
// about the same, so that the last line says how things are. The number of things
// that it is called about has to be bounded.
func (l *Limiter) Log(of string, log *slog.Logger, level slog.Level, msg string, args ...any) {
	if l.passes(of, line{log, level, msg, args}) {
		log.Log(context.Background(), level, msg, args...)
	}
}

// Info is Log at that level.
func (l *Limiter) Info(of string, log *slog.Logger, msg string, args ...any) {
	l.Log(of, log, slog.LevelInfo, msg, args...)
}

// Warn is Log at that level.
func (l *Limiter) Warn(of string, log *slog.Logger, msg string, args ...any) {
	l.Log(of, log, slog.LevelWarn, msg, args...)
}

// passes reports whether a line is to be written now. Else it is kept.
func (l *Limiter) passes(of string, now line) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return true
	}
	a := l.abouts[of]
	if a == nil {
		if l.abouts == nil {
			l.abouts = make(map[string]*about)
		}
		a = new(about)
		a.timer = time.AfterFunc(window, func() { l.sum(of, a) })
		l.abouts[of] = a
	}
	if a.said < atOnce {
		a.said++
		return true
	}
	a.held++
	a.last = now
	return false
}

// sum ends a window: the last of the lines that were held stands for all, and
// begins another.
func (l *Limiter) sum(of string, a *about) {
	l.mu.Lock()
	if l.stopped || a.held == 0 {
		if l.abouts[of] == a {
			delete(l.abouts, of)
		}
		l.mu.Unlock()
		return
	}
	last, held := a.last, a.held
	// The line counts for the window that it begins.
	a.said, a.held, a.last = atOnce, 0, line{}
	a.timer.Reset(window)
	l.mu.Unlock()
	last.write(held)
}

// write writes a line that stands for several.
func (n line) write(held int) {
	args := append(slices.Clip(n.args), "repeated", fmt.Sprintf("%d more in the last minute", held))
	n.log.Log(context.Background(), n.level, n.msg, args...)
}

// Stop writes what is held, and from then on every line at once.
func (l *Limiter) Stop() {
	l.mu.Lock()
	l.stopped = true
	abouts := l.abouts
	l.abouts = nil
	l.mu.Unlock()
	for _, a := range abouts {
		a.timer.Stop()
		if a.held > 0 {
			a.last.write(a.held)
		}
	}
}
