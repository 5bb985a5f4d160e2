package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
)

func newReloadCommand() *cobra.Command {
	var d daemonFlags
	var json jsonFlag
	var dryRun bool
	c := &cobra.Command{
		Use:   "reload [--dry-run]",
		Short: "Make the daemon read its configuration again",
		Long: `Make the daemon read its configuration file again and apply it. Networks that did not
change are not touched; an error changes nothing. Every changed key is printed with its
old and new value; --dry-run prints what would change, and changes nothing.

A reload does not change [underlay], [control], [engine], [offload] and [log], and of a
network that stays: vni, port, tap, mac, ageing, max_entries, group, bridge, ports and
ports_take_addresses. Remove such a network by one reload and add it by the next, or
start a new daemon beside this one, which takes over. [underlay], control.socket,
engine.workers and engine.offload change only after this daemon stopped; mac also by
two reloads. Entries made by ` + "`overtap fdb add`" + ` stay.`,
		Example: `  overtap reload --dry-run
  overtap reload --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := d.client().Reload(c.Context(), dryRun)
			if err != nil {
				return err
			}
			return json.print(c, r, func(w io.Writer) error { return printReloaded(w, r) })
		},
	}
	d.add(c)
	json.add(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would change, and change nothing")
	return c
}

// printReloaded prints a line for each network that changed, with its keys.
func printReloaded(w io.Writer, r control.Reloaded) error {
	var b strings.Builder
	if r.DryRun {
		b.WriteString("a dry run: nothing was changed; a reload would do this:\n")
	}
	quiet := b.Len()
	keys := func(network string) {
		for i := range r.Details {
			c := &r.Details[i]
			if c.Network != network || c.Key == "" {
				continue
			}
			line := ""
			if c.Line != 0 {
				line = fmt.Sprintf(" (line %d)", c.Line)
			}
			fmt.Fprintf(&b, "  %s%s\n", c, line)
		}
	}
	for _, part := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"removed", r.Removed}, {"changed", r.Changed}} {
		for _, name := range part.names {
			fmt.Fprintf(&b, "%s %s\n", part.what, name)
			keys(name)
		}
	}
	if r.Routes {
		b.WriteString("changed host routes\n")
		keys("")
	}
	if r.MoreDetails > 0 {
		fmt.Fprintf(&b, "and %s\n", plural(r.MoreDetails, "more key", "more keys"))
	}
	if b.Len() == quiet {
		b.WriteString("nothing changed\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
