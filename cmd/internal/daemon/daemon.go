// Package daemon is what `overtap run` does: it looks whether the
// configuration can work on this host, starts the engine, sets the host up,
// serves the control socket and the metrics, acts on the engine's events and on
// what happens to the host, and takes everything down again.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/cmd/internal/metrics"
	"overtap/cmd/internal/repeat"
	"overtap/dataplane"
	"overtap/encap"
)

// Engine is what the daemon asks of *dataplane.Engine.
type Engine interface {
	Apply(dataplane.Desired) (dataplane.Diff, error)
	Stats() dataplane.Stats
	Info() dataplane.Info
	FDB(network string) ([]dataplane.FDBEntry, error)
	EachFDB(network string, f func(*dataplane.FDBEntry)) error
	Neighbors(network string) ([]dataplane.NeighborEntry, error)
	Flush(dataplane.Match) (int, error)
	Events() <-chan dataplane.Event
	Alive() bool
	WatchFDB(network string) (*dataplane.FDBWatch, error)
	Explain(dataplane.Query) (dataplane.Explanation, error)
	Mirror(dataplane.MirrorSpec) (*dataplane.Mirror, error)
	Persist(network string) error
	Bequeath() (*dataplane.Bequest, error)
	Restore([]dataplane.FDBEntry) (int, error)
	Start()
	Leave(stopped func()) error
	Close() error
}

// Options say what to run.
type Options struct {
	Config  *config.Config
	Path    string // of the configuration, for status
	Version string
	Log     *slog.Logger
	// NewEngine starts the engine; it is given what Config says.
	NewEngine func(dataplane.Options) (Engine, error)
	// HangUp delivers when the configuration shall be read again; nil = never.
	HangUp <-chan os.Signal
	// NoTakeover makes a daemon that answers on the control socket an error; else
	// this one takes its place.
	NoTakeover bool
}

// daemon is a running one. It implements control.Daemon.
type daemon struct {
	Options
	host      *host.Host
	attach    *attach.Attacher
	engine    current
	mtu       atomic.Uint32 // the underlay's
	started   time.Time
	ready     readiness
	backoff   time.Duration // before a repair is tried a second time
	refused   sync.Once     // the warning about segmentation
	told      toldFrozen
	ownFrames ownFrames
	limit     repeat.Limiter                // of lines that may come again and again
	config    atomic.Pointer[config.Config] // as it was loaded last
	reloads   reloads
	link      int // index of the underlay's link that the sockets were opened on
	atStart   map[string]encap.OverlayMTU
	restarted chan struct{} // delivers when another engine took over

	before  *predecessor // whose place this one takes; nil = nobody's
	socket  *control.Listener
	web     net.Listener // of the metrics; nil = none
	leave   func()       // ends serve
	yielded atomic.Bool  // another daemon has taken over

	mu     sync.Mutex // held over every Apply
	closed bool       // the engine is, until it is started anew
	// settled: devices persist from their set-up on.
	settled bool
	serving bool              // the control socket is, and all is set up
	base    dataplane.Desired // what the configuration says
	static  static            // entries of the command line
	lost    map[string]bool   // networks taken out until their repair
}

func newDaemon(o Options) *daemon {
	d := &daemon{
		Options:   o,
		started:   time.Now(),
		backoff:   time.Second,
		atStart:   make(map[string]encap.OverlayMTU),
		restarted: make(chan struct{}, 1),
		closed:    true,
		static:    make(static),
		lost:      make(map[string]bool),
		told:      toldFrozen{every: frozenEvery, networks: make(map[string]*frozen)},
	}
	d.config.Store(o.Config)
	d.reloads.note(nil)
	return d
}

// conf is the configuration by which the daemon runs.
func (d *daemon) conf() *config.Config { return d.config.Load() }

