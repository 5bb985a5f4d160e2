package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
)

func newClusterCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Show the cluster: its hosts, their containers, and the addresses given out",
		Long: `Show the cluster that this host is in ([cluster] of the configuration): its hosts, their
containers, and the addresses that this host gave out. docs/cluster.md.`,
		Example: `  overtap cluster members
  overtap cluster endpoints`,
	}
	c.AddCommand(newClusterMembersCommand(), newClusterEndpointsCommand(), newClusterAddressesCommand())
	return c
}

func newClusterMembersCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "members",
		Short: "Show the hosts of the cluster",
		Long: `Show the hosts of the cluster: name, underlay address, whether each is alive, in how
many networks it is, how many containers it has, and when its record was fetched last.
What is wrong with the cluster is a warning of ` + "`overtap status`" + `.`,
		Example: `  overtap cluster members
  overtap cluster members --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) ([]control.ClusterMember, error) {
		all, err := daemon.Cluster(c.Context())
		return all.Members, err
	}, func(c *cobra.Command, members []control.ClusterMember) error {
		if len(members) == 0 {
			return printNone(c, "no members")
		}
		t := table{header: []string{"NODE", "VTEP", "ALIVE", "NETWORKS", "CONTAINERS", "SYNCED", "VERSION"}}
		for _, m := range members {
			name, state, synced := m.Node, painted{green, "yes"}, "never"
			if !m.Alive {
				state = painted{red, "no"}
			}
			if !m.Synced.IsZero() {
				synced = since(m.Synced)
			}
			if m.Self {
				name, synced = name+" (this host)", "-"
			}
			t.add(name, m.VTEP, state, m.Networks, m.Endpoints, synced, m.Version)
		}
		return t.print(c.OutOrStdout())
	})
	return c
}

func newClusterEndpointsCommand() *cobra.Command {
	var network string
	c := &cobra.Command{
		Use:   "endpoints",
		Short: "Show the containers of all hosts of the cluster",
		Long: `Show the containers that are attached on the hosts of the cluster: where each is, with
its MAC and addresses. Of several hosts that claim a MAC that with the highest sequence
number holds it; the claims of others are marked "outdated".`,
		Example: `  overtap cluster endpoints --network blue
  overtap cluster endpoints --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) ([]control.ClusterEndpoint, error) {
		all, err := daemon.Cluster(c.Context())
		if network == "" || err != nil {
			return all.Endpoints, err
		}
		out := []control.ClusterEndpoint{}
		for _, e := range all.Endpoints {
			if e.Network == network {
				out = append(out, e)
			}
		}
		return out, nil
	}, func(c *cobra.Command, endpoints []control.ClusterEndpoint) error {
		if len(endpoints) == 0 {
			return printNone(c, "no containers")
		}
		t := table{header: []string{"NETWORK", "VNI", "MAC", "ADDRESSES", "NAME", "NODE", "VTEP", "SEQUENCE"}}
		for _, e := range endpoints {
			name, sequence := e.Network, painted{text: strconv.FormatUint(e.Sequence, 10)}
			if name == "" {
				name = "-"
			}
			if !e.Holds {
				sequence = painted{yellow, sequence.text + " (outdated)"}
			}
			t.add(name, e.VNI, e.MAC, joined(e.Addresses, ", "), e.Name, e.Node, e.VTEP, sequence)
		}
		return t.print(c.OutOrStdout())
	})
	addNetwork(c, &network, onlyNetwork)
	return c
}

func newClusterAddressesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "addresses",
		Short: "Show the addresses that this host gave out of its ranges",
		Long: `Show which addresses of the ranges of its networks this host has given to containers.
An address is free again once its container is detached or has ended.`,
		Example: `  overtap cluster addresses
  overtap cluster addresses --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) ([]control.ClusterAddress, error) {
		all, err := daemon.Cluster(c.Context())
		return all.Addresses, err
	}, func(c *cobra.Command, addresses []control.ClusterAddress) error {
		if len(addresses) == 0 {
			return printNone(c, "no addresses")
		}
		t := table{header: []string{"NETWORK", "RANGE", "ADDRESS", "CONTAINER", "MAC"}}
		for _, a := range addresses {
			t.add(a.Network, a.Range, a.Address, a.Target, a.MAC)
		}
		return t.print(c.OutOrStdout())
	})
	return c
}
