package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"overtap/dataplane"
)

func newPeersCommand() *cobra.Command {
	var d daemonFlags
	var f filter
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
			if s, err = f.only(s); err != nil {
				return err
			}
			if json {
				return printJSON(c.OutOrStdout(), s.Peers)
			}
			return peerTable(s.Peers).print(c.OutOrStdout())
		},
	}
	d.add(c)
	f.add(c)
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
