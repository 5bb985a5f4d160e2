package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

func newFDBCommand() *cobra.Command {
	c := showing(newFDBShowCommand(), "fdb", "Show and change the forwarding table")
	c.AddCommand(newFDBShowCommand(), newFDBAddCommand(), newFDBDelCommand(), newFDBFlushCommand(), newFDBMonitorCommand())
	return c
}

// match holds the flags that select entries.
type match struct {
	network string
	mac     encap.MAC
	peer    netip.Addr
}

func (m *match) add(c *cobra.Command) {
	addNetwork(c, &m.network, onlyNetwork)
	addMAC(c, &m.mac, "mac", "only this `MAC`")
	addPeer(c, &m.peer, "peer", "only entries of the peer `ADDRESS`")
}

func newFDBShowCommand() *cobra.Command {
	var m match
	var origin string
	var frozen bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show forwarding entries",
		Long: `Show the forwarding table: which MAC is behind which peer, where the entry comes from,
and for how many seconds its MAC sent nothing.`,
		Example: `  overtap fdb show --network blue
  overtap fdb show --mac 02:42:0a:00:01:04 --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) ([]dataplane.FDBEntry, error) {
		all, err := daemon.FDB(c.Context(), m.network)
		entries := make([]dataplane.FDBEntry, 0, len(all))
		for _, e := range all {
			if (m.mac.IsZero() || e.MAC == m.mac) && (!m.peer.IsValid() || e.Peer == m.peer) &&
				(origin == "" || e.Origin == origin) && (!frozen || e.Frozen) {
				entries = append(entries, e)
			}
		}
		if err == nil && len(entries) == 0 {
			err = checkPeerOf(c.Context(), daemon, m.network, m.peer)
		}
		return entries, err
	}, func(c *cobra.Command, entries []dataplane.FDBEntry) error {
		if len(entries) == 0 {
			return printNone(c, "no entries")
		}
		t := table{header: []string{"NETWORK", "VNI", "MAC", "PEER", "PORT", "ORIGIN", "AGE"}}
		for _, e := range entries {
			age := "-"
			if e.Origin == "learned" {
				age = fmt.Sprintf("%ds", e.Age)
			}
			if e.Frozen {
				age += " frozen"
			}
			t.add(e.Network, e.VNI, e.MAC, e.Peer, e.Port, e.Origin, age)
		}
		return t.print(c.OutOrStdout())
	})
	m.add(c)
	addOneOf(c, &origin, []string{"static", "cluster", "learned"}, "origin", "only entries of this `ORIGIN`")
	c.Flags().BoolVar(&frozen, "frozen", false, "only frozen MACs: they moved too often, and stay where they are for a while")
	return c
}

func newFDBAddCommand() *cobra.Command {
	var d daemonFlags
	var network string
	c := &cobra.Command{
		Use:   "add [--network NAME] MAC PEER",
		Short: "Bind a MAC to a peer until the daemon ends or the entry is deleted",
		Long: `Bind a MAC to a peer: a static entry, which learning never replaces, and which lasts
until ` + "`overtap fdb del`" + ` or the end of the daemon. Entries of the configuration are
changed there. Frames from the peer are accepted from then on, as from a listed one.`,
		Example: "  overtap fdb add --network blue 02:42:0a:00:01:04 192.0.2.2",
		Args:    exactly("MAC", "PEER"),
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := encap.ParseMAC(args[0])
			if err != nil {
				return usageError{err}
			}
			peer, err := parsePeer(args[1])
			if err != nil {
				return usageError{err}
			}
			done, err := d.client().AddFDB(c.Context(), control.Entry{Network: network, MAC: mac, Peer: peer})
			if err != nil {
				return err
			}
			text := fmt.Sprintf("%s: %s is behind %s", done.Network, mac, peer)
			if done.Peer.IsValid() {
				text += fmt.Sprintf(" (was %s, %s)", done.Peer, done.Origin)
			}
			if done.Admits {
				text += fmt.Sprintf("; frames from %s are admitted from now on", peer)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), text)
			return err
		},
	}
	d.add(c)
	addNetwork(c, &network, networkName)
	c.ValidArgsFunction = completeArgs(nil, completePeers)
	return c
}

func newFDBDelCommand() *cobra.Command {
	var d daemonFlags
	var network string
	c := &cobra.Command{
		Use:     "del [--network NAME] MAC",
		Short:   "Delete an entry that `fdb add` made, or a learned one",
		Example: "  overtap fdb del --network blue 02:42:0a:00:01:04",
		Args:    exactly("MAC"),
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := encap.ParseMAC(args[0])
			if err != nil {
				return usageError{err}
			}
			gone, err := d.client().DeleteFDB(c.Context(), network, mac)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s is no longer behind %s (%s)\n", gone.Network, mac, gone.Peer, gone.Origin)
			return err
		},
	}
	d.add(c)
	addNetwork(c, &network, networkName)
	c.ValidArgsFunction = completeArgs()
	return c
}

func newFDBFlushCommand() *cobra.Command {
	var d daemonFlags
	var m match
	c := &cobra.Command{
		Use:     "flush",
		Short:   "Delete learned entries: all, or those that the flags select",
		Example: "  overtap fdb flush --network blue --peer 192.0.2.2",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := d.client().FlushFDB(c.Context(), control.Match{Network: m.network, MAC: m.mac, Peer: m.peer})
			if err != nil {
				return err
			}
			if n == 0 {
				if err := checkPeerOf(c.Context(), d.client(), m.network, m.peer); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s flushed\n", plural(n, "entry", "entries"))
			return err
		},
	}
	d.add(c)
	m.add(c)
	return c
}
