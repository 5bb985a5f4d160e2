package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux"
)

// current is the engine that runs. Another takes its place when the underlay's
// device was created again.
type current struct{ p atomic.Pointer[Engine] }

func (c *current) get() Engine  { return *c.p.Load() }
func (c *current) set(e Engine) { c.p.Store(&e) }

// findUnderlay looks for the link, or the links, that the underlay runs over.
func (d *daemon) findUnderlay() (host.Underlay, error) {
	c := d.conf()
	u, err := d.host.Underlay(c.Underlay.Address, c.Underlay.Device, c.Destinations()...)
	if u.Guessed {
		u.MTU = max(u.MTU, c.LeastUnderlay())
	}
	return u, err
}

// startEngine starts an engine and applies what is desired. The caller holds
// mu, or is alone.
func (d *daemon) startEngine() error {
	c := d.conf()
	o := dataplane.Options{
		Underlay: c.Underlay.Address,
		Workers:  dataplane.Workers(c.Engine.Workers),
		Offloads: c.Offloads(),
	}
	b := linux.Options{
		Underlay:    o.Underlay,
		Device:      c.Underlay.Device,
		Workers:     o.Workers,
		SourcePorts: c.Engine.SourcePorts,
		NoTunnelGSO: !c.Engine.TunnelGSO || !c.Engine.Offload,
		Offloads:    o.Offloads,
		Adopt:       d.adoptable,
	}
	if u, err := d.findUnderlay(); err == nil {
		b.Links = u.Links
	}
	if p := d.before; p != nil && !p.taken {
		b.Handover, o.Hold = p.Engine, true
		d.restoreStatic()
		d.restoreMembers()
	}
	e, err := d.NewEngine(b, o)
	if err != nil {
		return fmt.Errorf("starting the engine: %w", err)
	}
	// Before anything is received: of a run before there may be bridges with
	// containers on them.
	if err := d.guardIngress(e); err != nil {
		return errors.Join(err, e.Close())
	}
	if _, err := e.Apply(d.desired()); err != nil {
		return errors.Join(fmt.Errorf("applying the configuration: %w", err), e.Close())
	}
	d.engine.set(e)
	d.closed = false
	return nil
}

// restartEngine is reopenEngine for a caller that does not hold mu.
func (d *daemon) restartEngine(u host.Underlay) error {
	d.lock()
	defer d.mu.Unlock()
	return d.reopenEngine(u)
}

// reopenEngine opens every socket again, on the link that the underlay runs over by
// now. The devices stay, with their addresses, routes and flags as ports.
// After an error the engine is closed. The caller holds mu, or is alone.
func (d *daemon) reopenEngine(u host.Underlay) error {
	if d.yielded.Load() {
		return nil
	}
	if d.before != nil && !d.before.taken {
		return errors.New("a port takes the underlay address to its bridge, for which every socket is opened again: stop the daemon that runs first")
	}
	if !d.closed {
		d.closed = true
		if err := d.engine.get().Leave(func() {}); err != nil {
			d.Log.Warn("closing the engine", "err", err)
		}
	}
	if err := d.startEngine(); err != nil {
		return err
	}
	d.link = u.Index
	d.otherEngine()
	return nil
}

// otherEngine has events listen to the engine that runs now.
func (d *daemon) otherEngine() {
	select {
	case d.restarted <- struct{}{}:
	default:
	}
}

// waiting reports whether nothing is set up yet for lack of the underlay.
func (d *daemon) waiting() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waits
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
	d.lock()
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

// errWaits is the error of every request to a daemon without an engine.
var errWaits = errors.New("the daemon waits for the underlay, and has set up nothing yet: see `overtap status`")

// noEngine is the engine before the underlay is there.
type noEngine struct{}

func (noEngine) Apply(dataplane.Desired) (dataplane.Diff, error) { return dataplane.Diff{}, errWaits }
func (noEngine) Admits(dataplane.Desired) error                  { return errWaits }
func (noEngine) Stats() dataplane.Stats                          { return dataplane.Stats{} }
func (noEngine) Info() dataplane.Info                            { return dataplane.Info{} }
func (noEngine) FDB(string) ([]dataplane.FDBEntry, error)        { return nil, errWaits }
func (noEngine) EachFDB(string, func(*dataplane.FDBEntry)) error { return errWaits }
func (noEngine) Flush(dataplane.Match) (int, error)              { return 0, errWaits }
func (noEngine) Events() <-chan dataplane.Event                  { return nil }
func (noEngine) Alive() bool                                     { return true }
func (noEngine) WatchFDB(string) (*dataplane.FDBWatch, error)    { return nil, errWaits }
func (noEngine) Persist(string) error                            { return errWaits }
func (noEngine) Handover() (*netio.Handover, error)              { return nil, errWaits }
func (noEngine) Restore([]dataplane.FDBEntry) (int, error)       { return 0, errWaits }
func (noEngine) Start()                                          {}
func (noEngine) Leave(func()) error                              { return errWaits }
func (noEngine) SetIngress(dataplane.Ingress) error              { return nil }
func (noEngine) Close() error                                    { return nil }

func (noEngine) EachPeer(func(string, netip.Addr, dataplane.PeerState)) {}

func (noEngine) Neighbors(string) ([]dataplane.NeighborEntry, error) { return nil, errWaits }
func (noEngine) Explain(dataplane.Query) (dataplane.Explanation, error) {
	return dataplane.Explanation{}, errWaits
}
func (noEngine) Mirror(dataplane.MirrorSpec) (*dataplane.Mirror, error) { return nil, errWaits }
