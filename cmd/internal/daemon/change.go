package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/encap"
)

// fixedKey is the error of a key that cannot change while its network runs.
type fixedKey interface {
	error
	FixedKey() string
}

// located names the line of the file where err is of a key of the network that
// cannot change.
func (c *change) located(d *daemon, network string, err error) error {
	var fixed fixedKey
	if !errors.As(err, &fixed) {
		return fmt.Errorf("network %s: %w", network, err)
	}
	for i := range c.details {
		one := &c.details[i]
		if one.Network == network && one.Key == fixed.FixedKey() {
			return config.Errors{one.At(d.Path, fmt.Sprintf("was %s: %s", cmp.Or(one.From, "not set"), fixed))}
		}
	}
	return fmt.Errorf("network %s: %w", network, err)
}

// change is one configuration on its way to the next.
type change struct {
	was, next   *config.Config
	old, base   dataplane.Desired // what the engine does of each
	oldHost     map[string]host.Network
	newHost     map[string]host.Network
	names       []string // of newHost, in order
	added, gone []string
	changed     []string // by the host's side or the engine's
	details     []config.Change
}

// compare returns what the next configuration changes. The caller holds mu.
func (d *daemon) compare(next *config.Config, base dataplane.Desired) *change {
	c := &change{was: d.conf(), next: next, old: d.base, base: base, details: d.conf().Changes(next),
		oldHost: make(map[string]host.Network), newHost: make(map[string]host.Network)}
	for _, n := range d.hostNetworks() {
		c.oldHost[n.Name] = n
	}
	for _, n := range next.HostNetworks(base) {
		c.newHost[n.Name] = n
		c.names = append(c.names, n.Name)
	}
	for _, name := range c.names {
		old, ok := c.oldHost[name]
		switch {
		case !ok:
			c.added = append(c.added, name)
		case !reflect.DeepEqual(old, c.newHost[name]) || !reflect.DeepEqual(c.old.Only(name), c.base.Only(name)) ||
			c.was.Network(name).Shared != next.Network(name).Shared:
			c.changed = append(c.changed, name)
		}
	}
	for name := range c.oldHost {
		if _, ok := c.newHost[name]; !ok {
			c.gone = append(c.gone, name)
		}
	}
	slices.Sort(c.gone)
	return c
}

// check is an error when the change cannot be made.
func (c *change) check(d *daemon) error {
	var errs []error
	for _, name := range c.changed {
		if err := host.Fixed(c.oldHost[name], c.newHost[name]); err != nil {
			errs = append(errs, c.located(d, name, err))
		}
	}
	for _, name := range c.changed {
		if err := d.engine.get().Admits(c.base.Only(name)); err != nil {
			errs = append(errs, c.located(d, name, err))
		}
	}
	plan := c.next.Plan()
	plan.Networks, plan.Ports = nil, nil // but for those that are new
	devices := make(map[string]bool)     // that go
	for _, name := range c.gone {
		devices[c.oldHost[name].Device] = true
	}
	for _, name := range c.added {
		n := c.newHost[name]
		if devices[n.Device] {
			errs = append(errs, fmt.Errorf("network %s: its device %s belongs to a network that this reload removes: do that by a reload of its own first", name, n.Device))
			continue
		}
		plan.Networks = append(plan.Networks, n)
	}
	open := c.was.Ports()
	for _, port := range c.next.Ports() {
		if !slices.Contains(open, port) {
			plan.Ports = append(plan.Ports, port)
		}
	}
	return errors.Join(append(errs, d.host.Preflight(plan))...)
}

