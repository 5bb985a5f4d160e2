package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/lab"
)

func newLabCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "lab",
		Short: "Build hosts on this machine and join their containers: try overtap here",
		Long: `Build hosts and their containers out of network namespaces of this machine and
join them by overtap, in each of the ways that it knows: a network to look at
and to play with, that reaches nothing outside and leaves nothing behind. It
needs root, and no program but this one.

` + labNames(),
		Example: "  overtap lab up\n  overtap lab exec a1 -- ping -c 3 198.51.100.2\n  overtap lab down",
	}
	c.AddCommand(newLabUpCommand(), newLabListCommand(), newLabExecCommand(), newLabSpeedCommand(), newLabDownCommand())
	return c
}

// labNames describes the labs for a verb's help.
func labNames() string {
	var b strings.Builder
	b.WriteString("The labs:\n")
	for _, t := range lab.Topologies() {
		fmt.Fprintf(&b, "  %-14s %s\n", t.Name, t.Summary)
	}
	return strings.TrimRight(b.String(), "\n")
}

// interruptible ends with a signal to stop, so that what was begun is undone.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
}

func newLabUpCommand() *cobra.Command {
	var peer string
	c := &cobra.Command{
		Use:   "up [--peer kernel|overtap] [NAME]",
		Short: "Build a lab, prove it by traffic and show what it is",
		Long: `Build a lab, prove it by pings and TCP streams whose sums are compared, and show
what it is, with the configuration that it runs. Host a runs overtap; so does
host b, unless the lab has a kernel's vxlan device to be the other end there.

` + labNames(),
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			name := lab.Default
			if len(args) > 0 {
				name = args[0]
			}
			t, err := lab.Find(name)
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			p, err := lab.ParsePeer(peer)
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			return t.Up(ctx, lab.NewPrinter(c.OutOrStdout()), p)
		},
	}
	c.Flags().StringVar(&peer, "peer", "", "the other end: `kernel` or overtap (default kernel, where lab and kernel have vxlan for it)")
	return c
}

func newLabListCommand() *cobra.Command {
	var json bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List the labs there are and which of them are up",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := lab.List()
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), all)
			}
			t := table{header: []string{"NAME", "STATE", "WHAT IT IS"}}
			for _, s := range all {
				t.add(s.Name, s.Condition, s.Summary)
			}
			if err := t.print(c.OutOrStdout()); err != nil {
				return err
			}
			for _, s := range all {
				if s.Condition == lab.IsDamaged {
					fmt.Fprintf(c.OutOrStdout(), "\nLab %s is damaged, for %s: `lab up %s` builds it anew, `lab down %s` removes it.\n",
						s.Name, s.Wrong, s.Name, s.Name)
				}
			}
			return nil
		},
	}
	addJSON(c, &json)
	return c
}

func newLabExecCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "exec [NAME] HOST [--] [COMMAND [ARG]...]",
		Short: "Run a command inside a host or container of a running lab",
		Long: `Run a command inside a host or container of a running lab, or a shell. The
command sees the devices, addresses and routes in there, and the files of this
machine. As overtap it finds this program, whose verbs ask the host's daemon.
The exit code is the command's.`,
		Example: `  overtap lab exec a1 -- ping -c 3 198.51.100.2
  overtap lab exec a -- overtap fdb show
  overtap lab exec vxlan-subnets b2 -- ip route`,
		Args:      cobra.MinimumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Exec(lab.NewPrinter(c.OutOrStdout()), args)
		},
	}
	// The command's flags are its own.
	c.Flags().SetInterspersed(false)
	return c
}

func newLabSpeedCommand() *cobra.Command {
	var each time.Duration
	c := &cobra.Command{
		Use:       "speed [NAME]",
		Short:     "Measure TCP between two containers of a running lab, each way",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			var t *lab.Topology
			if len(args) > 0 {
				var err error
				if t, err = lab.Find(args[0]); err != nil {
					return usageError{c.CommandPath(), err}
				}
			}
			if each <= 0 || each > time.Hour {
				return usageError{c.CommandPath(), fmt.Errorf("--time %v: want more than 0s, at most 1h", each)}
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			return lab.Speed(ctx, lab.NewPrinter(c.OutOrStdout()), t, each)
		},
	}
	c.Flags().DurationVar(&each, "time", 2*time.Second, "how long to send, each way")
	return c
}

func newLabDownCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "down [--all | NAME]",
		Short: "End a lab and remove all of it",
		Long: `End a lab and remove all of it, whole or damaged: processes, namespaces with
their devices, files. Without a name it is the only one that is up.`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				if all {
					return usageError{c.CommandPath(), errors.New("--all goes without a name")}
				}
				name = args[0]
				if _, err := lab.Find(name); err != nil {
					return usageError{c.CommandPath(), err}
				}
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			return lab.Down(ctx, lab.NewPrinter(c.OutOrStdout()), name, all)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "end all labs")
	return c
}
