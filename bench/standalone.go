package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"

	"overtap/bench/netlab"
	"overtap/dataplane"
)

// Daemon is a running `overtap run` whose networks its caller wrote.
type Daemon struct{ d *daemon }

// StartDaemon runs the binary on the site's host, with these tables of networks
// in TOML, and waits until it is ready. Stop it.
func StartDaemon(ctx context.Context, binary string, s *netlab.Site, tables string) (*Daemon, error) {
	d, err := startDaemon(ctx, binary, daemonConfig{site: s, tables: tables})
	if err != nil {
		return nil, err
	}
	return &Daemon{d}, nil
}

// Stop ends it in order; it is an error when it had ended before, or ended with
// one.
func (d *Daemon) Stop() error { return d.d.stop() }

// PID returns the id of its process.
func (d *Daemon) PID() int { return d.d.pid() }

// Stats asks it for its counters.
func (d *Daemon) Stats(ctx context.Context) (s dataplane.Stats, err error) {
	out, err := exec.CommandContext(ctx, d.d.binary, "stats", "--json", "--socket", d.d.socket()).Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		return s, fmt.Errorf("overtap stats: %w", err)
	}
	return s, nil
}
