package daemon

import (
	"context"
	"errors"
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

// retryState is how a network, or the plain routes, fared so far.
type retryState struct {
	due    bool          // an event touched it
	again  time.Time     // when to look without an event; zero = never
	wait   time.Duration // before that, while something is missing
	fought time.Time     // when something was put back last
	rest   time.Duration // before that is done again
}

// when is the time to look at it; zero = not before the next event.
func (c *retryState) when() time.Time {
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
	retries map[string]*retryState
	tries   int       // of the engine's restart
	retry   time.Time // of the same; zero = none is wanted
	seen    time.Time // when the counters were looked at for warnings
}

func (d *daemon) newFollower() *follower {
	return &follower{daemon: d, retries: make(map[string]*retryState)}
}

// follow acts until ctx ends. It is an error when the engine cannot be opened
// again time after time.
func (f *follower) follow(ctx context.Context) error {
	timer := time.NewTimer(slowest)
	defer timer.Stop()
	for {
		why := onEvent
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			why = onTime
		case <-f.host.Changed():
			if !sleep(ctx, debounce) {
				return nil
			}
		}
		if err := f.look(why); err != nil {
			return err
		}
		f.keepGuard(time.Since(f.seen) >= slowest)
		f.sayReady()
		if time.Since(f.seen) >= slowest {
			// So that a warning is as old as its cause, at whichever request it is found.
			f.seen = time.Now()
			now := f.Stats()
			f.ownFrames.look(now, f.seen)
			f.checksums.look(now.ChecksumErrors, f.seen)
		}
		timer.Reset(time.Until(f.next()))
	}
}

// look repairs what is due and sees to the underlay.
func (f *follower) look(why occasion) error {
	for _, subject := range f.host.Affected() {
		f.retryState(subject).due = true
	}
	f.repairDue()
	if err := f.underlay(); err != nil {
		return err
	}
	f.repairDue() // what a new engine needs
	f.lookAtHealth(why)
	return nil
}

func (f *follower) retryState(subject string) *retryState {
	c := f.retries[subject]
	if c == nil {
		c = new(retryState)
		f.retries[subject] = c
	}
	return c
}

func (f *follower) repairDue() {
	for subject, c := range f.retries {
		if at := c.when(); !at.IsZero() && !time.Now().Before(at) {
			f.put(subject, c)
		}
	}
}

