package main

import (
	"github.com/spf13/cobra"
)

func newNeighCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "neigh",
		Short: "Show the neighbours that are known beforehand",
	}
	c.AddCommand(newNeighShowCommand())
	return c
}

func newNeighShowCommand() *cobra.Command {
	var d daemonFlags
	var network string
	var json bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show which inner address is at which MAC, as suppression answers",
		Long: `Show the neighbours: inner addresses whose MAC is known beforehand. On a network
with suppress = true, ARP requests and neighbour solicitations for those whose
MAC is behind a peer (` + "`overtap fdb show`" + `) are answered on this host; how many
were, ` + "`overtap stats`" + ` shows as SUPPRESSED.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			entries, err := d.client().Neighbors(c.Context(), network)
			if err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), entries)
			}
			t := table{header: []string{"NETWORK", "VNI", "ADDRESS", "MAC", "ORIGIN"}}
			for _, e := range entries {
				t.add(e.Network, e.VNI, e.Address, e.MAC, e.Origin)
			}
			return t.print(c.OutOrStdout())
		},
	}
	d.add(c)
	addNetwork(c, &network)
	addJSON(c, &json)
	addWatch(c)
	return c
}
