package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

const (
	// repairs is how often the repair of a network is tried before the daemon
	// gives up.
	repairs = 5
	// settled is how long what was put back must have lasted for the next time
	// to be another story.
	settled = 10 * time.Second
)

// events acts on what happens to the engine until ctx ends. Which networks are
// lost it does not take from the events but looks itself: after each, and once
// in a while.
func (d *daemon) events(ctx context.Context) error {
	repaired := make(map[string]time.Time)
	while := time.NewTicker(d.backoff)
	defer while.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.restarted: // there is another engine to listen to
		case <-while.C:
			d.logFrozen()
		case ev := <-d.engine.get().Events():
			if err := d.handleEvent(ev); err != nil {
				return err
			}
		}
		if err := d.repairLost(ctx, repaired); err != nil {
			return err
		}
		d.sayReady()
	}
}

// handleEvent acts on one event. It is an error when the daemon cannot go on.
func (d *daemon) handleEvent(ev dataplane.Event) error {
	switch ev.Kind {
	case dataplane.DeviceLost:
		d.Log.Debug("a network's device is lost", "network", ev.Network, "err", ev.Err)
	case dataplane.ConnFailed:
		if ev.Port == 0 {
			return fmt.Errorf("the socket of IP-in-IP can no longer be read: %w", ev.Err)
		}
		return fmt.Errorf("UDP port %d can no longer be read: %w", ev.Port, ev.Err)
	case dataplane.UplinkLost:
		d.Log.Warn("the uplink of GSO packets is lost: they leave cut by the sockets until a restart", "err", ev.Err)
	case dataplane.ZeroChecksumsFailed:
		d.Log.Warn("the sockets take UDP checksums of zero as the daemon before had it, not as configured: restart the daemon", "err", ev.Err)
	case dataplane.PathMTUChanged:
		log := d.Log.With("network", ev.Network, "peer", ev.Peer)
		if ev.PathMTU == 0 {
			d.limit.Info("path "+ev.Network, log, "the path to a peer takes whole packets again")
		} else {
			d.limit.Warn("path "+ev.Network, log, "the path to a peer takes shorter packets only: longer ones are fragmented where they may be, else dropped as too_big, and their senders notified", "pmtu", ev.PathMTU)
		}
	case dataplane.MACsFrozen:
		d.handleFrozen(ev)
	case dataplane.SegmentationRefused:
		d.limit.Warn("segmentation", d.Log, "routes of the underlay refuse segmentation offload (UDP_SEGMENT): every datagram is sent alone there until it is tried again, first after a minute",
			"peers", ev.Count, "err", ev.Err)
	case dataplane.GSORefused:
		d.limit.Warn("gso "+ev.Network, d.Log, "the kernel refused a GSO packet at the network's device: it was segmented and written again, and packets are written one by one until it is tried again, first after a minute",
			"network", ev.Network, "err", ev.Err)
	case dataplane.GSOResumed:
		d.limit.Info("gso "+ev.Network, d.Log, "the kernel refuses GSO packets at the network's device no more", "network", ev.Network)
	case dataplane.SegmentationResumed:
		d.limit.Info("segmentation", d.Log, "routes of the underlay refuse segmentation offload (UDP_SEGMENT) no more", "peers", ev.Count, "peer", ev.Peer)
	}
	return nil
}

// repairLost opens every lost device again. A network that was repaired just now
// waits for another call: a device that is deleted again and again makes no
// busy loop of it.
func (d *daemon) repairLost(ctx context.Context, repaired map[string]time.Time) error {
	for _, network := range d.lostNetworks() {
		if time.Since(repaired[network]) < d.backoff {
			continue
		}
		if err := d.reopenPatiently(ctx, network, "its device was deleted, and opening it again"); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		d.limit.Warn("device "+network, d.Log, "the network's device was deleted by another program: opened again, learned entries are lost", "network", network)
		repaired[network] = time.Now()
	}
	return nil
}

// lostNetworks names those whose device was deleted under the engine. An engine
// that is closed has none: the next opens them all.
func (d *daemon) lostNetworks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	return lost(d.engine.get().Info())
}

func lost(i dataplane.Info) []string {
	var names []string
	for _, n := range i.Networks {
		if n.Lost {
			names = append(names, n.Network)
		}
	}
	return names
}

// reopenPatiently opens a network's device again and sets the host up around it.
// It is an error, which says what, when that fails time after time, and nil when
// ctx ends before.
func (d *daemon) reopenPatiently(ctx context.Context, network, what string) error {
	about, problem := deviceProblem(network)
	wait := d.backoff
	for try := 1; ; try++ {
		d.ready.setProblem(about, problem)
		err := d.reopen(network)
		if err == nil {
			d.ready.clear(about)
			return nil
		}
		if try == repairs {
			return fmt.Errorf("network %s: %s failed %d times: %w", network, what, repairs, err)
		}
		d.Log.Debug("opening the network's device again failed", "network", network, "try", try, "err", err)
		if !sleep(ctx, wait) {
			return nil
		}
		wait *= 2
	}
}

// deviceProblem is what readiness says of a network whose device is missing, and
// what it files that under.
func deviceProblem(network string) (about, problem string) {
	return "device of " + network, "network " + network + ": its device is being opened again"
}

// reopen takes a network out of the engine, puts it in again and sets the host
// up around its new device. After an error the network is out.
func (d *daemon) reopen(network string) error {
	d.lock()
	defer d.mu.Unlock()
	all := d.hostNetworks()
	i := slices.IndexFunc(all, func(n host.Network) bool { return n.Name == network })
	if i < 0 {
		return nil
	}
	if d.closed {
		delete(d.lost, network) // the next engine will have it
		return nil
	}
	d.lost[network] = true
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		return fmt.Errorf("taking the network out: %w", err)
	}
	delete(d.lost, network)
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		d.lost[network] = true
		return fmt.Errorf("putting the network in again: %w", err)
	}
	if err := d.setupHost(all[i]); err != nil {
		d.Log.Debug("setting the host up", "err", err) // Repair goes on
	}
	return nil
}

// sleep waits and reports whether ctx still lasts.
func sleep(ctx context.Context, t time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(t):
		return true
	}
}
