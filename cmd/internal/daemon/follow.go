package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/encap"
)

const (
	// debounce is how long the daemon waits after an event of the kernel for
	// those that mostly follow.
	debounce = 100 * time.Millisecond
	// slowest bounds the time between two tries.
	slowest = time.Minute
)

// care is how a network, or the plain routes, fared so far.
type care struct {
	due    bool          // an event touched it
	again  time.Time     // when to look without an event; zero = never
	wait   time.Duration // before that, while something is missing
	fought time.Time     // when something was put back last
	rest   time.Duration // before that is done again
}

// when is the time to look at it; zero = not before the next event.
func (c *care) when() time.Time {
	at := c.again
	if c.due {
		at = time.Now()
	}
	if rested := c.fought.Add(c.rest); !at.IsZero() && at.Before(rested) {
		return rested
	}
	return at
}

// follower acts on what happens to the host's links, addresses and routes.
type follower struct {
	*daemon
	cares map[string]*care
	tries int       // of the engine's restart
	retry time.Time // of the same; zero = none is wanted
	seen  time.Time // when the counters were looked at for warnings
}

// follow acts until ctx ends. It is an error when the engine cannot be opened
// anew time after time.
func (d *daemon) follow(ctx context.Context) error {
	f := &follower{daemon: d, cares: make(map[string]*care)}
	timer := time.NewTimer(slowest)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-d.host.Changed():
			if !sleep(ctx, debounce) {
				return nil
			}
		}
		if err := f.look(ctx); err != nil {
			return err
		}
		if time.Since(f.seen) >= slowest {
			// So that a warning is as old as what it tells of, whoever asks.
			f.seen = time.Now()
			f.ownFrames.look(f.Stats(), f.seen)
		}
		timer.Reset(time.Until(f.next()))
	}
}

// look repairs what is due and sees to the underlay.
func (f *follower) look(ctx context.Context) error {
	for _, subject := range f.host.Affected() {
		f.care(subject).due = true
	}
	f.repairDue()
	if err := f.underlay(ctx); err != nil {
		return err
	}
	f.repairDue() // what a new engine needs
	return nil
}

func (f *follower) care(subject string) *care {
	c := f.cares[subject]
	if c == nil {
		c = new(care)
		f.cares[subject] = c
	}
	return c
}

func (f *follower) repairDue() {
	for subject, c := range f.cares {
		if at := c.when(); !at.IsZero() && !time.Now().Before(at) {
			f.put(subject, c)
		}
	}
}

