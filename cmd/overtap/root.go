package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/config"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // what was asked for did not work
	exitUsage = 2 // it was not asked for properly
)

// usageError is a mistake in the command line itself.
type usageError struct {
	verb string // with its parents
	err  error
}

func (e usageError) Error() string { return fmt.Sprintf("%v; see `%s --help`", e.err, e.verb) }
func (e usageError) Unwrap() error { return e.err }

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	printError(stderr, err)
	var u usageError
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitError
}

// printError prints each error that err joins on lines of its own. A mistake in
// a configuration begins with its place, as a compiler's does.
func printError(w io.Writer, err error) {
	switch e := err.(type) {
	case config.Errors:
		fmt.Fprintln(w, e)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			printError(w, err)
		}
	default:
		fmt.Fprintf(w, "overtap: %v\n", err)
	}
}

// newRootCommand builds the whole tree of verbs.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "overtap",
		Short: "VXLAN in user space: join containers on different hosts into one network",
		Long: `overtap joins containers on different hosts into one network, in user space:
a TAP device per network, VXLAN over UDP to the other hosts. The other end may
be another overtap or a Linux kernel vxlan device.`,
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
	}
	root.AddCommand(
		newRunCommand(),
		newCheckCommand(),
		newStatusCommand(),
		newCaptureCommand(),
		newFDBCommand(),
		newNeighCommand(),
		newPeersCommand(),
		newStatsCommand(),
		newTraceCommand(),
		newTopCommand(),
		newReloadCommand(),
		newAttachCommand(),
		newDetachCommand(),
		newLabCommand(),
		newVersionCommand(),
		newManCommand(),
		newDoctorCommand(),
	)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{c.CommandPath(), err}
	})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// strict makes usage errors of wrong arguments, and of a group of verbs without
// one of them, throughout the tree below c.
func strict(c *cobra.Command) {
	for _, sub := range c.Commands() {
		strict(sub)
	}
	if !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = group
		return
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{c.CommandPath(), err}
			}
			return nil
		}
	}
}

// exactly wants one argument for each name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s; got %s", strings.Join(names, " "), plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}

// group answers a group of verbs that was called without a known one.
func group(c *cobra.Command, args []string) error {
	if len(args) == 0 && !c.HasParent() {
		return c.Help()
	}
	var verbs []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			verbs = append(verbs, sub.Name())
		}
	}
	want := "want one of " + strings.Join(verbs, ", ")
	if len(args) == 0 {
		return usageError{c.CommandPath(), fmt.Errorf("%s: %s", c.CommandPath(), want)}
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		want = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageError{c.CommandPath(), fmt.Errorf("unknown command %q: %s", args[0], want)}
}
