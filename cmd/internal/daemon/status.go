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
	info, stats := d.engine.get().Info(), d.engine.get().Stats()
	missing := make(map[string]string)
	for _, name := range lost(info) {
		about, problem := deviceProblem(name)
		missing[about] = problem
	}
	s := control.Status{
		Version:     d.Version,
		PID:         os.Getpid(),
		Ready:       d.ready.Ready() && len(missing) == 0,
		Problems:    d.ready.Problems(missing),
		Warnings:    d.warnings(stats),
		Uptime:      uint64(time.Since(d.started) / time.Second),
		Config:      d.Path,
		Underlay:    control.Underlay{Address: d.conf().Underlay.Address, Device: d.conf().Underlay.Device, MTU: encap.UnderlayMTU(d.mtu.Load())},
		Workers:     info.Workers,
		SourcePorts: info.Sources,
		Uplink:      info.Uplink,

		SegmentationRefused: info.SegmentationRefused,

		Networks: make([]control.NetworkStatus, 0, len(info.Networks)),
	}
	counts := make(map[string]dataplane.NetworkStats)
	for _, n := range stats.Networks {
		counts[n.Network] = n
	}
	for _, n := range info.Networks {
		v, c := d.vxlan(n.Network), counts[n.Network]
		if n.Kind == dataplane.KindIPIP {
			v.Addresses = d.ipip(n.Network).Addresses
		}
		s.Networks = append(s.Networks, control.NetworkStatus{
			NetworkInfo: n,
			Bridge:      v.Bridge, Addresses: v.Addresses,
			Entries: c.Entries, EntriesLearned: c.EntriesLearned, EntriesMax: c.EntriesMax,
		})
	}
	for _, p := range stats.Peers {
		s.Peers = append(s.Peers, control.PeerStatus{Network: p.Network, Peer: p.Peer, PathMTU: p.PathMTU, Probe: p.Probe})
	}
	var err error
	if s.Attachments, err = d.attach.List(d.attachNetworks()); err != nil {
		d.limit.Warn("attachments", d.Log, "cannot list what is attached", "err", err)
	}
	s.Warnings = append(s.Warnings, d.standing(info, s.Attachments)...)
	return s
}
