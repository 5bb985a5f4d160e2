package daemon

import (
	"os"
	"time"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// Stats implements control.Daemon.
func (d *daemon) Stats() dataplane.Stats { return d.engine.get().Stats() }

// isReady reports whether traffic flows as configured, on every network.
func (d *daemon) isReady() bool {
	return d.ready.Ready() && len(lost(d.engine.get().Info())) == 0
}

// Status implements control.Daemon.
func (d *daemon) Status() control.Status {
	d.lookAtHealth(onAsk)
	info, stats := d.engine.get().Info(), d.engine.get().Stats()
	problems := d.problems()
	s := control.Status{
		Version:     d.Version,
		PID:         os.Getpid(),
		Ready:       d.ready.Ready() && len(problems) == 0,
		Problems:    problems,
		Warnings:    d.warnings(stats),
		Uptime:      uint64(time.Since(d.started) / time.Second),
		Config:      d.Path,
		Underlay:    control.Underlay{Address: d.conf().Underlay.Address, Device: d.conf().Underlay.Device, MTU: encap.UnderlayMTU(d.mtu.Load())},
		Workers:     info.Workers,
		SourcePorts: info.Sources,
		Uplink:      info.Uplink,

		SegmentationRefused: info.SegmentationRefused,
		Offloads:            info.Offloads,
		ChecksumErrors:      stats.ChecksumErrors,

		Networks: make([]control.NetworkStatus, 0, len(info.Networks)),
	}
	counts := make(map[string]dataplane.NetworkStats)
	for _, n := range stats.Networks {
		counts[n.Network] = n
	}
	for _, n := range info.Networks {
		v, c := d.conf().Network(n.Network), counts[n.Network]
		addresses := v.Addresses
		if n.Kind == dataplane.KindIPIP {
			addresses = d.conf().Tunnel(n.Network).Addresses
		}
		s.Networks = append(s.Networks, control.NetworkStatus{
			NetworkInfo: n,
			Problem:     n.Lost || len(d.ready.of(n.Network)) > 0,
			Bridge:      v.Bridge, Addresses: addresses,
			Entries: c.Entries, EntriesLearned: c.EntriesLearned, EntriesMax: c.EntriesMax,
		})
	}
	for _, p := range stats.Peers {
		s.Peers = append(s.Peers, control.PeerStatus{Network: p.Network, Peer: p.Peer, PathMTU: p.PathMTU, State: p.State, LastHeard: p.LastHeard, Probe: p.Probe})
	}
	var err error
	if s.Attachments, err = d.attach.List(d.overlays()); err != nil {
		d.limit.Warn("attachments", d.Log, "cannot list what is attached", "err", err)
	}
	s.Warnings = append(s.Warnings, d.healthWarnings()...)
	s.Warnings = append(s.Warnings, d.clusterWarnings()...)
	s.Warnings = append(s.Warnings, d.standing(info, s.Attachments)...)
	return s
}