// next is when to look without an event.
func (f *follower) next() time.Time {
	next := time.Now().Add(slowest)
	for _, c := range f.retries {
		if at := c.when(); !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	if !f.retry.IsZero() && f.retry.Before(next) {
		next = f.retry
	}
	if at := f.nextHealth(); at.Before(next) {
		next = at
	}
	return next
}

// put puts back what was removed from outside of a network or of the plain routes.
// When it is removed again and again the daemon waits longer each time.
func (f *follower) put(subject string, c *retryState) {
	put, err := f.repairHost(subject)
	about, log := "host routes", f.Log
	if subject != host.PlainRoutes {
		about, log = networkProblem(subject), f.Log.With("network", subject)
	}
	now := time.Now()
	c.due, c.again = false, time.Time{}
	if len(put) > 0 {
		f.limit.Warn("put back "+subject, log, "put back what another program removed or changed", "what", strings.Join(put, ", "))
		if now.Sub(c.fought) > settled+2*c.rest {
			c.rest = 0 // that was another story
		} else {
			c.rest = min(max(2*c.rest, f.backoff), slowest)
		}
		c.fought = now
	}
	if err != nil {
		if f.ready.setProblem(about, err.Error()) {
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
	d.lock()
	defer d.mu.Unlock()
	put, err := d.host.Repair(subject)
	if len(put) > 0 {
		if err := d.guardDevices(); err != nil {
			d.Log.Debug("guarding a network's devices", "err", err) // keepGuard goes on
		}
		d.restoreAttachments(subject)
	}
	return put, err
}

// underlay looks whether the underlay is there, and the same.
func (f *follower) underlay() error {
	u, err := f.findUnderlay()
	if f.waiting() {
		if err == nil {
			if err := f.begin(); err != nil {
				return err
			}
			u, err = f.findUnderlay()
		}
		if f.waiting() || err != nil {
			if err == nil {
				err = errors.New("it came and went")
			}
			if f.ready.setProblem(theUnderlay, "waiting for the underlay: "+err.Error()) {
				f.limit.Warn(theUnderlay, f.Log, "not ready: waiting for the underlay, with nothing set up before it is there", "err", err)
			}
			return nil
		}
	}
	if err == nil && !u.Up {
		err = fmt.Errorf("the underlay's device %s is down: set it up with `ip link set %s up`", u.Name, u.Name)
	}
	if err != nil {
		if f.ready.setProblem(theUnderlay, err.Error()) {
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
	f.underlayMTU(u.MTU)
	return nil
}

// theUnderlay is what readiness calls it.
const theUnderlay = "underlay"

// restart opens the engine again, some other time when that fails.
func (f *follower) restart(u host.Underlay) error {
	if time.Now().Before(f.retry) {
		return nil
	}
	if f.tries == 0 {
		f.Log.Warn("the underlay's device was made again: the sockets are opened again on it; learned entries are lost, counters begin at zero", "device", u.Name)
	}
	err := f.restartEngine(u)
	if f.yielded.Load() {
		return nil
	}
	if err == nil {
		f.tries, f.retry = 0, time.Time{}
		for _, n := range f.overlays() {
			// At once: what a new TAP lacks was not removed.
			f.adopt(n)
		}
		return nil
	}
	f.tries++
	if f.tries == repairs {
		return fmt.Errorf("opening the sockets again failed %d times: %w", repairs, err)
	}
	f.ready.setProblem(theUnderlay, err.Error())
	f.Log.Debug("opening the sockets again failed", "try", f.tries, "err", err)
	f.retry = time.Now().Add(f.backoff << (f.tries - 1))
	return nil
}

// adopt sets the host up around a network's or tunnel's new device.
func (d *daemon) adopt(n host.Network) {
	d.lock()
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
func (f *follower) underlayMTU(mtu encap.UnderlayMTU) {
	was := encap.UnderlayMTU(f.mtu.Swap(uint32(mtu)))
	if mtu == was {
		return
	}
	f.Log.Info("the underlay's MTU changed", "from", was, "to", mtu)
	for _, n := range f.overlays() {
		log := f.Log.With("network", n.Name)
		fits, err := f.conf().OverlayMTU(n.Name, mtu)
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
		if err := f.resize(n.Name, want); err != nil {
			log.Error("the network cannot have the MTU that the underlay leaves it: larger packets are dropped as too_big", "from", n.MTU, "to", want, "err", err)
			continue
		}
		log.Warn("the network has another MTU: give the containers' devices the same", "from", n.MTU, "to", want)
	}
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

// resize gives a network another MTU while it runs: first the engine, so that what is
// too long for it has a name, then the living device and its bridge. When the host
// fails Repair goes on.
func (d *daemon) resize(network string, mtu encap.OverlayMTU) error {
	d.lock()
	defer d.mu.Unlock()
	if d.yielded.Load() {
		return nil
	}
	was := d.base
	d.base.Networks, d.base.Tunnels = slices.Clone(was.Networks), slices.Clone(was.Tunnels)
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
	if d.closed {
		return nil // the next engine will have it
	}
	if _, err := d.engine.get().Apply(d.desired()); err != nil {
		d.base = was
		return fmt.Errorf("applying it: %w", err)
	}
	for _, n := range d.hostNetworks() {
		if n.Name == network {
			if err := d.host.Change(n); err != nil {
				d.Log.Debug("setting the host up", "err", err)
			}
		}
	}
	return nil
}