// run makes the change: first what is new, then the host, then what is gone, so
// that an error finds all that ran before still there.
func (c *change) run(d *daemon) (err error) {
	atStart := d.atStart
	d.config.Store(c.next)
	d.base = c.together()
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		d.config.Store(c.was)
		d.base, d.atStart = c.old, atStart
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
	}()
	apply := func() error {
		if _, err := d.engine.get().Apply(d.desired()); err != nil {
			return fmt.Errorf("applying the configuration: %w", err)
		}
		return nil
	}
	if err := apply(); err != nil {
		return err
	}
	undo = append(undo, apply)
	for _, name := range c.changed {
		if reflect.DeepEqual(c.oldHost[name], c.newHost[name]) {
			continue
		}
		undo = append(undo, func() error { return d.host.Change(c.oldHost[name]) })
		if err := d.host.Change(c.newHost[name]); err != nil {
			return fmt.Errorf("setting the host up: %w", err)
		}
	}
	for _, name := range c.added {
		if err := d.host.Add(c.newHost[name]); err != nil {
			return fmt.Errorf("setting the host up: %w", err)
		}
		undo = append(undo, func() error { return d.host.Remove(name) })
		if err := d.guardDevices(); err != nil {
			return err
		}
		if err := d.engine.get().Persist(name); err != nil {
			return err
		}
		// Those of a network of this name that a reload removed.
		d.restoreAttachments(name)
	}
	undo = append(undo, func() error { return d.host.ChangeRoutes(c.was.Routes) })
	if err := d.host.ChangeRoutes(c.next.Routes); err != nil {
		return fmt.Errorf("setting the host up: %w", err)
	}

	// What follows only takes away.
	d.base = c.base
	if err := apply(); err != nil {
		return err
	}
	d.atStart = make(map[string]encap.OverlayMTU)
	for _, name := range c.names {
		d.atStart[name] = c.newHost[name].MTU
	}
	for _, name := range c.gone {
		delete(d.static, name)
		delete(d.lost, name)
		d.ready.clear(networkProblem(name))
		if e := d.host.Remove(name); e != nil {
			d.Log.Warn("removing what was made for a network", "err", e)
		}
	}
	if e := d.guardIngress(d.engine.get()); e != nil {
		d.Log.Warn("cannot look for what comes out of the networks: what was found before holds", "err", e)
	}
	return nil
}

// together is the next configuration, with what it removes, as long
// as both can be.
func (c *change) together() dataplane.Desired {
	all := dataplane.Desired{Networks: slices.Clone(c.base.Networks), Tunnels: slices.Clone(c.base.Tunnels)}
	for _, n := range c.old.Networks {
		clash := func(x dataplane.Network) bool { return x.VNI == n.VNI && x.Port == n.Port }
		if slices.Contains(c.gone, n.Name) && !slices.ContainsFunc(all.Networks, clash) {
			all.Networks = append(all.Networks, n)
		}
	}
	for _, t := range c.old.Tunnels {
		clash := func(x dataplane.Tunnel) bool {
			return slices.ContainsFunc(x.Routes, func(a dataplane.TunnelRoute) bool {
				return slices.ContainsFunc(t.Routes, func(b dataplane.TunnelRoute) bool { return a.Peer == b.Peer })
			})
		}
		if slices.Contains(c.gone, t.Name) && !slices.ContainsFunc(all.Tunnels, clash) {
			all.Tunnels = append(all.Tunnels, t)
		}
	}
	return all
}

// reloaded describes the change for the command line.
func (c *change) reloaded() control.Reloaded {
	list := func(s []string) []string { return append([]string{}, s...) }
	r := control.Reloaded{
		Added: list(c.added), Removed: list(c.gone), Changed: list(c.changed),
		Routes: !reflect.DeepEqual(c.was.Routes, c.next.Routes), Details: []config.Change{},
	}
	for _, one := range c.details {
		switch {
		case one.Network != "" && !slices.Contains(c.added, one.Network) && !slices.Contains(c.gone, one.Network) && !slices.Contains(c.changed, one.Network):
			// Written otherwise, or what holds anyway: the network is as before.
		case one.Network == "" && !r.Routes:
		case len(r.Details) == control.MaxDetails:
			r.MoreDetails++
		default:
			r.Details = append(r.Details, one)
		}
	}
	return r
}
