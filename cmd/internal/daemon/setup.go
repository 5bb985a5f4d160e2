package daemon

import (
	"errors"
	"fmt"

	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
)

// preflight fills in what the configuration says on this host's underlay, and
// returns every obstacle that is known before anything is made.
func (d *daemon) preflight() error {
	c := d.conf()
	plan := c.Plan()
	var errs []error
	if d.before == nil && d.socket == nil {
		errs = append(errs, control.TryListen(c.Control.Socket))
	}
	plan.Ports = d.freePorts(plan.Ports)
	u, err := d.findUnderlay()
	// A daemon that runs can take the address's coming as well, or go on as it is.
	d.waits = err != nil && d.before == nil
	plan.NoUnderlay = d.waits
	errs = append(errs, d.host.Preflight(plan), d.checkCluster())
	if err == nil {
		d.mtu.Store(uint32(u.MTU))
		d.link = u.Index
		d.base, err = c.Desired(u.MTU)
		errs = append(errs, err)
	}
	for _, n := range d.hostNetworks() {
		d.atStart[n.Name] = n.MTU
	}
	if all := errors.Join(errs...); d.waits && all != nil {
		return errors.Join(err, all) // every obstacle at once
	}
	return errors.Join(errs...)
}

// setupAll sets the host up around the engine's TAPs.
func (d *daemon) setupAll() error {
	if err := d.setupNetworks(); err != nil {
		return err
	}
	if err := d.host.SetupRoutes(d.conf().Routes); err != nil {
		return fmt.Errorf("setting the host up: %w", err)
	}
	u, err := d.findUnderlay()
	if err != nil {
		return fmt.Errorf("setting the host up: %w", err)
	}
	if u.Index == d.link || !d.bound() {
		d.link = u.Index
		return d.guardIngress(d.engine.get())
	}
	// The underlay address was moved from a port to its bridge.
	if err := d.reopenEngine(u); err != nil {
		return err
	}
	if err := d.setupNetworks(); err != nil {
		return err
	}
	return d.guardIngress(d.engine.get())
}

func (d *daemon) setupNetworks() error {
	return d.setupHost(d.hostNetworks()...)
}

// setupHost makes the host look as the networks need it, and puts the containers
// that are attached to them back on bridges that are new.
func (d *daemon) setupHost(networks ...host.Network) error {
	var names []string
	for _, n := range networks {
		if err := d.host.Setup(n); err != nil {
			return fmt.Errorf("setting the host up: %w", err)
		}
		names = append(names, n.Name)
	}
	if err := d.guardDevices(); err != nil {
		return err
	}
	d.restoreAttachments(names...)
	if !d.settled {
		return nil
	}
	for _, name := range names {
		if err := d.engine.get().Persist(name); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) undoHost() error {
	// A hand-over under way ends first, and none begins any more.
	d.lock()
	defer d.mu.Unlock()
	d.serving = false
	if d.before != nil && !d.before.taken {
		return nil // abandon does
	}
	if err := d.host.Undo(); err != nil {
		return fmt.Errorf("undoing the host's set-up: %w", err)
	}
	return nil
}
