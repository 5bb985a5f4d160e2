package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"overtap/dataplane"
)

func newStatsCommand() *cobra.Command {
	var d daemonFlags
	var f filter
	var json bool
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show all counters, and why frames were dropped",
		Long: `Show all counters, and why frames were dropped. With --peer: those of the peer and
of the networks that it is in; drops are counted by network, not by peer.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := d.client().Stats(c.Context())
			if err != nil {
				return err
			}
			if s, err = f.only(s); err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStats(c.OutOrStdout(), s)
		},
	}
	d.add(c)
	f.add(c)
	addJSON(c, &json)
	addWatch(c)
	return c
}

// printStats prints one table a subject, leaves out those that are empty, and says
// when nothing was dropped.
func printStats(w io.Writer, s dataplane.Stats) error {
	networks := &table{header: []string{"NETWORK", "KIND", "VNI", "PORT", "TX PACKETS", "TX BYTES", "RX PACKETS", "RX BYTES",
		"FLOODED", "SUPPRESSED", "ENTRIES", "LEARNED", "MAX", "MOVED", "REFUSED", "FROZEN"}}
	for _, n := range s.Networks {
		networks.add(n.Network, n.Kind, ofVXLAN(n.Kind, n.VNI), ofVXLAN(n.Kind, n.Port), n.TxPackets, n.TxBytes, n.RxPackets, n.RxBytes,
			ofVXLAN(n.Kind, n.Flooded), ofVXLAN(n.Kind, n.Suppressed), n.Entries, ofVXLAN(n.Kind, n.EntriesLearned), ofVXLAN(n.Kind, n.EntriesMax),
			ofVXLAN(n.Kind, n.LearnMoved), ofVXLAN(n.Kind, n.LearnRefused+n.LearnQuota), ofVXLAN(n.Kind, n.Frozen))
	}
	drops := &table{header: []string{"DROPPED", "NETWORK", "DIRECTION", "REASON", "WHY"}}
	for _, d := range s.Drops {
		drops.add(d.Count, d.Network, d.Direction, d.Reason, d.Reason.Text())
	}
	wire := &table{header: []string{"SOCKET DROPPED", "PORT", "WHY"}}
	for _, v := range s.Wire {
		if v.SocketDropped > 0 {
			port := fmt.Sprint(v.Port)
			if v.Port == 0 {
				port = "IP-in-IP"
			}
			wire.add(v.SocketDropped, port, "the kernel found the receive buffer full")
		}
	}

	first := true
	for _, t := range []*table{networks, peerTable(s.Peers), drops, wire} {
		if len(t.rows) == 0 {
			continue
		}
		if !first {
			fmt.Fprintln(w)
		}
		first = false
		if err := t.print(w); err != nil {
			return err
		}
	}
	if len(drops.rows) > 0 || len(wire.rows) > 0 {
		return nil
	}
	if !first {
		fmt.Fprintln(w)
	}
	if _, err := fmt.Fprintln(w, "nothing was dropped"); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
