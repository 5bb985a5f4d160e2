package daemon

import (
	"context"
	"time"

	"overtap/dataplane"
)

const (
	// captureEvery is how often the mirror is read: its rings hold some
	// milliseconds of a fast flow.
	captureEvery = time.Millisecond
	// captureMany records at once say that more wait already.
	captureMany = 1024
)

// Capture implements control.Daemon.
func (d *daemon) Capture(ctx context.Context, spec dataplane.MirrorSpec, emit func([]dataplane.Record, uint64) error) error {
	for ctx.Err() == nil {
		if err := d.captureOne(ctx, d.engine.get(), spec, emit); err != nil {
			return err
		}
	}
	return nil
}

// captureOne captures from one engine, until another takes its place.
func (d *daemon) captureOne(ctx context.Context, e Engine, spec dataplane.MirrorSpec, emit func([]dataplane.Record, uint64) error) error {
	m, err := e.Mirror(spec)
	if err != nil {
		return err
	}
	defer m.Close()
	// At once, so that the client knows that it captures.
	if err := emit(nil, 0); err != nil {
		return err
	}
	var records []dataplane.Record
	for ctx.Err() == nil && d.engine.get() == e {
		var lost uint64
		records, lost = m.Read(records[:0])
		if len(records) > 0 || lost > 0 {
			if err := emit(records, lost); err != nil {
				return err
			}
		}
		if len(records) < captureMany && !sleep(ctx, captureEvery) {
			return nil
		}
	}
	return nil
}
