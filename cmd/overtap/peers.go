package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

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
		Long: `Show the peers and what travelled to and from each. On a network with probe set,
also whether each is alive, its round trip, and the longest outer packet that was
proved to reach it. Only overtap answers probes.`,
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
	probed := slices.ContainsFunc(peers, func(p dataplane.PeerStats) bool { return p.Probe != nil })
	if probed {
		t.header = append(t.header, "ALIVE", "RTT", "VERIFIED")
	}
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
		row := []any{p.Network, p.Peer, flood, origin, pmtu, p.TxPackets, p.TxBytes, p.RxPackets, p.RxBytes}
		if probed {
			row = append(row, alive(p.Probe), roundTrip(p.Probe), verified(p.Probe))
		}
		t.add(row...)
	}
	return t
}

// alive says whether the peer answers probes, and since when it does not.
func alive(p *dataplane.Probe) painted {
	switch {
	case p == nil:
		return painted{}
	case p.Alive:
		return painted{green, "yes"}
	case p.UnansweredSince.IsZero():
		return painted{} // it was not asked yet
	case !p.Answered:
		return painted{yellow, "never"}
	}
	return painted{red, fmt.Sprintf("not for %v", time.Since(p.UnansweredSince).Round(time.Second))}
}

// roundTrip is that of the last probe that was answered.
func roundTrip(p *dataplane.Probe) string {
	if p == nil || p.RTT == 0 {
		return ""
	}
	return time.Duration(p.RTT * float64(time.Second)).Round(time.Microsecond).String()
}

// verified is what was proved to reach the peer.
func verified(p *dataplane.Probe) painted {
	if p == nil || p.VerifiedMTU == 0 {
		return painted{}
	}
	c := green
	if p.IsNarrow() {
		c = yellow
	}
	return painted{c, strconv.Itoa(int(p.VerifiedMTU))}
}
