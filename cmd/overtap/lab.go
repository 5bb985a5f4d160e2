package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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
join them by overtap, in each of the ways that it has: a network to experiment
with, which reaches nothing outside and leaves nothing behind. It needs root, and
no other program.

` + labNames(),
		Example: `  overtap lab up
  overtap lab exec a1 -- ping -c 3 198.51.100.2`,
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

// onLab runs a verb on the lab that the argument names, nil without one. The context ends
// with a signal to stop, so that the verb undoes what it began.
func onLab(c *cobra.Command, args []string, run func(context.Context, *lab.Printer, *lab.Topology) error) error {
	var t *lab.Topology
	if len(args) > 0 {
		var err error
		if t, err = lab.Find(args[0]); err != nil {
			return usageError{err}
		}
	}
	ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	return run(ctx, lab.NewPrinter(c.OutOrStdout()), t)
}

func newLabUpCommand() *cobra.Command {
	var peer string
	c := &cobra.Command{
		Use:   "up [--peer kernel|overtap] [NAME]",
		Short: "Build a lab, test it with traffic and show it",
		Long: `Build a lab, test it with pings and with TCP streams whose checksums are compared, and
show it with the configuration that it runs. Host a runs overtap; so does host b,
unless the lab has a kernel vxlan device as the other end there.

` + labNames(),
		Example: `  overtap lab up
  overtap lab up --peer overtap vxlan-static`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{lab.Default}
			}
			p, err := lab.ParsePeer(peer)
			if err != nil {
				return usageError{err}
			}
			return onLab(c, args, func(ctx context.Context, out *lab.Printer, t *lab.Topology) error { return t.Up(ctx, out, p) })
		},
	}
	c.Flags().StringVar(&peer, "peer", "", "the other end: `kernel` or overtap (default kernel, where the lab and this kernel have it)")
	complete(c, "peer", completeWords([]string{string(lab.KernelPeer), string(lab.OvertapPeer)}))
	return c
}

func newLabListCommand() *cobra.Command {
	var json jsonFlag
	c := &cobra.Command{
		Use:   "list",
		Short: "List the labs, and which of them are up",
		Example: `  overtap lab list
  overtap lab list --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := lab.List()
			if err != nil {
				return err
			}
			return json.print(c, all, func(w io.Writer) error {
				t, damaged := table{header: []string{"NAME", "STATE", "WHAT IT IS"}}, ""
				for _, s := range all {
					t.add(s.Name, s.Condition, s.Summary)
					if s.Condition == lab.IsDamaged {
						damaged += fmt.Sprintf("\nLab %s is damaged, for %s: `lab up %s` builds it again, `lab down %s` removes it.\n",
							s.Name, s.Wrong, s.Name, s.Name)
					}
				}
				err := t.print(w)
				fmt.Fprint(w, damaged)
				return err
			})
		},
	}
	json.add(c)
	return c
}

func newLabExecCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "exec [NAME] HOST [--] [COMMAND [ARG]...]",
		Short: "Run a command inside a host or container of a running lab",
		Long: `Run a command inside a host or container of a running lab, or a shell. The
command sees the devices, addresses and routes of that host, and the files of this
machine. "overtap" is this program, whose verbs ask the daemon of the host. The exit
code is that of the command.`,
		Example: `  overtap lab exec a -- overtap fdb show
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
		Use:   "speed [NAME]",
		Short: "Measure TCP between two containers of a running lab, in each direction",
		Example: `  overtap lab speed
  overtap lab speed --time 10s ipip`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			if each <= 0 || each > time.Hour {
				return usageError{fmt.Errorf("--time %v: want more than 0s, at most 1h", each)}
			}
			return onLab(c, args, func(ctx context.Context, out *lab.Printer, t *lab.Topology) error {
				return lab.Speed(ctx, out, t, each)
			})
		},
	}
	c.Flags().DurationVar(&each, "time", 2*time.Second, "how long to send in each direction")
	return c
}

func newLabDownCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "down [--all | NAME]",
		Short: "Stop a lab and remove all of it",
		Long: `Stop a lab and remove all of it, also a damaged one: processes, namespaces with
their devices, files. Without a name it is the only one that is up.`,
		Example: `  overtap lab down
  overtap lab down --all`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: lab.Names(),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && all {
				return usageError{errors.New("--all and a name: want one of them")}
			}
			return onLab(c, args, func(ctx context.Context, out *lab.Printer, t *lab.Topology) error {
				name := ""
				if t != nil {
					name = t.Name
				}
				return lab.Down(ctx, out, name, all)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "stop all labs")
	return c
}
