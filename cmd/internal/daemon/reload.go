package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/encap"
)

// Reload implements control.Daemon: it reads the configuration file again and
// makes what runs be what it says. What did not change is not touched; after an
// error what ran before runs on.
func (d *daemon) Reload() (control.Reloaded, error) {
	notifyReloading(d.Log)
	defer notify(d.Log, "READY=1")
	r, err := d.reload()
	d.reloads.note(err)
	if err != nil {
		d.Log.Error("the configuration was not reloaded: what ran before runs on", "path", d.Path, "err", err)
		return control.Reloaded{}, err
	}
	d.Log.Info("the configuration was reloaded", "path", d.Path,
		"added", len(r.Added), "removed", len(r.Removed), "changed", len(r.Changed))
	return r, nil
}

func (d *daemon) reload() (control.Reloaded, error) {
	next, err := config.Load(d.Path)
	if err != nil {
		return control.Reloaded{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return control.Reloaded{}, errors.New("the underlay's device is being opened anew: try again when `overtap status` says ready")
	}
	was := d.conf()
	if err := reloadable(was, next); err != nil {
		return control.Reloaded{}, err
	}
	base, err := next.Desired(encap.UnderlayMTU(d.mtu.Load()))
	if err != nil {
		return control.Reloaded{}, err
	}
	keepMTUs(was, next, d.base, &base)
	c := d.compare(next, base)
	if err := c.check(d); err != nil {
		return control.Reloaded{}, err
	}
	if err := c.run(d); err != nil {
		return control.Reloaded{}, err
	}
	return c.told(), nil
}

// keepMTUs leaves to networks that go on the MTU they have, where the file says
// of it what it said: one that is derived may have followed the underlay's.
func keepMTUs(was, next *config.Config, old dataplane.Desired, base *dataplane.Desired) {
	said := func(c *config.Config) map[string]encap.OverlayMTU {
		m := make(map[string]encap.OverlayMTU)
		for _, v := range c.VXLAN {
			m[v.Name] = v.MTU
		}
		for _, t := range c.IPIP {
			m[t.Name] = t.MTU
		}
		return m
	}
	before, after := said(was), said(next)
	runs := make(map[string]encap.OverlayMTU)
	for _, n := range old.Networks {
		runs[n.Name] = n.MTU
	}
	for _, t := range old.Tunnels {
		runs[t.Name] = t.MTU
	}
	keep := func(name string, mtu *encap.OverlayMTU) {
		if running, ok := runs[name]; ok && before[name] == after[name] {
			*mtu = running
		}
	}
	for i := range base.Networks {
		keep(base.Networks[i].Name, &base.Networks[i].MTU)
	}
	for i := range base.Tunnels {
		keep(base.Tunnels[i].Name, &base.Tunnels[i].MTU)
	}
}

// reloadable is an error that names every table that only a restart changes.
func reloadable(was, next *config.Config) error {
	var errs []error
	for _, key := range []struct {
		name string
		same bool
	}{
		{"[underlay]", reflect.DeepEqual(was.Underlay, next.Underlay)},
		{"[control]", reflect.DeepEqual(was.Control, next.Control)},
		{"[engine]", reflect.DeepEqual(was.Engine, next.Engine)},
		{"[log]", reflect.DeepEqual(was.Log, next.Log)},
	} {
		if !key.same {
			errs = append(errs, fmt.Errorf("%s cannot change while the daemon runs: restart it, or put the old values back", key.name))
		}
	}
	return errors.Join(errs...)
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
}

// compare says what the next configuration changes. The caller holds mu.
func (d *daemon) compare(next *config.Config, base dataplane.Desired) *change {
	c := &change{was: d.conf(), next: next, old: d.base, base: base,
		oldHost: make(map[string]host.Network), newHost: make(map[string]host.Network)}
	for _, n := range d.hostNetworks() {
		c.oldHost[n.Name] = n
	}
	d.config.Store(next)
	d.base = base
	for _, n := range d.hostNetworks() {
		c.newHost[n.Name] = n
		c.names = append(c.names, n.Name)
	}
	d.config.Store(c.was)
	d.base = c.old

	engine := func(all dataplane.Desired) map[string]any {
		m := make(map[string]any)
		for _, n := range all.Networks {
			m[n.Name] = n
		}
		for _, t := range all.Tunnels {
			m[t.Name] = t
		}
		return m
	}
	before, after := engine(c.old), engine(c.base)
	for _, name := range c.names {
		old, ok := c.oldHost[name]
		switch {
		case !ok:
			c.added = append(c.added, name)
		case !reflect.DeepEqual(old, c.newHost[name]) || !reflect.DeepEqual(before[name], after[name]):
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
			errs = append(errs, fmt.Errorf("network %s: %w", name, err))
		}
	}
	plan := host.Plan{Tun: host.TunDevice, Underlay: c.next.Underlay.Address, Device: c.next.Underlay.Device, Routes: hostRoutes(c.next.Routes)}
	devices := make(map[string]bool) // that go
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
	open := make(map[uint16]bool)
	for _, v := range c.was.VXLAN {
		open[v.Port] = true
	}
	for _, v := range c.next.VXLAN {
		if !open[v.Port] {
			open[v.Port] = true
			plan.Ports = append(plan.Ports, v.Port)
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
		if err := d.engine.get().Persist(name); err != nil {
			return err
		}
	}
	undo = append(undo, func() error { return d.host.ChangeRoutes(hostRoutes(c.was.Routes)) })
	if err := d.host.ChangeRoutes(hostRoutes(c.next.Routes)); err != nil {
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
		d.ready.clear("network " + name)
		if e := d.host.Remove(name); e != nil {
			d.Log.Warn("removing what was made for a network", "err", e)
		}
	}
	return nil
}

// together is what the next configuration says, and what goes with it, as long
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

// told is what the command line is told.
func (c *change) told() control.Reloaded {
	list := func(s []string) []string { return append([]string{}, s...) }
	return control.Reloaded{
		Added: list(c.added), Removed: list(c.gone), Changed: list(c.changed),
		Routes: !reflect.DeepEqual(c.was.Routes, c.next.Routes),
	}
}

// reloadOn reloads whenever somebody asks by a signal, until ctx ends.
func (d *daemon) reloadOn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.HangUp:
			_, _ = d.Reload() // the log says what became of it
		}
	}
}

// reloads is what became of the last reload.
type reloads struct {
	mu     sync.Mutex
	failed bool
	at     time.Time // of the last that did not; the start counts as one
}

// state reports whether the last reload succeeded, and when the last did that
// succeeded.
func (r *reloads) state() (ok bool, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.failed, r.at
}

// note remembers what became of a reload.
func (r *reloads) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = err != nil
	if err == nil {
		r.at = time.Now()
	}
}
