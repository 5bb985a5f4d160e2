package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"overtap/dataplane"
)

func newStatsCommand() *cobra.Command {
	var f filter
	c := &cobra.Command{
		Use:   "stats",
		Short: "Show all counters, and why frames were dropped",
		Long: `Show all counters, and why frames were dropped. With --peer: those of the peer and
of the networks that it is in. Drops are counted by network, not by peer; LAST PEER is
the sender of the last of them or, outbound, its destination.`,
		Example: `  overtap stats --network blue
  overtap stats --reason too_big --json`,
	}
	addShow(c, f.stats, func(c *cobra.Command, s dataplane.Stats) error { return printStats(c.OutOrStdout(), s) })
	f.add(c)
	addParsed(c, &f.reason, parseReason, "reason", "of the drops only those for this `REASON`")
	complete(c, "reason", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// lastPeer is the sender of the last dropped frame or, outbound, its destination.
func lastPeer(d dataplane.DropStats) string {
	if !d.LastPeer.IsValid() {
		return ""
	}
	return d.LastPeer.String()
}

func lastDropped(d dataplane.DropStats) string {
	if d.Last.IsZero() {
		return ""
	}
	return since(d.Last)
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
	drops := &table{header: []string{"DROPPED", "NETWORK", "DIRECTION", "REASON", "LAST PEER", "LAST", "WHY"}}
	for _, d := range s.Drops {
		drops.add(d.Count, d.Network, d.Direction, d.Reason, lastPeer(d), lastDropped(d), d.Reason.Text())
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
	checksums := &table{header: []string{"CHECKSUM REFUSED", "WHY"}}
	if s.ChecksumErrors > 0 {
		checksums.add(s.ChecksumErrors, "the kernel found the UDP checksum wrong, or over IPv6 zero where that is not taken: all UDP to this host")
	}

	below, err := printTables(w, false, false, networks, peerTable(s.Peers), drops, wire, checksums)
	if err != nil || len(drops.rows) > 0 || len(wire.rows) > 0 {
		return err
	}
	if below {
		fmt.Fprintln(w)
	}
	if _, err := fmt.Fprintln(w, "nothing was dropped"); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
