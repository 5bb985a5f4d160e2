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
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/cluster"
	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/cmd/internal/metrics"
	"overtap/cmd/internal/repeat"
	"overtap/dataplane"
	"overtap/dataplane/netio"
	"overtap/dataplane/netio/linux"
	"overtap/encap"
)

// Engine is what the daemon asks of *dataplane.Engine.
type Engine interface {
	Apply(dataplane.Desired) (dataplane.Diff, error)
	Admits(dataplane.Desired) error
	Stats() dataplane.Stats
	Info() dataplane.Info
	FDB(network string) ([]dataplane.FDBEntry, error)
	EachFDB(network string, f func(*dataplane.FDBEntry)) error
	EachPeer(f func(network string, peer netip.Addr, state dataplane.PeerState))
	Neighbors(network string) ([]dataplane.NeighborEntry, error)
	Flush(dataplane.Match) (int, error)
	Events() <-chan dataplane.Event
	Alive() bool
	WatchFDB(network string) (*dataplane.FDBWatch, error)
	Explain(dataplane.Query) (dataplane.Explanation, error)
	Mirror(dataplane.MirrorSpec) (*dataplane.Mirror, error)
	Persist(network string) error
	Handover() (*netio.Handover, error)
	Restore([]dataplane.FDBEntry) (int, error)
	Start()
	Leave(stopped func()) error
	SetIngress(dataplane.Ingress) error
	Close() error
}

// Options say what to run.
type Options struct {
	Config  *config.Config
	Path    string // of the configuration, for status
	Version string
	Log     *slog.Logger
	// NewEngine opens the backend and starts the engine on it. Options.Backend is
	// its to set.
	NewEngine func(linux.Options, dataplane.Options) (Engine, error)
	// HangUp delivers when the configuration must be read again; nil = never.
	HangUp <-chan os.Signal
	// Made are directories that were made for the control socket; Run removes them.
	Made []string
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
	frozenLog frozenLog
	ownFrames ownFrames
	checksums growth // what the kernel refused for its UDP checksum
	ailing    ailing
	configDir os.FileInfo // of the configuration's folder at the start; nil = there is none
	health    health
	announced announced
	limit     repeat.Limiter                // of lines that may come again and again
	config    atomic.Pointer[config.Config] // as it was loaded last
	reloads   reloads
	members   members
	way       atomic.Pointer[overlayWay] // out of the networks; nil = not looked at yet
	link      int                        // index of the underlay's link that the sockets were opened on
	atStart   map[string]encap.OverlayMTU
	restarted chan struct{} // delivers when another engine took over

	before  *oldDaemon // whose place this one takes; nil = none
	socket  *control.Listener
	web     net.Listener // of the metrics; nil = none
	leave   func()       // ends serve
	yielded atomic.Bool  // another daemon has taken over

	mu sync.Mutex // held over every Apply, never while another process is waited for
	// pending is closed when the hand-over under way has ended; nil = there is none.
	// What is handed over does not change meanwhile: see lock.
	pending chan struct{}
	ending  context.Context // of Run; a hand-over under way is cut off when it ends
	closed  bool            // the engine is, until it is started again
	waits   bool            // nothing is set up before the underlay is there
	// settled: devices persist from their set-up on.
	settled bool
	serving bool              // the control socket is, and all is set up
	base    dataplane.Desired // what the configuration says
	static  static            // entries of the command line
	view    *cluster.View     // of the members of the cluster, as it is applied; nil = none
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
		members:   newMembers(),
		frozenLog: frozenLog{every: frozenEvery, networks: make(map[string]*frozen)},
	}
	d.config.Store(o.Config)
	if o.Path != "" {
		d.configDir, _ = os.Stat(filepath.Dir(o.Path)) // without it a reload that fails says less
	}
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
	d.logWarnings(nil, o.Config)
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
	if err := d.askHandover(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
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
	d.engine.set(noEngine{})
	if !d.waits {
		if err := d.startEngine(); err != nil {
			return err
		}
	}
	undo = append(undo, d.undoHost)
	if !d.waits {
		if err := d.setupAll(); err != nil {
			return err
		}
	}
	// Once more, so that a change under way ends before bridges are removed.
	undo = append(undo, func() error { d.attach.Close(); return nil })
	if ctx.Err() != nil {
		return nil
	}
	if d.before != nil {
		if err := d.takeOver(); err != nil {
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
		d.socket.Own()
	}
	if !d.waits {
		if err := d.settle(); err != nil {
			return err
		}
	}
	return d.serve(ctx)
}

// begin starts what Run could not without the underlay, now that it is there. It
// stays waiting when the underlay went again in the meantime.
func (d *daemon) begin() error {
	d.lock()
	defer d.mu.Unlock()
	if err := d.preflight(); err != nil || d.waits {
		return err
	}
	d.waits = true // as long as not all of it is done
	if err := d.startEngine(); err != nil {
		return err
	}
	if err := d.setupAll(); err != nil {
		return err
	}
	if err := d.settle(); err != nil {
		return err
	}
	d.waits = false
	d.otherEngine()
	return nil
}

// serve runs the daemon's tasks until ctx ends or one of them fails.
func (d *daemon) serve(ctx context.Context) error {
	f := d.newFollower()
	d.ready.start()
	if err := f.look(onEvent); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return control.Serve(ctx, d.socket, d, d.Log) })
	if web := d.web; web != nil {
		srv := metrics.NewServer(metrics.Source{Version: d.Version, Stats: d.Stats, Ready: d.isReady, Reloads: d.reloads.state, Cluster: d.clusterState})
		g.Go(func() error { return control.ServeHTTP(ctx, srv, metrics.Limited(web)) })
	}
	g.Go(func() error { return d.host.Watch(ctx) })
	g.Go(func() error { return d.events(ctx) })
	g.Go(func() error { return f.follow(ctx) })
	g.Go(func() error { return d.followPeers(ctx) })
	g.Go(func() error { return d.followCluster(ctx) })
	g.Go(func() error { return d.reloadOn(ctx) })
	g.Go(func() error { return d.watchdog(ctx) })

	for _, w := range d.warnings(d.Stats()) {
		d.Log.Warn(w)
	}
	d.nowServing()
	d.sayReady()
	// Also when it waits: what systemd starts after this service must not hang on
	// a cable. STATUS= says what it waits for.
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

