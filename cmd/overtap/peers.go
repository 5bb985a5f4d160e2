package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"overtap/dataplane"
)

func newPeersCommand() *cobra.Command {
	var d daemonFlags
	var network string
	var json bool
	c := &cobra.Command{
		Use:   "peers",
		Short: "Show the peers and what travelled to and from each",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := d.client().Stats(c.Context())
			if err != nil {
				return err
			}
			if s, err = only(s, network); err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), s.Peers)
			}
			return peerTable(s.Peers).print(c.OutOrStdout())
		},
	}
	d.add(c)
	addNetwork(c, &network)
	addJSON(c, &json)
	addWatch(c)
	return c
}

func peerTable(peers []dataplane.PeerStats) *table {
	t := &table{header: []string{"NETWORK", "PEER", "FLOOD", "ORIGIN", "PMTU", "TX PACKETS", "TX BYTES", "RX PACKETS", "RX BYTES"}}
	for _, p := range peers {
		flood, origin, pmtu := "no", "static", "-"
		if p.Flood {
			flood = "yes"
		}
		if p.Learned {
			origin = "learned"
		}
		if p.PathMTU != 0 {
			pmtu = strconv.Itoa(int(p.PathMTU))
		}
		t.add(p.Network, p.Peer, flood, origin, pmtu, p.TxPackets, p.TxBytes, p.RxPackets, p.RxBytes)
	}
	return t
}

// only returns what the counters say of the named network, or all of them for
// "".
func only(s dataplane.Stats, network string) (dataplane.Stats, error) {
	if network == "" {
		return s, nil
	}
	var known []string
	for _, n := range s.Networks {
		known = append(known, n.Network)
	}
	if len(known) == 0 {
		return s, errors.New("the daemon has no network: give it one in its configuration")
	}
	if !slices.Contains(known, network) {
		return s, fmt.Errorf("there is no network %q: name one of %s", network, strings.Join(known, ", "))
	}
	s.Networks = slices.DeleteFunc(s.Networks, func(n dataplane.NetworkStats) bool { return n.Network != network })
	s.Peers = slices.DeleteFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Network != network })
	s.Drops = slices.DeleteFunc(s.Drops, func(d dataplane.DropStats) bool { return d.Network != network })
	return s, nil
}
