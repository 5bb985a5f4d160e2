package main

import (
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

func newNeighCommand() *cobra.Command {
	c := showing(newNeighShowCommand(), "neigh", "Show the known neighbours")
	c.AddCommand(newNeighShowCommand())
	return c
}

func newNeighShowCommand() *cobra.Command {
	var network string
	var mac encap.MAC
	var address netip.Addr
	c := &cobra.Command{
		Use:   "show",
		Short: "Show which inner address is at which MAC, as suppression answers",
		Long: `Show the neighbours: inner addresses whose MAC is configured, or known by the cluster. On a network with
suppress = true, ARP requests and neighbour solicitations for those whose MAC is
behind a peer (` + "`overtap fdb show`" + `) are answered on this host; SUPPRESSED of
` + "`overtap stats`" + ` counts them.`,
		Example: `  overtap neigh show --network blue
  overtap neigh show --address 10.0.1.4 --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) ([]dataplane.NeighborEntry, error) {
		entries, err := daemon.Neighbors(c.Context(), network)
		return slices.DeleteFunc(entries, func(e dataplane.NeighborEntry) bool {
			return !mac.IsZero() && e.MAC != mac || address.IsValid() && e.Address != address
		}), err
	}, func(c *cobra.Command, entries []dataplane.NeighborEntry) error {
		if len(entries) == 0 {
			return printNone(c, "no neighbours")
		}
		t := table{header: []string{"NETWORK", "VNI", "ADDRESS", "MAC", "ORIGIN"}}
		for _, e := range entries {
			t.add(e.Network, e.VNI, e.Address, e.MAC, e.Origin)
		}
		return t.print(c.OutOrStdout())
	})
	addNetwork(c, &network, onlyNetwork)
	addAddress(c, &address, "address", "only this inner `ADDRESS`")
	addMAC(c, &mac, "mac", "only this `MAC`")
	return c
}
