package daemon

import (
	"context"
	"time"

	"overtap/dataplane"
)

// monitorEvery is how often changes of the forwarding tables are read while
// a client watches: the tables keep thousands in between.
const monitorEvery = 100 * time.Millisecond

// WatchFDB implements control.Daemon.
func (d *daemon) WatchFDB(ctx context.Context, network string, emit func([]dataplane.FDBChange, uint64) error) error {
	if network != "" {
		if _, err := d.network(network); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		if err := d.watchOne(ctx, d.engine.get(), network, emit); err != nil {
			return err
		}
	}
	return nil
}

// watchOne watches one engine, until another takes its place.
func (d *daemon) watchOne(ctx context.Context, e Engine, network string, emit func([]dataplane.FDBChange, uint64) error) error {
	w, err := e.WatchFDB(network)
	if err != nil {
		return err
	}
	defer w.Close()
	// At once, so that the client knows that it is served.
	for err := emit(nil, 0); ; {
		if err != nil {
			return err
		}
		if !sleep(ctx, monitorEvery) || d.engine.get() != e {
			return nil
		}
		if changes, lost := w.Read(); len(changes) > 0 || lost > 0 {
			err = emit(changes, lost)
		}
	}
}
