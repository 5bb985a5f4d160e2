package top

import (
	"context"
	"time"

	"overtap/cmd/internal/control"
	"overtap/dataplane"
)

// Bounds of the interval between two samples.
const (
	MinInterval = 100 * time.Millisecond
	MaxInterval = time.Minute
)

// patience is how long the daemon may take to answer before it counts as gone.
const patience = 5 * time.Second

// Source asks the daemon.
type Source struct {
	// Sample returns what the daemon says of itself, and its counters.
	Sample func(context.Context) (control.Status, dataplane.Stats, error)
	// Page returns a page of its forwarding table.
	Page func(context.Context, control.FDBQuery) (control.FDBPage, error)
}

// sample is what the daemon said at one moment.
type sample struct {
	at     time.Time
	status control.Status
	stats  dataplane.Stats
}

// take asks the daemon for a sample.
func (s *Source) take(ctx context.Context) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, stats, err := s.Sample(ctx)
	if err != nil {
		return nil, err
	}
	return &sample{time.Now(), status, stats}, nil
}

// page asks for a page of the forwarding table.
func (s *Source) page(ctx context.Context, q control.FDBQuery) (control.FDBPage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.Page(ctx, q)
}
