package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"overtap/dataplane"
)

// addressFlag is an optional inner address on the command line.
type addressFlag struct{ netip.Addr }

// Set implements pflag.Value.
func (f *addressFlag) Set(s string) error {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("address %q: want an IP address such as 198.51.100.2 or 2001:db8:1::2", s)
	}
	f.Addr = a.Unmap()
	return nil
}

// Type implements pflag.Value.
func (f *addressFlag) Type() string { return "ADDRESS" }

// String returns "" when the flag is not set.
func (f *addressFlag) String() string {
	if !f.IsValid() {
		return ""
	}
	return f.Addr.String()
}

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
	var mac macFlag
	var address addressFlag
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
			entries = slices.DeleteFunc(entries, func(e dataplane.NeighborEntry) bool {
				return !mac.IsZero() && e.MAC != mac.MAC || address.IsValid() && e.Address != address.Addr
			})
			if json {
				return printJSON(c.OutOrStdout(), entries)
			}
			if len(entries) == 0 {
				return printNone(c, "no neighbours")
			}
			t := table{header: []string{"NETWORK", "VNI", "ADDRESS", "MAC", "ORIGIN"}}
			for _, e := range entries {
				t.add(e.Network, e.VNI, e.Address, e.MAC, e.Origin)
			}
			return t.print(c.OutOrStdout())
		},
	}
	d.add(c)
	addOnlyNetwork(c, &network)
	c.Flags().Var(&address, "address", "only this inner address")
	c.Flags().Var(&mac, "mac", "only this MAC")
	addJSON(c, &json)
	addWatch(c)
	return c
}
