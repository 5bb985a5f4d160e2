package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/printable"
	"overtap/cmd/internal/top"
	"overtap/dataplane"
)

func newTopCommand() *cobra.Command {
	var d daemonFlags
	var network, view string
	var interval time.Duration
	var once bool
	var json jsonFlag
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch networks, peers, drops and the forwarding table live",
		Long: `Watch networks, peers, drops and the forwarding table on the terminal, with
rates and the last minute of each. ? shows the keys: views, order, filter, pause.

Without a terminal --once prints a view as text; rates are those of one interval.
There is no color where NO_COLOR is set.`,
		Example: `  overtap top --network blue --view peers
  overtap top --once --interval 5s`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, ok := top.ParseView(view)
			switch {
			case bool(json) && c.Flags().Changed("view"):
				return usageError{errors.New("--view with --json, which prints all views but the fdb: want one of them")}
			case !ok:
				return usageError{fmt.Errorf("--view %q: want one of %s", view, strings.Join(top.ViewNames(), ", "))}
			case interval < top.MinInterval || interval > top.MaxInterval:
				return usageError{fmt.Errorf("--interval %v: want %v to %v", interval, top.MinInterval, top.MaxInterval)}
			}
			o := top.Options{Source: topSource(d.client(), network), Interval: interval, Network: network, View: v, Getenv: os.Getenv}
			switch {
			case bool(json):
				return o.JSON(c.Context(), c.OutOrStdout())
			case once:
				return o.Once(c.Context(), c.OutOrStdout())
			}
			out, ok := printable.Raw(c.OutOrStdout()).(*os.File)
			if !ok {
				out = os.Stdout
			}
			return o.Run(c.Context(), os.Stdin, out)
		},
	}
	d.add(c)
	addNetwork(c, &network, onlyNetwork)
	json.add(c)
	c.Flags().Lookup("json").Usage = "print the rates of one interval as JSON"
	c.Flags().StringVar(&view, "view", top.Networks.String(), "the view at first: "+strings.Join(top.ViewNames(), ", "))
	complete(c, "view", completeWords(top.ViewNames()))
	c.Flags().DurationVar(&interval, "interval", time.Second, "the time between two samples")
	c.Flags().BoolVar(&once, "once", false, "print the view once as text, and end")
	return c
}

// topSource asks the daemon for the data of `overtap top`, of the named network or,
// for "", of all.
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
