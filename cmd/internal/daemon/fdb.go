package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/encap"
	"overtap/fdb"
)

// static holds the forwarding entries of the command line by network. They lie
// over those of the configuration: each source withdraws only its own.
type static map[string]map[encap.MAC]netip.Addr

// desired is what the engine must do: the configuration, without the networks
// that wait for repair, with what the command line and the cluster add. The caller
// holds mu.
func (d *daemon) desired() dataplane.Desired {
	var out dataplane.Desired
	var problems []string
	for _, n := range d.base.Networks {
		if d.lost[n.Name] {
			continue
		}
		n.FDB = slices.Clone(n.FDB)
		own := d.static[n.Name]
		for _, mac := range slices.Sorted(maps.Keys(own)) {
			n.FDB = append(n.FDB, dataplane.StaticEntry{MAC: mac, Peer: own[mac]})
		}
		problems = append(problems, d.addMembers(&n)...)
		out.Networks = append(out.Networks, n)
	}
	d.members.set(func() { d.members.problems = problems })
	for _, t := range d.base.Tunnels {
		if !d.lost[t.Name] {
			out.Tunnels = append(out.Tunnels, t)
		}
	}
	return out
}

// FDB implements control.Daemon.
func (d *daemon) FDB(network string) ([]dataplane.FDBEntry, error) {
	if network != "" {
		if _, err := d.network(network); err != nil {
			return nil, err
		}
	}
	return d.engine.get().FDB(network)
}

// FDBPage implements control.Daemon.
func (d *daemon) FDBPage(q control.FDBQuery) (control.FDBPage, error) {
	if q.Network != "" {
		if _, err := d.network(q.Network); err != nil {
			return control.FDBPage{}, err
		}
	}
	return q.Page(d.engine.get().EachFDB)
}

// Neighbors implements control.Daemon.
func (d *daemon) Neighbors(network string) ([]dataplane.NeighborEntry, error) {
	if network != "" {
		if _, err := d.network(network); err != nil {
			return nil, err
		}
	}
	return d.engine.get().Neighbors(network)
}

// AddFDB implements control.Daemon.
func (d *daemon) AddFDB(e control.Entry) (control.Added, error) {
	n, err := d.network(e.Network)
	if err != nil {
		return control.Added{}, err
	}
	if err := d.checkEntry(n, e); err != nil {
		return control.Added{}, err
	}
	d.lock()
	defer d.mu.Unlock()
	done := control.Added{Network: n.Name, Admits: !d.admits(n, e.Peer)}
	if old, ok := d.entry(n.Name, e.MAC); ok {
		done.Peer, done.Origin = old.Peer, old.Origin
	}
	own := d.static[n.Name]
	if own == nil {
		own = make(map[encap.MAC]netip.Addr)
		d.static[n.Name] = own
	}
	old, had := own[e.MAC]
	own[e.MAC] = e.Peer
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		if had {
			own[e.MAC] = old
		} else {
			delete(own, e.MAC)
		}
		return control.Added{}, fmt.Errorf("adding %s to network %s: %w", e.MAC, n.Name, err)
	}
	return done, nil
}

// admits reports whether the network takes frames of the peer. The caller holds mu.
func (d *daemon) admits(n dataplane.Network, peer netip.Addr) bool {
	if n.Admit.Any || slices.ContainsFunc(n.Admit.Prefixes, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return true
	}
	for _, own := range d.static[n.Name] {
		if own == peer {
			return true
		}
	}
	return slices.ContainsFunc(n.AllPeers(), func(p fdb.Peer) bool { return p.Addr == peer })
}

// entry is the entry of a MAC, if it has one that can be read.
func (d *daemon) entry(network string, mac encap.MAC) (entry dataplane.FDBEntry, ok bool) {
	err := d.engine.get().EachFDB(network, func(e *dataplane.FDBEntry) {
		if e.MAC == mac {
			entry, ok = *e, true
		}
	})
	return entry, ok && err == nil
}

