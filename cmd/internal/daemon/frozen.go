package daemon

import (
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// frozenEvery is how often the log tells of a network's frozen MACs.
const frozenEvery = 30 * time.Second

// toldFrozen is what the log told of frozen MACs. It belongs to the goroutine
// that heeds events.
type toldFrozen struct {
	every    time.Duration
	networks map[string]*frozen
}

// frozen is what the log has not told yet of a network's frozen MACs, and when
// it last told something.
type frozen struct {
	mac   encap.MAC // one of them
	count int
	at    time.Time
}

// heedFrozen tells of MACs that move too often: of the first at once, of those
// that follow within frozenEvery together, then.
func (d *daemon) heedFrozen(ev dataplane.Event) {
	f := d.told.networks[ev.Network]
	if f == nil {
		f = new(frozen)
		d.told.networks[ev.Network] = f
	}
	if f.count == 0 {
		f.mac = ev.MAC
	}
	f.count += ev.Count
	d.tellFrozen()
}

// tellFrozen tells what waits long enough.
func (d *daemon) tellFrozen() {
	for network, f := range d.told.networks {
		if f.count == 0 || time.Since(f.at) < d.told.every {
			continue
		}
		d.Log.Warn("MACs move too often between hosts: frozen where they are (a loop, one MAC twice, or an impostor)",
			"network", network, "mac", f.mac, "count", f.count)
		f.count, f.at = 0, time.Now()
	}
}