// Run runs until ctx ends, and then returns nil when all was taken down
// cleanly. Of a step that fails, what came before it is undone. It must run in
// the network namespace that it serves, on every thread.
func Run(ctx context.Context, o Options) (err error) {
	d := newDaemon(o)
	var undo []func() error
	defer func() {
		d.ready.stop()
		d.limit.Stop()
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
		if err == nil {
			o.Log.Info("stopped")
		}
	}()
	ctx = d.context(ctx)
	defer d.leave()

	if d.host, err = host.New(o.Config.Underlay.Address, o.Log); err != nil {
		return err
	}
	undo = append(undo, func() error { d.host.Close(); return nil })
	if d.attach, err = attach.New(); err != nil {
		return err
	}
	undo = append(undo, func() error { d.attach.Close(); return nil })
	undo = append(undo, d.abandon)
	if err := d.succeed(ctx); err != nil {
		return err
	}
	if err := d.preflight(); err != nil {
		return err
	}
	if d.web, err = d.listenMetrics(); err != nil {
		return err
	}
	if d.web != nil {
		undo = append(undo, func() error { return closed(d.web.Close()) })
	}
	if d.socket, err = d.listenControl(); err != nil {
		return err
	}
	undo = append(undo, func() error { return errors.Join(d.socket.Close(), d.socket.Remove()) })
	if d.before == nil {
		if err := d.host.KeepJournal(journalPath(o.Config.Control.Socket)); err != nil {
			return err
		}
	}

	undo = append(undo, d.closeEngine)
	if err := d.startEngine(); err != nil {
		return err
	}
	undo = append(undo, d.undoHost)
	if err := d.setupAll(); err != nil {
		return err
	}
	// Once more, so that a change under way ends before bridges are removed.
	undo = append(undo, func() error { d.attach.Close(); return nil })
	if ctx.Err() != nil {
		return nil
	}
	if d.before != nil {
		if err := d.takeOver(); err != nil {
			return err
		}
		d.socket.Own()
	}
	if err := d.settle(); err != nil {
		return err
	}
	return d.serve(ctx)
}

// serve runs the daemon's tasks until ctx ends or one of them fails.
func (d *daemon) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return control.Serve(ctx, d.socket, d, d.Log) })
	if web := d.web; web != nil {
		srv := metrics.NewServer(metrics.Source{Version: d.Version, Stats: d.Stats, Ready: d.isReady, Reloads: d.reloads.state})
		g.Go(func() error { return control.ServeHTTP(ctx, srv, web) })
	}
	g.Go(func() error { return d.host.Watch(ctx) })
	g.Go(func() error { return d.events(ctx) })
	g.Go(func() error { return d.follow(ctx) })
	g.Go(func() error { return d.reloadOn(ctx) })
	g.Go(func() error { return d.watchdog(ctx) })

	for _, w := range d.warnings(d.Stats()) {
		d.Log.Warn(w)
	}
	d.ready.start()
	d.nowServing()
	announce(d.Log, "ready",
		"version", d.Version,
		"underlay", d.conf().Underlay.Address,
		"networks", len(d.conf().VXLAN)+len(d.conf().IPIP),
		"socket", d.conf().Control.Socket)
	state := "READY=1"
	if d.before != nil {
		// To systemd the daemon before was the service.
		state += fmt.Sprintf("\nMAINPID=%d", os.Getpid())
	}
	notify(d.Log, state)
	<-ctx.Done()
	if !d.yielded.Load() {
		notify(d.Log, "STOPPING=1")
	}
	d.Log.Info("stopping")
	return g.Wait()
}

func (d *daemon) nowServing() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serving = true
}

// announce writes a line whatever the level of the log: somebody may wait for it.
func announce(log *slog.Logger, msg string, args ...any) {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, msg, 0)
	r.Add(args...)
	// The logger drops its handler's errors too.
	_ = log.Handler().Handle(context.Background(), r)
}

// preflight fills in what the configuration says on this host's underlay, and
// returns every obstacle that is known before anything is made.
func (d *daemon) preflight() error {
	c := d.conf()
	plan := host.Plan{Tun: host.TunDevice, Underlay: c.Underlay.Address, Device: c.Underlay.Device, Routes: hostRoutes(c.Routes)}
	for i := range c.VXLAN {
		v := &c.VXLAN[i]
		plan.Networks = append(plan.Networks, d.hostNetwork(dataplane.Network{Name: v.Name, Device: v.TAP}))
		if !slices.Contains(plan.Ports, v.Port) {
			plan.Ports = append(plan.Ports, v.Port)
		}
	}
	for _, t := range c.IPIP {
		plan.Networks = append(plan.Networks, d.hostTunnel(dataplane.Tunnel{Name: t.Name, Device: t.Name, Routes: t.Routes}))
	}
	var errs []error
	if d.before == nil {
		errs = append(errs, control.TryListen(c.Control.Socket))
	}
	plan.Ports = d.freePorts(plan.Ports)
	errs = append(errs, d.host.Preflight(plan))
	if u, err := d.host.Underlay(c.Underlay.Address, c.Underlay.Device); err == nil {
		// Else Preflight has said so.
		d.mtu.Store(uint32(u.MTU))
		d.link = u.Index
		d.base, err = c.Desired(u.MTU)
		errs = append(errs, err)
	}
	for _, n := range d.hostNetworks() {
		d.atStart[n.Name] = n.MTU
	}
	return errors.Join(errs...)
}

