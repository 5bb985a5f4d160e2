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
	var json bool
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again",
		Long: `Have the daemon read its configuration file again and make what runs be what it
says. Networks that did not change are not touched; an error changes nothing.

Not by a reload change [underlay], [control], [engine] and [log], and of a network
that goes on: vni, port, tap, mac, mtu, ageing, max_entries, group, bridge, ports and
ports_take_addresses. Remove such a network by one reload and add it by the next, or
start a new daemon beside this one, which takes over. Only after a stop of this one
change [underlay], control.socket, engine.workers and engine.offload, and mac unless
by two reloads.
Entries by ` + "`overtap fdb add`" + ` stay.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := d.client().Reload(c.Context())
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), r)
			}
			return printReloaded(c.OutOrStdout(), r)
		},
	}
	d.add(c)
	addJSON(c, &json)
	return c
}

// printReloaded says what changed, a line each.
func printReloaded(w io.Writer, r control.Reloaded) error {
	var b strings.Builder
	for _, part := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"removed", r.Removed}, {"changed", r.Changed}} {
		for _, name := range part.names {
			fmt.Fprintf(&b, "%s %s\n", part.what, name)
		}
	}
	if r.Routes {
		b.WriteString("changed host routes\n")
	}
	if b.Len() == 0 {
		b.WriteString("nothing changed\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
