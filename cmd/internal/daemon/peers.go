package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

const (
	// peersEvery is how often the log looks at how peers fare.
	peersEvery = 5 * time.Second
	// namedPeers bounds the peers that one line of the log names.
	namedPeers = 50
)

// peerKey is a peer of a network.
type peerKey struct {
	network string
	peer    netip.Addr
}

// ailing are the peers that the log called lost or never heard. The zero value
// is none.
type ailing struct {
	mu sync.Mutex
	of map[peerKey]dataplane.PeerState
}

// peerChange is what happened to some peers, as a line of the log.
type peerChange struct {
	text  string
	warns bool
}

var (
	peersLost  = peerChange{"peers do not answer probes any more: they or the path to them are down", true}
	peersNever = peerChange{"nothing was ever heard of peers: they, or the path from them, are down", true}
	peersBack  = peerChange{"peers answer again", false}
	peersFirst = peerChange{"peers were heard for the first time", false}
)

// followPeers logs which peers are lost, and which are back, until ctx ends.
func (d *daemon) followPeers(ctx context.Context) error {
	tick := time.NewTicker(peersEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.lookAtPeers()
		}
	}
}

// lookAtPeers logs how peers fare where that differs from what was logged last:
// all peers of a network that changed alike in one line.
func (d *daemon) lookAtPeers() {
	changes := make(map[peerChange]map[string][]string) // addresses by network
	note := func(c peerChange, k peerKey) {
		if changes[c] == nil {
			changes[c] = make(map[string][]string)
		}
		changes[c][k.network] = append(changes[c][k.network], k.peer.String())
	}
	d.ailing.mu.Lock()
	now := make(map[peerKey]dataplane.PeerState)
	d.engine.get().EachPeer(func(network string, peer netip.Addr, state dataplane.PeerState) {
		k := peerKey{network, peer}
		was := d.ailing.of[k]
		switch state {
		case dataplane.PeerLost:
			if was != state {
				note(peersLost, k)
			}
			now[k] = state
		case dataplane.PeerNever:
			// One that was lost is still that, after the sockets were opened again.
			if was == "" {
				note(peersNever, k)
			}
			now[k] = cmp.Or(was, state)
		case dataplane.PeerNew:
			if was != "" {
				now[k] = was
			}
		case dataplane.PeerAlive, dataplane.PeerHeard:
			switch was {
			case dataplane.PeerLost:
				note(peersBack, k)
			case dataplane.PeerNever:
				note(peersFirst, k)
			}
		}
	})
	d.ailing.of = now
	d.ailing.mu.Unlock()

	for _, c := range []peerChange{peersLost, peersNever, peersBack, peersFirst} {
		for _, network := range slices.Sorted(maps.Keys(changes[c])) {
			peers := changes[c][network]
			slices.Sort(peers)
			args := []any{"network", network, "count", len(peers), "peers", strings.Join(peers[:min(len(peers), namedPeers)], " ")}
			if c.warns {
				d.Log.Warn(c.text, args...)
			} else {
				d.Log.Info(c.text, args...)
			}
		}
	}
}

// warnNever names the listed peers of which nothing was ever heard, a line for
// each network.
func (d *daemon) warnNever(peers []dataplane.PeerStats) []string {
	never := make(map[string][]string)
	for _, p := range peers {
		if !p.Learned && p.State == dataplane.PeerNever {
			never[p.Network] = append(never[p.Network], p.Peer.String())
		}
	}
	var all []string
	for _, network := range slices.Sorted(maps.Keys(never)) {
		way := "IP protocol 4"
		if port := d.conf().Network(network).Port; port != 0 {
			way = fmt.Sprintf("UDP port %d", port)
		}
		all = append(all, fmt.Sprintf("network %s: nothing was ever heard of peers: %s: see whether they are up and list this host, "+
			"and whether a firewall drops %s; an idle kernel device is silent too", network, host.Some(never[network]), way))
	}
	return all
}