// setupAll sets the host up around the engine's TAPs.
func (d *daemon) setupAll() error {
	if err := d.setupNetworks(); err != nil {
		return err
	}
	if err := d.host.SetupRoutes(hostRoutes(d.conf().Routes)); err != nil {
		return fmt.Errorf("setting the host up: %w", err)
	}
	u, err := d.host.Underlay(d.conf().Underlay.Address, d.conf().Underlay.Device)
	if err != nil {
		return fmt.Errorf("setting the host up: %w", err)
	}
	if u.Index == d.link || !d.bound() {
		d.link = u.Index
		return nil
	}
	// A port lent the underlay address to its bridge.
	if err := d.restartEngine(u); err != nil {
		return err
	}
	return d.setupNetworks()
}

func (d *daemon) setupNetworks() error {
	for _, n := range d.hostNetworks() {
		if err := d.setupHost(n); err != nil {
			return err
		}
	}
	return nil
}

// listenMetrics opens the metrics listener; nil when there is none. The default
// one that is taken, by another daemon on this host say, is no reason to stop.
func (d *daemon) listenMetrics() (net.Listener, error) {
	c := d.conf().Control
	if c.Metrics == "" {
		return nil, nil
	}
	if l, err := d.inheritedMetrics(); l != nil || err != nil {
		return l, err
	}
	l, err := net.Listen("tcp", c.Metrics)
	switch {
	case err == nil:
		if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			d.Log.Warn("the metrics are open to whoever reaches their address, and nobody is asked who he is: filter there, or set control.metrics to a loopback address", "address", a.String())
		}
		return l, nil
	case c.MetricsDefault:
		d.Log.Warn("no metrics: the default listener cannot be had; set control.metrics to another, or to \"\" for none", "err", err)
		return nil, nil
	}
	return nil, fmt.Errorf("listening for metrics (control.metrics): %w", err)
}

// setupHost makes the host look as n needs it, and puts the containers that are
// attached to n back on a bridge that is new.
func (d *daemon) setupHost(n host.Network) error {
	if err := d.host.Setup(n); err != nil {
		return fmt.Errorf("setting the host up: %w", err)
	}
	d.restoreAttachments(n.Name)
	if !d.settled {
		return nil
	}
	return d.engine.get().Persist(n.Name)
}

// hostNetwork is what the host shall look like around n's TAP.
func (d *daemon) hostNetwork(n dataplane.Network) host.Network {
	v := d.vxlan(n.Name)
	return host.Network{
		Name: n.Name, Device: n.Device, MTU: n.MTU,
		Bridge: v.Bridge, Ports: v.Ports, PortsTake: v.PortsTake, MaxMACs: bridgeMACs(n.MaxEntries),
		Addresses: v.Addresses, Routes: hostRoutes(v.Routes), Neighbors: hostNeighbors(v.HostNeighbors()),
	}
}

// bridgeMACs is how many MACs a bridge learns at most: those of peers that the
// network's own table has, and as many again of this host.
func bridgeMACs(maxEntries int) uint32 {
	return uint32(min(2*int64(maxEntries), math.MaxUint32))
}

func hostRoutes(routes []config.Route) []host.Route {
	out := make([]host.Route, len(routes))
	for i, r := range routes {
		out[i] = host.Route{Prefix: r.Prefix, Via: r.Via}
	}
	return out
}

func hostNeighbors(neighbors []dataplane.Neighbor) []host.Neighbor {
	out := make([]host.Neighbor, len(neighbors))
	for i, n := range neighbors {
		out[i] = host.Neighbor{Address: n.Address, MAC: n.MAC}
	}
	return out
}

// vxlan is what the configuration says of a network that it has.
func (d *daemon) vxlan(name string) config.VXLAN {
	all := d.conf().VXLAN
	i := slices.IndexFunc(all, func(v config.VXLAN) bool { return v.Name == name })
	if i < 0 {
		return config.VXLAN{}
	}
	return all[i]
}

func (d *daemon) undoHost() error {
	// A hand-over under way ends first, and none begins any more.
	d.mu.Lock()
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

// closed drops the error of closing a listener a second time.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
