package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"overtap/cmd/internal/printable"
)

// leastWatch bounds how often a verb asks again: the daemon copies out whole
// tables each time.
const leastWatch = 100 * time.Millisecond

// addWatch adds --watch, which repeats the verb.
func addWatch(c *cobra.Command) {
	var every time.Duration
	c.Flags().DurationVar(&every, "watch", 0, "show it again each `INTERVAL`, until interrupted: --watch is 1s, --watch=2s another")
	c.Flags().Lookup("watch").NoOptDefVal = "1s"
	once := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case !c.Flags().Changed("watch"):
			return once(c, args)
		case every < leastWatch:
			return usageError{fmt.Errorf("--watch %v: want %v or more", every, leastWatch)}
		}
		return watch(c, args, every, once)
	}
}

// watch runs the verb each interval until interrupted. A terminal is cleared before
// each; otherwise an empty line separates two. A failure of the first run is an error;
// a later one is shown, and the verb runs again.
func watch(c *cobra.Command, args []string, every time.Duration, once func(*cobra.Command, []string) error) error {
	was := c.OutOrStdout()
	out := printable.Raw(was)
	defer c.SetOut(was)
	ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c.SetContext(ctx)
	tick := time.NewTicker(every)
	defer tick.Stop()
	clear := isTerminal(out)
	for first := true; ; first = false {
		b := screen{terminal: clear}
		if clear {
			b.WriteString("\x1b[H\x1b[2J\x1b[3J") // home, erase the screen and what was scrolled
		} else if !first {
			b.WriteByte('\n')
		}
		text := &printable.Writer{W: &b}
		c.SetOut(text)
		err := once(c, args)
		if errors.Is(err, errNotReady) {
			err = nil // it is shown, and may change
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (first || errors.As(err, new(usageError))):
			return err
		case err != nil:
			fmt.Fprintln(text, err)
		}
		if _, err := out.Write(b.Bytes()); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// screen collects one answer, to show it at once.
type screen struct {
	bytes.Buffer
	terminal bool // that it is shown on
}

// isTerminal reports whether the writer is a terminal.
func isTerminal(w io.Writer) bool {
	w = printable.Raw(w)
	if s, ok := w.(*screen); ok {
		return s.terminal
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
