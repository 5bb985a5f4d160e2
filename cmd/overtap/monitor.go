package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"overtap/dataplane"
)

func newFDBMonitorCommand() *cobra.Command {
	var d daemonFlags
	var network string
	var asJSON bool
	c := &cobra.Command{
		Use:   "monitor",
		Short: "Print each change of the forwarding table as it happens",
		Long: `Print each change of the forwarding table as it happens, a line each, until
interrupted: learn, move (to another peer), local (the MAC was seen on this host),
age, freeze and thaw (it moves too often), add and delete (by configuration, command
line, flush, or with its peer).`,
		Example: `  overtap fdb monitor
  overtap fdb monitor --network blue --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			out := c.OutOrStdout()
			enc := json.NewEncoder(out)
			return d.client().WatchFDB(ctx, network, func() {}, func(change *dataplane.FDBChange, lost uint64) error {
				switch {
				case change == nil && asJSON:
					return enc.Encode(map[string]uint64{"lost": lost})
				case change == nil:
					_, err := fmt.Fprintf(out, "%d changes were lost: they came too fast\n", lost)
					return err
				case asJSON:
					return enc.Encode(change)
				}
				return printChange(out, change)
			})
		},
	}
	d.add(c)
	addNetwork(c, &network, onlyNetwork)
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return c
}

// printChange prints one change as a line.
func printChange(w io.Writer, c *dataplane.FDBChange) error {
	where := ""
	for _, part := range []struct {
		word string
		peer netip.Addr
	}{{" from ", c.From}, {" to ", c.To}} {
		if part.peer.IsValid() {
			where += part.word + part.peer.String()
		}
	}
	_, err := fmt.Fprintf(w, "%s %s %s %s%s %s\n", c.Time.Format("15:04:05.000"), c.Network, c.Event, c.MAC, where, c.Origin)
	return err
}
