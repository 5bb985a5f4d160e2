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
)

// leastWatch bounds how often a verb asks again: the daemon copies out whole
// tables each time.
const leastWatch = 100 * time.Millisecond

// addWatch lets a verb that reads show its answer again and again.
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
			return usageError{c.CommandPath(), fmt.Errorf("--watch %v: want %v or more", every, leastWatch)}
		}
		return watch(c, args, every, once)
	}
}

// watch runs the verb each interval until interrupted. A terminal is cleared
// before each; elsewhere an empty line stands between two. What fails the first
// time is an error; later it is shown, and tried again.
func watch(c *cobra.Command, args []string, every time.Duration, once func(*cobra.Command, []string) error) error {
	out := c.OutOrStdout()
	defer c.SetOut(out)
	ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c.SetContext(ctx)
	tick := time.NewTicker(every)
	defer tick.Stop()
	clear := isTerminal(out)
	for first := true; ; first = false {
		b := screen{terminal: clear}
		if clear {
			b.WriteString("\x1b[H\x1b[2J\x1b[3J") // home, erase what is seen and what was scrolled
		} else if !first {
			b.WriteByte('\n')
		}
		c.SetOut(&b)
		err := once(c, args)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (first || errors.As(err, new(usageError))):
			return err
		case err != nil:
			fmt.Fprintln(&b, err)
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

// screen collects one answer before it is shown at once.
type screen struct {
	bytes.Buffer
	terminal bool // that it is shown on
}

// isTerminal reports whether somebody looks at what is written.
func isTerminal(w io.Writer) bool {
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
