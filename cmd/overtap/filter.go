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

// filter holds the flags that select counters; what is not set selects all.
type filter struct {
	network string
	peer    peerFlag
}

func (f *filter) add(c *cobra.Command) {
	addOnlyNetwork(c, &f.network)
	c.Flags().Var(&f.peer, "peer", "only this peer")
}

// only returns what the counters say of the selected network and peer. Drops are
// counted by network, so that with a peer those of its networks remain.
func (f *filter) only(s dataplane.Stats) (dataplane.Stats, error) {
	if err := f.checkNetwork(s.Networks); err != nil {
		return s, err
	}
	if f.network != "" {
		s.Peers = slices.DeleteFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Network != f.network })
	}
	if err := checkPeer(f.peer.Addr, s.Peers); err != nil {
		return s, err
	}
	if f.peer.IsValid() {
		s.Peers = slices.DeleteFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Peer != f.peer.Addr })
	}
	keeps := func(network string) bool {
		return (f.network == "" || network == f.network) &&
			(!f.peer.IsValid() || slices.ContainsFunc(s.Peers, func(p dataplane.PeerStats) bool { return p.Network == network }))
	}
	s.Networks = slices.DeleteFunc(s.Networks, func(n dataplane.NetworkStats) bool { return !keeps(n.Network) })
	s.Drops = slices.DeleteFunc(s.Drops, func(d dataplane.DropStats) bool { return !keeps(d.Network) && !(d.Network == "" && f.all()) })
	return s, nil
}

// all reports whether nothing is left out.
func (f *filter) all() bool { return f.network == "" && !f.peer.IsValid() }

func (f *filter) checkNetwork(networks []dataplane.NetworkStats) error {
	var known []string
	for _, n := range networks {
		known = append(known, n.Network)
	}
	switch {
	case f.network == "" || slices.Contains(known, f.network):
		return nil
	case len(known) == 0:
		return errors.New("the daemon has no network: give it one in its configuration")
	}
	return fmt.Errorf("there is no network %q: name one of %s", f.network, host.Some(known))
}

// checkPeer is an error when the address, unless it is invalid, is none of the
// peers'.
func checkPeer(peer netip.Addr, peers []dataplane.PeerStats) error {
	var known []string
	for _, p := range peers {
		if text := p.Peer.String(); !slices.Contains(known, text) {
			known = append(known, text)
		}
	}
	switch {
	case !peer.IsValid() || slices.Contains(known, peer.String()):
		return nil
	case len(known) == 0:
		return fmt.Errorf("there is no peer %s: there is none at all", peer)
	}
	return fmt.Errorf("there is no peer %s: name one of %s", peer, host.Some(known))
}

// checkPeerOf asks the daemon for its peers, to tell one without entries from
// one that is unknown.
func checkPeerOf(ctx context.Context, c *control.Client, network string, peer netip.Addr) error {
	if !peer.IsValid() {
		return nil
	}
	s, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	f := filter{network: network, peer: peerFlag{peer}}
	_, err = f.only(s)
	return err
}
