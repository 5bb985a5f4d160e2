package daemon

import (
	"errors"
	"fmt"
	"sync/atomic"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

// current is the engine that runs. Another takes its place when the underlay's
// device was made anew.
type current struct{ p atomic.Pointer[Engine] }

func (c *current) get() Engine  { return *c.p.Load() }
func (c *current) set(e Engine) { c.p.Store(&e) }

// startEngine starts an engine and gives it what it shall do. The caller holds
// mu, or is alone.
func (d *daemon) startEngine() error {
	c := d.conf()
	o := dataplane.Options{
		Underlay:    c.Underlay.Address,
		Device:      c.Underlay.Device,
		Workers:     c.Engine.Workers,
		SourcePorts: c.Engine.SourcePorts,
		NoTunnelGSO: !c.Engine.TunnelGSO || !c.Engine.Offload,
		Adopt:       d.adoptable,
	}
	if p := d.before; p != nil && !p.taken {
		o.Inherit, o.Hold = p.Engine, true
		d.inheritStatic()
	}
	e, err := d.NewEngine(o)
	if err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	if _, err := e.Apply(d.desired()); err != nil {
		return errors.Join(fmt.Errorf("applying the configuration: %w", err), e.Close())
	}
	d.engine.set(e)
	d.closed = false
	return nil
}

// restartEngine opens every socket and TAP anew on the link that the underlay
// runs over by now. After an error the engine is closed.
func (d *daemon) restartEngine(u host.Underlay) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.yielded.Load() {
		return nil
	}
	if d.before != nil && !d.before.taken {
		return errors.New("a port takes the underlay address to its bridge, for which every socket is opened anew: stop the daemon that runs first")
	}
	if !d.closed {
		d.closed = true
		if err := d.engine.get().Close(); err != nil {
			d.Log.Warn("closing the engine", "err", err)
		}
	}
	if err := d.startEngine(); err != nil {
		return err
	}
	d.link = u.Index
	select {
	case d.restarted <- struct{}{}:
	default:
	}
	return nil
}

// bound reports whether sockets hold on to the underlay's link and not to its
// address alone: by SO_BINDTODEVICE, or by membership in a multicast group.
func (d *daemon) bound() bool {
	if d.conf().Underlay.Device != "" {
		return true
	}
	for _, v := range d.conf().VXLAN {
		if v.Group.IsValid() {
			return true
		}
	}
	return false
}

// isClosed reports whether no engine works.
func (d *daemon) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *daemon) closeEngine() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if err := d.engine.get().Close(); err != nil {
		return fmt.Errorf("stopping the engine: %w", err)
	}
	return nil
}
