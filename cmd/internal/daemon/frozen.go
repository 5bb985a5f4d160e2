package daemon

import (
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// frozenEvery is how often a network's frozen MACs are logged.
const frozenEvery = 30 * time.Second

// frozenLog is what was logged of frozen MACs. It belongs to the goroutine
// that handles events.
type frozenLog struct {
	every    time.Duration
	networks map[string]*frozen
}

// frozen is what is not logged yet of a network's frozen MACs, and when
// something was logged last.
type frozen struct {
	mac   encap.MAC // one of them
	count int
	full  bool // more moved than the guard keeps count of
	at    time.Time
}

// handleFrozen logs MACs that move too often: the first at once, those
// that follow within frozenEvery together, then.
func (d *daemon) handleFrozen(ev dataplane.Event) {
	f := d.frozenLog.networks[ev.Network]
	if f == nil {
		f = new(frozen)
		d.frozenLog.networks[ev.Network] = f
	}
	if f.count == 0 {
		f.mac = ev.MAC
	}
	f.count += ev.Count
	f.full = f.full || ev.Saturated
	d.logFrozen()
}

// logFrozen logs what waited long enough.
func (d *daemon) logFrozen() {
	for network, f := range d.frozenLog.networks {
		if f.count == 0 || time.Since(f.at) < d.frozenLog.every {
			continue
		}
		d.Log.Warn("MACs move too often between hosts: frozen where they are (a loop, one MAC twice, or an impostor)",
			"network", network, "mac", f.mac, "count", f.count)
		if f.full {
			d.Log.Warn("more MACs move between hosts than are counted: pin the MACs of peers (macs of [[vxlan.peer]])", "network", network)
		}
		f.count, f.full, f.at = 0, false, time.Now()
	}
}