// checkEntry refuses what the configuration would refuse, and what belongs to
// it.
func (d *daemon) checkEntry(n dataplane.Network, e control.Entry) error {
	if err := n.CheckEntry(e.MAC); err != nil {
		return fmt.Errorf("%s %w", e.MAC, err)
	}
	if err := dataplane.CheckPeer(e.Peer, d.conf().Underlay.Address); err != nil {
		return fmt.Errorf("%s %w", e.Peer, err)
	}
	if p, network, ok := d.conf().Inward(e.Peer); ok {
		return fmt.Errorf("%s is in the prefix %s, which leads into the network %s: what is encapsulated for it would go there again; want the underlay address of another host", e.Peer, p, network)
	}
	return configured(n, e.MAC)
}

// ends are the addresses on the underlay, with those of peers that the command line
// named.
func (d *daemon) ends() *config.Ends {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.conf().Peers()
	for _, own := range d.static {
		all = slices.AppendSeq(all, maps.Values(own))
	}
	return config.NewEnds(d.conf().Underlay.Address, all)
}

// configured refuses to touch an entry of the configuration.
func configured(n dataplane.Network, mac encap.MAC) error {
	for _, s := range n.FDB {
		if s.MAC == mac {
			return fmt.Errorf("the entry %s of network %s (peer %s) belongs to the configuration: change it there", mac, n.Name, s.Peer)
		}
	}
	return nil
}

// DeleteFDB implements control.Daemon.
func (d *daemon) DeleteFDB(network string, mac encap.MAC) (control.Deleted, error) {
	n, err := d.network(network)
	if err != nil {
		return control.Deleted{}, err
	}
	if err := configured(n, mac); err != nil {
		return control.Deleted{}, err
	}
	d.lock()
	defer d.mu.Unlock()
	old, _ := d.entry(n.Name, mac)
	gone := control.Deleted{Network: n.Name, Peer: old.Peer, Origin: old.Origin}
	own := d.static[n.Name]
	if peer, ok := own[mac]; ok {
		delete(own, mac)
		if _, err := d.engine.get().Apply(d.desired()); err != nil {
			own[mac] = peer
			return control.Deleted{}, fmt.Errorf("removing %s from network %s: %w", mac, n.Name, err)
		}
		gone.Peer, gone.Origin = peer, "static"
		return gone, nil
	}
	flushed, err := d.flush(dataplane.Match{Network: n.Name, MAC: mac})
	if err == nil && flushed == 0 {
		err = fmt.Errorf("network %s has no entry %s: see `overtap fdb show`", n.Name, mac)
	}
	return gone, err
}

// FlushFDB implements control.Daemon.
func (d *daemon) FlushFDB(m control.Match) (int, error) {
	if m.Network != "" {
		if _, err := d.network(m.Network); err != nil {
			return 0, err
		}
	}
	return d.flush(dataplane.Match{Network: m.Network, MAC: m.MAC, Peer: m.Peer})
}

func (d *daemon) flush(m dataplane.Match) (int, error) {
	n, err := d.engine.get().Flush(m)
	if err != nil {
		return n, fmt.Errorf("flushing learned entries: %w", err)
	}
	return n, nil
}

// network returns the network of a name, as configured; for "" the only one.
func (d *daemon) network(name string) (dataplane.Network, error) {
	if d.waiting() {
		return dataplane.Network{}, errWaits
	}
	all := d.networks()
	known := make([]string, 0, len(all))
	for _, n := range all {
		if n.Name == name || name == "" && len(all) == 1 {
			return n, nil
		}
		known = append(known, n.Name)
	}
	switch {
	case len(known) == 0:
		return dataplane.Network{}, fmt.Errorf("this daemon has no network: give it one in %s", d.Path)
	case name == "":
		return dataplane.Network{}, fmt.Errorf("there are several networks: name one of %s with --network", host.Some(known))
	}
	return dataplane.Network{}, fmt.Errorf("there is no network %q: name one of %s", name, host.Some(known))
}
