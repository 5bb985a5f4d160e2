package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/top"
	"overtap/dataplane"
)

func newTopCommand() *cobra.Command {
	var d daemonFlags
	var network, view string
	var interval time.Duration
	var once, json bool
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch networks, peers, drops and the forwarding table live",
		Long: `Watch networks, peers, drops and the forwarding table on the terminal, with
rates and the last minute of each. ? shows the keys: views, order, filter, pause.

Without a terminal --once prints a view as text; rates are those of one interval.
Colour is left out where NO_COLOR is set.`,
		Example: "  overtap top\n  overtap top --network blue --view peers\n  overtap top --once --interval 5s",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, ok := top.ParseView(view)
			switch {
			case !ok:
				return usageError{c.CommandPath(), fmt.Errorf("--view %q: want one of %s", view, strings.Join(top.ViewNames(), ", "))}
			case interval < top.MinInterval || interval > top.MaxInterval:
				return usageError{c.CommandPath(), fmt.Errorf("--interval %v: want %v to %v", interval, top.MinInterval, top.MaxInterval)}
			}
			o := top.Options{Source: topSource(d.client(), network), Interval: interval, Network: network, View: v, Getenv: os.Getenv}
			switch {
			case json:
				return o.JSON(c.Context(), c.OutOrStdout())
			case once:
				return o.Once(c.Context(), c.OutOrStdout())
			}
			out, ok := c.OutOrStdout().(*os.File)
			if !ok {
				out = os.Stdout
			}
			return o.Run(c.Context(), os.Stdin, out)
		},
	}
	d.add(c)
	addOnlyNetwork(c, &network)
	addJSON(c, &json)
	c.Flags().Lookup("json").Usage = "print the rates of one interval as JSON"
	c.Flags().StringVar(&view, "view", top.Networks.String(), "the view at first: "+strings.Join(top.ViewNames(), ", "))
	c.Flags().DurationVar(&interval, "interval", time.Second, "the time between two samples")
	c.Flags().BoolVar(&once, "once", false, "print the view once as text, and end")
	return c
}

// topSource asks the daemon what `overtap top` shows of the named network, or of
// all for "".
func topSource(client *control.Client, network string) top.Source {
	return top.Source{
		Sample: func(ctx context.Context) (control.Status, dataplane.Stats, error) {
			status, err := client.Status(ctx)
			if err != nil {
				return status, dataplane.Stats{}, err
			}
			stats, err := client.Stats(ctx)
			if err == nil {
				f := filter{network: network}
				stats, err = f.only(stats)
			}
			return status, stats, err
		},
		Page: client.FDBPage,
	}
}
