package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// Reload implements control.Daemon: it reads the configuration file again and
// applies it. What did not change is not touched; after an error what ran before
// runs on.
func (d *daemon) Reload(dryRun bool) (control.Reloaded, error) {
	if dryRun {
		return d.reload(true)
	}
	notifyReloading(d.Log)
	defer notify(d.Log, "READY=1")
	r, err := d.reload(false)
	d.reloads.note(err)
	if err != nil {
		d.Log.Error("the configuration was not reloaded: what ran before runs on", "path", d.Path, "err", err)
		return control.Reloaded{}, err
	}
	d.Log.Info("the configuration was reloaded", "path", d.Path,
		"added", len(r.Added), "removed", len(r.Removed), "changed", len(r.Changed))
	for _, c := range r.Details[:min(len(r.Details), loggedDetails)] {
		args := []any{"line", c.Line, "from", c.From, "to", c.To}
		if c.Key != "" {
			args = append([]any{"key", c.Key}, args...)
		}
		if c.Network != "" {
			args = append([]any{"network", c.Network}, args...)
		}
		d.Log.Info("changed by the reload", args...)
	}
	return r, nil
}

// loggedDetails bounds the lines that a reload logs.
const loggedDetails = 100

func (d *daemon) reload(dryRun bool) (control.Reloaded, error) {
	next, err := config.Load(d.Path)
	if errors.Is(err, fs.ErrPermission) {
		err = d.explainDenied(err)
	}
	if err != nil {
		return control.Reloaded{}, err
	}
	d.lock()
	defer d.mu.Unlock()
	if d.waits {
		return control.Reloaded{}, errWaits
	}
	if d.closed {
		return control.Reloaded{}, errors.New("the underlay's device is being opened again: try again when `overtap status` says ready")
	}
	was := d.conf()
	if err := reloadable(d.Path, was, next); err != nil {
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
	if dryRun {
		r := c.reloaded()
		r.DryRun = true
		return r, nil
	}
	if err := d.rekey(); err != nil {
		return control.Reloaded{}, err
	}
	if err := c.run(d); err != nil {
		return control.Reloaded{}, err
	}
	signal(d.members.republish)
	d.logWarnings(was, next)
	return c.reloaded(), nil
}

// lineNumber is where a warning names another line.
var lineNumber = regexp.MustCompile(` on line \d+`)

// logWarnings logs the warnings of a configuration that the one before, nil for the
// first, did not have.
func (d *daemon) logWarnings(was, next *config.Config) {
	logged := make(map[config.Error]bool)
	unplaced := func(e config.Error) config.Error {
		e.File, e.Line, e.Key = "", 0, ""
		e.Problem = lineNumber.ReplaceAllString(e.Problem, "")
		return e
	}
	if was != nil {
		for _, w := range was.Warnings {
			logged[unplaced(w)] = true
		}
	}
	for _, w := range next.Warnings {
		if !logged[unplaced(w)] {
			d.Log.Warn("the configuration holds what is probably not meant", "warning", w.Error())
		}
	}
}

// keepMTUs leaves to networks that go on the MTU they have, where the file has the
// same for it as before: one that is derived may have followed the underlay's.
func keepMTUs(was, next *config.Config, old dataplane.Desired, base *dataplane.Desired) {
	configured := func(c *config.Config, name string) encap.OverlayMTU {
		return cmp.Or(c.Network(name).MTU, c.Tunnel(name).MTU)
	}
	kept := make(map[string]encap.OverlayMTU)
	for _, n := range was.HostNetworks(old) {
		if configured(was, n.Name) == configured(next, n.Name) {
			kept[n.Name] = n.MTU
		}
	}
	for i := range base.Networks {
		n := &base.Networks[i]
		n.MTU = cmp.Or(kept[n.Name], n.MTU)
	}
	for i := range base.Tunnels {
		t := &base.Tunnels[i]
		t.MTU = cmp.Or(kept[t.Name], t.MTU)
	}
}

// explainDenied says why the configuration, which root may read, cannot be read: the
// daemon is confined to the folder that was there when it started.
func (d *daemon) explainDenied(err error) error {
	if !d.conf().Engine.Confine {
		return err
	}
	dir := filepath.Dir(d.Path)
	const remedy = "start a new daemon beside this one, which takes over, or set engine.confine = false"
	if now, e := os.Stat(dir); e == nil && d.configDir != nil && !os.SameFile(now, d.configDir) {
		return fmt.Errorf("%w: the folder %s was replaced since the daemon started, and its confinement (Landlock) lets it read the one that was there; "+
			"put that back, change files in it in place, or %s", err, dir, remedy)
	}
	return fmt.Errorf("%w: the confinement of the daemon (Landlock) lets it read what is in the folder %s, and of / and /etc the file alone that was there when it started; "+
		"where %s is a symbolic link, have it lead into that folder, or %s", err, dir, d.Path, remedy)
}

// reloadable is an error that names every key that only a restart changes, with
// its line in the file.
func reloadable(path string, was, next *config.Config) error {
	var errs config.Errors
	changes := was.Changes(next)
	for _, table := range []struct {
		name string
		same bool
	}{
		{"underlay", reflect.DeepEqual(was.Underlay, next.Underlay)},
		{"control", reflect.DeepEqual(was.Control, next.Control)},
		{"engine", reflect.DeepEqual(was.Engine, next.Engine)},
		{"offload", reflect.DeepEqual(was.Offload, next.Offload)},
		{"log", reflect.DeepEqual(was.Log, next.Log)},
		{"cluster", reflect.DeepEqual(was.Cluster, next.Cluster)},
	} {
		if table.same {
			continue
		}
		problem := fmt.Sprintf("[%s] cannot change while the daemon runs: restart it, or put the old values back", table.name)
		found := false
		for i := range changes {
			if c := &changes[i]; c.Network == "" && strings.HasPrefix(c.Key, table.name+".") {
				errs = append(errs, c.At(path, fmt.Sprintf("was %s: %s", cmp.Or(c.From, "not set"), problem)))
				found = true
			}
		}
		if !found {
			errs = append(errs, config.Error{File: path, Line: 1, Key: table.name, Problem: problem})
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// reloadOn reloads on each SIGHUP, until ctx ends.
func (d *daemon) reloadOn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.HangUp:
			_, _ = d.Reload(false) // it logs the result
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
