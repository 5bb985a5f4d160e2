package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"overtap/dataplane"
)

const (
	// repairs is how often the repair of a network is tried before the daemon
	// gives up.
	repairs = 5
	// settled is how long a repaired network must have lived for the next
	// repair to begin at once: whoever deletes a device again and again makes
	// no busy loop of it.
	settled = 10 * time.Second
)

// events acts on what happens to the engine until ctx ends.
func (d *daemon) events(ctx context.Context) error {
	repaired := make(map[string]time.Time)
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-d.engine.Events():
			switch ev.Kind {
			case dataplane.DeviceLost:
				if time.Since(repaired[ev.Network]) < settled && !sleep(ctx, d.backoff) {
					return nil
				}
				if err := d.repair(ctx, ev); err != nil {
					return err
				}
				repaired[ev.Network] = time.Now()
			case dataplane.WireFailed:
				return fmt.Errorf("UDP port %d can no longer be read: %w", ev.Port, ev.Err)
			case dataplane.UplinkLost:
				d.Log.Warn("the uplink of superframes is lost: they leave cut by the sockets until a restart", "err", ev.Err)
			case dataplane.SegmentationRefused:
				d.refused.Do(func() {
					d.Log.Warn("a route of the underlay refuses segmentation offload: every datagram is sent alone there from now on", "err", ev.Err)
				})
			}
		}
	}
}

// repair opens a network's device anew and sets the host up around it. It is an
// error when that fails time after time, and nil when ctx ends before.
func (d *daemon) repair(ctx context.Context, ev dataplane.Event) error {
	log := d.Log.With("network", ev.Network)
	d.ready.Store(false)
	wait := d.backoff
	for try := 1; ; try++ {
		err := d.reopen(ev.Network)
		if err == nil {
			d.ready.Store(true)
			log.Warn("the network's device was deleted by somebody else: opened anew, learned entries are lost", "cause", ev.Err)
			return nil
		}
		if try == repairs {
			return fmt.Errorf("network %s: its device was deleted, and opening it anew failed %d times: %w", ev.Network, repairs, err)
		}
		log.Debug("opening the network's device anew failed", "try", try, "err", err)
		if !sleep(ctx, wait) {
			return nil
		}
		wait *= 2
	}
}

// reopen takes a network out of the engine, puts it in again and sets the host
// up around its new device. After an error the network is out.
func (d *daemon) reopen(network string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.IndexFunc(d.base.Networks, func(n dataplane.Network) bool { return n.Name == network })
	if i < 0 {
		return nil
	}
	d.lost[network] = true
	if _, err := d.engine.Apply(d.desired()); err != nil {
		return fmt.Errorf("taking the network out: %w", err)
	}
	delete(d.lost, network)
	if _, err := d.engine.Apply(d.desired()); err != nil {
		d.lost[network] = true
		return fmt.Errorf("putting the network in again: %w", err)
	}
	if err := d.setupHost(d.base.Networks[i]); err != nil {
		// Marked as lost, so that no other Apply keeps it; the next try takes
		// it out.
		d.lost[network] = true
		return err
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
