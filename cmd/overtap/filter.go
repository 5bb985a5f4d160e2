package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

// filter holds the flags that select counters; a flag that is not set selects all.
type filter struct {
	network string
	peer    netip.Addr
	reason  dataplane.Drop // 0 = any
}

func (f *filter) add(c *cobra.Command) {
	addNetwork(c, &f.network, onlyNetwork)
	addPeer(c, &f.peer, "peer", "only the peer `ADDRESS`")
}

// stats asks the daemon for the selected counters.
func (f *filter) stats(c *cobra.Command, daemon *control.Client) (dataplane.Stats, error) {
	s, err := daemon.Stats(c.Context())
	if err != nil {
		return s, err
	}
	return f.only(s)
}

// only returns the counters of the selected network and peer. Drops are counted by
// network, so that with a peer those of its networks remain.
func (f *filter) only(s dataplane.Stats) (dataplane.Stats, error) {
	if err := f.checkNetwork(s.Networks); err != nil {
		return s, err
	}
	if f.network != "" {
		s.Peers = slices.DeleteFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Network != f.network })
	}
	if err := checkPeer(f.peer, s.Peers); err != nil {
		return s, err
	}
	if f.peer.IsValid() {
		s.Peers = slices.DeleteFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Peer != f.peer })
	}
	keeps := func(network string) bool {
		return (f.network == "" || network == f.network) &&
			(!f.peer.IsValid() || slices.ContainsFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Network == network }))
	}
	s.Networks = slices.DeleteFunc(s.Networks, func(n dataplane.NetworkStats) bool { return !keeps(n.Network) })
	s.Drops = slices.DeleteFunc(s.Drops, func(d dataplane.DropStats) bool {
		return !keeps(d.Network) && !(d.Network == "" && f.all()) || f.reason != 0 && d.Reason != f.reason
	})
	return s, nil
}

// all reports whether nothing is left out.
func (f *filter) all() bool { return f.network == "" && !f.peer.IsValid() }

func (f *filter) checkNetwork(networks []dataplane.NetworkStats) error {
	var known []string
	for _, n := range networks {
		known = append(known, n.Network)
	}
	if f.network != "" && len(known) == 0 {
		return errors.New("the daemon has no network: give it one in its configuration")
	}
	return oneOf(known, f.network, fmt.Sprintf("network %q", f.network))
}

// checkPeer is an error when the address, unless it is invalid, is none of the
// peers'.
func checkPeer(peer netip.Addr, peers []dataplane.PeerStats) error {
	if !peer.IsValid() {
		return nil
	}
	var known []string
	for _, p := range peers {
		known = append(known, p.Peer.String())
	}
	if len(known) == 0 {
		return fmt.Errorf("there is no peer %s: there is none at all", peer)
	}
	slices.Sort(known)
	return oneOf(slices.Compact(known), peer.String(), "peer "+peer.String())
}

// oneOf is an error when a name, unless it is "", is none of those that are known.
func oneOf(known []string, name, what string) error {
	if name == "" || slices.Contains(known, name) {
		return nil
	}
	return fmt.Errorf("there is no %s: name one of %s", what, host.Some(known))
}

// checkPeerOf is an error for a peer that the daemon does not have; one without entries
// is none.
func checkPeerOf(ctx context.Context, c *control.Client, network string, peer netip.Addr) error {
	if !peer.IsValid() {
		return nil
	}
	s, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	f := filter{network: network, peer: peer}
	_, err = f.only(s)
	return err
}
