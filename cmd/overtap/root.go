package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/printable"
)

// Exit codes, and their meaning in the help.
const (
	exitOK = iota
	exitError
	exitUsage
	exitNotReady
)

var exitCodes = []string{
	exitOK:       "success",
	exitError:    "failure; the message on standard error says what failed",
	exitUsage:    "the command line is wrong; nothing was done",
	exitNotReady: "`overtap status` only: the daemon answered, and is not ready",
}

// exitStatus lists the exit codes.
func exitStatus() (text string) {
	for code, meaning := range exitCodes {
		text += fmt.Sprintf("\n  %d  %s", code, meaning)
	}
	return text
}

// errNotReady is returned by `status` after it printed the reasons.
var errNotReady = errors.New("the daemon is not ready")

// usageError is a mistake in the command line itself.
type usageError struct{ error }

// Unwrap returns the mistake.
func (e usageError) Unwrap() error { return e.error }

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	messages := &printable.Writer{W: stderr}
	root.SetErr(messages)
	c, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNotReady):
		return exitNotReady
	case errors.As(err, new(usageError)):
		printError(messages, fmt.Errorf("%w; see `%s --help`", err, c.CommandPath()))
		return exitUsage
	}
	printError(messages, err)
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

// newRootCommand builds the tree of all verbs.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "overtap",
		Short: "VXLAN in user space: join containers on different hosts into one network",
		Long: `overtap joins containers on different hosts into one network, in user space:
a TAP device per network and VXLAN over UDP to the other hosts, or a TUN device and
IP-in-IP. The other end may be another overtap or a Linux kernel vxlan or ipip device.

Exit codes:` + exitStatus(),
		Example: `  overtap lab up
  overtap run --config /etc/overtap/overtap.toml`,
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
		newClusterCommand(),
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.Version = buildVersion()
	root.SetVersionTemplate(thisBuild().String() + "\n")
	root.InitDefaultVersionFlag()
	root.Flags().Lookup("version").Usage = "show the version of this binary"
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = "  overtap help fdb add"
		case "completion":
			c.Example = "  overtap completion bash >/etc/bash_completion.d/overtap"
			for _, shell := range c.Commands() {
				shell.Example = "  overtap completion " + shell.Name()
			}
		}
	}
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
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error { return printed(c, args, run) }
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
}

// printed runs a verb and makes its output printable: names from outside may hold
// escape sequences. Output that is not text, or is colored, is written to printable.Raw.
func printed(c *cobra.Command, args []string, run func(*cobra.Command, []string) error) error {
	out := c.OutOrStdout()
	w := &printable.Writer{W: out}
	c.SetOut(w)
	defer c.SetOut(out)
	return errors.Join(run(c, args), w.Close())
}

// exactly requires one argument for each name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s; got %s", strings.Join(names, " "), plural(len(args), "argument", "arguments"))
		}
		return nil
	}
}

// showing makes a group of verbs of its verb show: called without a verb, the group
// does the same as show, with its flags.
func showing(show *cobra.Command, name, short string) *cobra.Command {
	show.Long = short + ". Without a verb it is `overtap " + name + " show`.\n\n" + show.Long
	show.Use, show.Short = name, short
	show.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return wantVerb(c, args)
	}
	return show
}

// group runs a group of verbs that was called without a known one.
func group(c *cobra.Command, args []string) error {
	if len(args) == 0 && !c.HasParent() {
		return c.Help()
	}
	return usageError{wantVerb(c, args)}
}

// wantVerb is an error that names the verbs of the group, or the one that args may mean.
func wantVerb(c *cobra.Command, args []string) error {
	var verbs []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			verbs = append(verbs, sub.Name())
		}
	}
	want := "want one of " + strings.Join(verbs, ", ")
	if len(args) == 0 {
		return fmt.Errorf("%s: %s", c.CommandPath(), want)
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		want = fmt.Sprintf("did you mean %q?", near[0])
	}
	return fmt.Errorf("unknown command %q: %s", args[0], want)
}
