package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// completionLimit bounds how long the shell waits for the daemon.
const completionLimit = time.Second

// complete completes the values of a flag.
func complete(c *cobra.Command, flag string, values cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, values); err != nil {
		panic(err) // the verb has no such flag, or completes it already
	}
}

// completeWords completes words that are known without the daemon.
func completeWords(words []string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// completeArgs completes the arguments in their order, each by its own function.
// After the last there are none.
func completeArgs(each ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(each) || each[len(args)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return each[len(args)](c, args, word)
	}
}

// completeNetworks completes the networks of the daemon.
func completeNetworks(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return completeStats(c, func(s dataplane.Stats) (all []cobra.Completion) {
		for _, n := range s.Networks {
			all = append(all, cobra.CompletionWithDesc(n.Network, string(n.Kind)))
		}
		return all
	})
}

// completePeers completes the peers of the daemon: those of --network, where it is given.
func completePeers(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	network := ""
	if f := c.Flag("network"); f != nil {
		network = f.Value.String()
	}
	return completeStats(c, func(s dataplane.Stats) (all []cobra.Completion) {
		seen := make(map[string]bool)
		for _, p := range s.Peers {
			if address := p.Peer.String(); (network == "" || p.Network == network) && !seen[address] {
				seen[address] = true
				all = append(all, cobra.CompletionWithDesc(address, p.Network))
			}
		}
		return all
	})
}

// completeStats completes names from the counters of the daemon. Without an answer
// there is nothing to complete.
func completeStats(c *cobra.Command, names func(dataplane.Stats) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
	defer cancel()
	s, err := control.NewClient(c.Flag("socket").Value.String()).Stats(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names(s), cobra.ShellCompDirectiveNoFileComp
}

// completeFiles leaves the argument to the shell's own completion of files.
func completeFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// reasons are the names of all drop reasons, with their meaning.
func reasons() (all []cobra.Completion) {
	for _, d := range dataplane.Drops() {
		all = append(all, cobra.CompletionWithDesc(d.String(), d.Text()))
	}
	return all
}

// points are the names of the points where frames can be captured.
func points() (names []string) {
	for p := range dataplane.PointDropped + 1 {
		names = append(names, p.String())
	}
	return names
}