// lock locks mu, to change what a hand-over names: it waits until none is under way.
func (d *daemon) lock() {
	d.mu.Lock()
	for d.pending != nil {
		over := d.pending
		d.mu.Unlock()
		<-over
		d.mu.Lock()
	}
}

func (d *daemon) nowServing() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serving = true
}

// announce writes a line whatever the level of the log: a script may wait for it.
func announce(log *slog.Logger, msg string, args ...any) {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, msg, 0)
	r.Add(args...)
	// The logger drops its handler's errors too.
	_ = log.Handler().Handle(context.Background(), r)
}

// listenMetrics opens the metrics listener; nil when there is none. The default
// one that is taken, by another daemon on this host say, is no reason to stop.
func (d *daemon) listenMetrics() (net.Listener, error) {
	c := d.conf().Control
	if c.Metrics == "" {
		return nil, nil
	}
	if l, err := d.handedOverMetrics(); l != nil || err != nil {
		return l, err
	}
	l, err := net.Listen("tcp", c.Metrics)
	switch {
	case err == nil:
		if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
			d.Log.Warn("the metrics are open to every host that reaches their address, without authentication: filter there, or set control.metrics to a loopback address", "address", a.String())
		}
		return l, nil
	case c.MetricsDefault:
		d.Log.Warn("no metrics: the default listener cannot be had; set control.metrics to another, or to \"\" for none", "err", err)
		return nil, nil
	}
	return nil, fmt.Errorf("listening for metrics (control.metrics): %w", err)
}

// closed drops the error of closing a listener a second time.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
