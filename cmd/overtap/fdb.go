package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

func newFDBCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "fdb",
		Short: "Show and change the forwarding table",
	}
	c.AddCommand(newFDBShowCommand(), newFDBAddCommand(), newFDBDelCommand(), newFDBFlushCommand(), newFDBMonitorCommand())
	return c
}

// macFlag and peerFlag are optional addresses on the command line.
type (
	macFlag  struct{ encap.MAC }
	peerFlag struct{ netip.Addr }
)

// Set implements pflag.Value.
func (f *macFlag) Set(s string) error { return f.UnmarshalText([]byte(s)) }

// Type implements pflag.Value.
func (f *macFlag) Type() string { return "MAC" }

// String returns "" when the flag is not set.
func (f *macFlag) String() string {
	if f.IsZero() {
		return ""
	}
	return f.MAC.String()
}

// Set implements pflag.Value.
func (f *peerFlag) Set(s string) (err error) {
	f.Addr, err = parsePeer(s)
	return err
}

// Type implements pflag.Value.
func (f *peerFlag) Type() string { return "ADDRESS" }

// String returns "" when the flag is not set.
func (f *peerFlag) String() string {
	if !f.IsValid() {
		return ""
	}
	return f.Addr.String()
}

func parsePeer(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("peer %q: want an IP address such as 192.0.2.2 or 2001:db8::2", s)
	}
	return a.Unmap(), nil
}

// match holds the flags that select entries.
type match struct {
	network string
	mac     macFlag
	peer    peerFlag
}

func (m *match) add(c *cobra.Command) {
	addOnlyNetwork(c, &m.network)
	c.Flags().Var(&m.mac, "mac", "only this MAC")
	c.Flags().Var(&m.peer, "peer", "only entries of this peer")
}

func addNetwork(c *cobra.Command, network *string) {
	c.Flags().StringVar(network, "network", "", "the network's `NAME`")
}

// addOnlyNetwork is addNetwork for verbs that take all networks without the flag.
func addOnlyNetwork(c *cobra.Command, network *string) {
	c.Flags().StringVar(network, "network", "", "only the network `NAME`")
}

// origins are what a forwarding entry can come from.
var origins = []string{"static", "learned"}

func newFDBShowCommand() *cobra.Command {
	var d daemonFlags
	var m match
	var origin string
	var frozen, json bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show forwarding entries",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if origin != "" && !slices.Contains(origins, origin) {
				return usageError{c.CommandPath(), fmt.Errorf("origin %q: want %s", origin, strings.Join(origins, " or "))}
			}
			all, err := d.client().FDB(c.Context(), m.network)
			if err != nil {
				return err
			}
			entries := make([]dataplane.FDBEntry, 0, len(all))
			for _, e := range all {
				if (m.mac.IsZero() || e.MAC == m.mac.MAC) && (!m.peer.IsValid() || e.Peer == m.peer.Addr) &&
					(origin == "" || e.Origin == origin) && (!frozen || e.Frozen) {
					entries = append(entries, e)
				}
			}
			if len(entries) == 0 {
				if err := checkPeerOf(c.Context(), d.client(), m.network, m.peer.Addr); err != nil {
					return err
				}
			}
			if json {
				return printJSON(c.OutOrStdout(), entries)
			}
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
		},
	}
	d.add(c)
	m.add(c)
	c.Flags().StringVar(&origin, "origin", "", "only entries of this `ORIGIN`: "+strings.Join(origins, " or "))
	c.Flags().BoolVar(&frozen, "frozen", false, "only MACs that moved too often, and stay where they are for a while")
	addJSON(c, &json)
	addWatch(c)
	return c
}

func newFDBAddCommand() *cobra.Command {
	var d daemonFlags
	var network string
	c := &cobra.Command{
		Use:   "add [--network NAME] MAC PEER",
		Short: "Bind a MAC to a peer until the daemon ends or the entry is deleted",
		Long: `Bind a MAC to a peer: a static entry, which learning never displaces, and which
lasts until ` + "`overtap fdb del`" + ` or the daemon's end. Entries of the configuration are
changed there. Frames from the peer are taken from then on, as from a listed one.`,
		Example: "  overtap fdb add --network blue 02:42:0a:00:01:04 192.0.2.2",
		Args:    exactly("MAC", "PEER"),
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := encap.ParseMAC(args[0])
			if err != nil {
				return usageError{c.CommandPath(), err}
			}
			peer, err := parsePeer(args[1])
			if err != nil {
				return usageError{c.CommandPath(), err}
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
	addNetwork(c, &network)
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
				return usageError{c.CommandPath(), err}
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
	addNetwork(c, &network)
	return c
}

func newFDBFlushCommand() *cobra.Command {
	var d daemonFlags
	var m match
	c := &cobra.Command{
		Use:     "flush",
		Short:   "Forget learned entries: all, or those the flags select",
		Example: "  overtap fdb flush --network blue --peer 192.0.2.2",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := d.client().FlushFDB(c.Context(), control.Match{Network: m.network, MAC: m.mac.MAC, Peer: m.peer.Addr})
			if err != nil {
				return err
			}
			if n == 0 {
				if err := checkPeerOf(c.Context(), d.client(), m.network, m.peer.Addr); err != nil {
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
