package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

func newPeersCommand() *cobra.Command {
	var f filter
	c := &cobra.Command{
		Use:   "peers",
		Short: "Show the peers: when each was heard, whether it is alive, and its traffic",
		Long: `Show the peers: when each was heard last, whether it is alive, its round trip, the
longest outer packet that was proved to reach it, and its traffic in both directions.

ALIVE is "yes" for a peer that answers probes, and for one that stopped answering how
long ago that was. Only overtap answers them: other peers are "heard" (within the last
minute), "silent" (for longer) or "never" (not heard, and listed for more than a minute).`,
		Example: `  overtap peers --watch
  overtap peers --network blue --json`,
	}
	addShow(c, func(c *cobra.Command, daemon *control.Client) ([]dataplane.PeerStats, error) {
		s, err := f.stats(c, daemon)
		return s.Peers, err
	}, func(c *cobra.Command, peers []dataplane.PeerStats) error {
		return peerTable(peers).print(c.OutOrStdout())
	})
	f.add(c)
	return c
}

func peerTable(peers []dataplane.PeerStats) *table {
	t := &table{header: []string{"NETWORK", "PEER", "LAST HEARD", "ALIVE", "RTT", "FLOOD", "ORIGIN", "PMTU", "VERIFIED",
		"TX PACKETS", "TX BYTES", "RX PACKETS", "RX BYTES"}}
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
		t.add(p.Network, p.Peer, lastHeard(p.LastHeard), alive(p.State, p.Probe), roundTrip(p.Probe), flood, origin, pmtu, verified(p.Probe),
			p.TxPackets, p.TxBytes, p.RxPackets, p.RxBytes)
	}
	return t
}

// lastHeard says when something was heard of a peer last.
func lastHeard(at time.Time) painted {
	if at.IsZero() {
		return painted{yellow, "never"}
	}
	return painted{text: since(at)}
}

// since says how long ago something was.
func since(at time.Time) string {
	return max(time.Since(at), 0).Round(time.Second).String() + " ago"
}

// alive is the state of a peer; of one that answered probes, since when it does not.
func alive(state dataplane.PeerState, p *dataplane.Probe) painted {
	switch {
	case state == dataplane.PeerAlive:
		return painted{green, "yes"}
	case state == dataplane.PeerLost && p != nil:
		return painted{red, fmt.Sprintf("not for %v", time.Since(p.UnansweredSince).Round(time.Second))}
	case state == dataplane.PeerNew:
		return painted{}
	case state == dataplane.PeerNever:
		return painted{red, string(state)}
	}
	return painted{text: string(state)}
}

// roundTrip is that of the last probe that was answered.
func roundTrip(p *dataplane.Probe) string {
	if p == nil || p.RTT == 0 {
		return ""
	}
	return time.Duration(p.RTT * float64(time.Second)).Round(time.Microsecond).String()
}

// verified is the longest packet that was proved to reach the peer.
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