// next is when to look without an event.
func (f *follower) next() time.Time {
	next := time.Now().Add(slowest)
	for _, c := range f.cares {
		if at := c.when(); !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	if !f.retry.IsZero() && f.retry.Before(next) {
		next = f.retry
	}
	return next
}

// put puts back what somebody removed of a network or of the plain routes.
// Whoever removes it again and again makes the daemon slower each time.
func (f *follower) put(subject string, c *care) {
	put, err := f.repairHost(subject)
	about, log := "host routes", f.Log
	if subject != host.PlainRoutes {
		about, log = "network "+subject, f.Log.With("network", subject)
	}
	now := time.Now()
	c.due, c.again = false, time.Time{}
	if len(put) > 0 {
		f.limit.Warn("put back "+subject, log, "put back what somebody else removed or changed", "what", strings.Join(put, ", "))
		if now.Sub(c.fought) > settled+2*c.rest {
			c.rest = 0 // that was another story
		} else {
			c.rest = min(max(2*c.rest, f.backoff), slowest)
		}
		c.fought = now
	}
	if err != nil {
		if f.ready.blame(about, err.Error()) {
			f.limit.Warn("in place "+subject, log, "not all that is configured is in place", "err", err)
		}
		c.wait = min(max(2*c.wait, f.backoff), slowest)
		c.again = now.Add(c.wait)
		return
	}
	c.wait = 0
	if f.ready.clear(about) {
		f.limit.Info("in place "+subject, log, "all that is configured is in place again")
	}
}

// repairHost puts back what is missing of a network or of the plain routes, and
// the containers that were attached to a bridge that is new.
func (d *daemon) repairHost(subject string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	put, err := d.host.Repair(subject)
	if len(put) > 0 {
		d.restoreAttachments(subject)
	}
	return put, err
}

// underlay looks whether the underlay is there, and the same.
func (f *follower) underlay(ctx context.Context) error {
	u, err := f.host.Underlay(f.conf().Underlay.Address, f.conf().Underlay.Device)
	if err == nil && !u.Up {
		err = fmt.Errorf("the underlay's device %s is down: set it up", u.Name)
	}
	if err != nil {
		if f.ready.blame(theUnderlay, err.Error()) {
			f.limit.Warn(theUnderlay, f.Log, "the underlay is gone: nothing crosses until it is back", "err", err)
		}
		// What failed without it says nothing of how it will be with it.
		f.tries, f.retry = 0, time.Time{}
		return nil
	}
	if f.yielded.Load() {
		return nil
	}
	if f.isClosed() || u.Index != f.link && f.bound() {
		if err := f.restart(u); err != nil || f.isClosed() {
			return err
		}
	}
	f.link = u.Index
	if f.ready.clear(theUnderlay) {
		f.limit.Info(theUnderlay, f.Log, "the underlay is back", "device", u.Name)
	}
	return f.underlayMTU(ctx, u.MTU)
}

// theUnderlay is what readiness calls it.
const theUnderlay = "underlay"

// restart opens the engine anew, some other time when that fails.
func (f *follower) restart(u host.Underlay) error {
	if time.Now().Before(f.retry) {
		return nil
	}
	if f.tries == 0 {
		f.Log.Warn("the underlay's device was made anew: the sockets are opened anew on it; learned entries are lost, counters begin at zero", "device", u.Name)
	}
	err := f.restartEngine(u)
	if f.yielded.Load() {
		return nil
	}
	if err == nil {
		f.tries, f.retry = 0, time.Time{}
		for _, n := range f.overlays() {
			// At once: what a new TAP lacks nobody removed.
			f.adopt(n)
		}
		return nil
	}
	f.tries++
	if f.tries == repairs {
		return fmt.Errorf("opening the sockets anew failed %d times: %w", repairs, err)
	}
	f.ready.blame(theUnderlay, err.Error())
	f.Log.Debug("opening the sockets anew failed", "try", f.tries, "err", err)
	f.retry = time.Now().Add(f.backoff << (f.tries - 1))
	return nil
}

// adopt sets the host up around a network's or tunnel's new device.
func (d *daemon) adopt(n host.Network) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.yielded.Load() {
		return
	}
	if err := d.setupHost(n); err != nil {
		d.Log.Debug("setting the host up", "err", err) // Repair goes on
	}
}

// underlayMTU has the networks follow the underlay's MTU. One that is derived
// shrinks with it, and grows with it up to what it was at the start: the
// containers' own devices know of no more.
func (f *follower) underlayMTU(ctx context.Context, mtu encap.UnderlayMTU) error {
	was := encap.UnderlayMTU(f.mtu.Swap(uint32(mtu)))
	if mtu == was {
		return nil
	}
	f.Log.Info("the underlay's MTU changed", "from", was, "to", mtu)
	for _, n := range f.overlays() {
		log := f.Log.With("network", n.Name)
		fits, err := f.overlayMTU(n, mtu)
		if err != nil {
			log.Warn("the network's MTU no longer fits the underlay: larger packets are dropped as too_big", "mtu", n.MTU, "err", err)
			continue
		}
		want := min(fits, f.startMTU(n.Name))
		if fits > want {
			log.Info("the network could carry more: restart the daemon for that", "mtu", want, "possible", fits)
		}
		if want == n.MTU {
			continue
		}
		log.Warn("the network is opened anew with another MTU, and its learned entries are lost: give the containers' devices the same", "from", n.MTU, "to", want)
		f.setMTU(n.Name, want)
		if err := f.reopenPatiently(ctx, n.Name, "opening it anew with another MTU"); err != nil {
			return err
		}
	}
	return nil
}

// startMTU is the MTU that a network had at the start, or when it was added.
func (d *daemon) startMTU(name string) encap.OverlayMTU {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.atStart[name]
}

// networks copies out the networks of the configuration as they are now.
func (d *daemon) networks() []dataplane.Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.base.Networks)
}

// setMTU changes the MTU that a network shall have, once it is opened anew.
func (d *daemon) setMTU(network string, mtu encap.OverlayMTU) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.base.Networks {
		if d.base.Networks[i].Name == network {
			d.base.Networks[i].MTU = mtu
		}
	}
	for i := range d.base.Tunnels {
		if d.base.Tunnels[i].Name == network {
			d.base.Tunnels[i].MTU = mtu
		}
	}
}
