package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"overtap/bench/netlab"
)

// Down removes the named lab, or the only one there is, or all of them,
// whatever is left of them. It is no error when there is none.
func Down(ctx context.Context, p *Printer, name string, all bool) error {
	if err := needRoot(p, "down"); err != nil {
		return err
	}
	if name != "" {
		if _, err := Find(name); err != nil {
			return err
		}
	}
	unlock, err := lock(ctx, func() { p.printf("Waiting for another lab command to end.\n") })
	if err != nil {
		return err
	}
	defer unlock()
	there, err := present()
	if err != nil {
		return err
	}
	switch {
	case name != "":
		there = only(there, name)
		if len(there) == 0 {
			p.printf("Lab %s is not up.\n", name)
		}
	case len(there) == 0:
		p.printf("No lab is up.\n")
	case len(there) > 1 && !all:
		return fmt.Errorf("several labs are up: name one of %s, or use --all", joinNames(there))
	}
	var errs []error
	for _, t := range there {
		r, err := t.clear()
		if err != nil {
			errs = append(errs, fmt.Errorf("lab %s: %w", t.Name, err))
			continue
		}
		p.printf("Lab %s is down: %s and %s removed.\n", t.Name,
			plural(r.daemons, "daemon", "daemons"), plural(r.namespaces, "namespace", "namespaces"))
	}
	return errors.Join(errs...)
}

// removed says what clear found.
type removed struct{ daemons, namespaces int }

// clear removes all there is of the lab. Daemons are ended by what Up noted of
// them, for the namespaces' names may have been removed; what else runs
// in the namespaces, noted or not, is ended with them.
func (t *Topology) clear() (r removed, err error) {
	var errs []error
	// Without a state there is nothing noted.
	if s, err := t.readState(); err == nil {
		for _, p := range s.Daemons {
			if p.alive() {
				r.daemons++
			}
		}
		errs = append(errs, endProcesses(s.Daemons))
	}
	l, err := netlab.Open(t.Name)
	if err == nil {
		var hosts []string
		if hosts, err = l.Hosts(); err == nil {
			r.namespaces = len(hosts)
			err = l.Destroy()
		}
	}
	if !errors.Is(err, netlab.ErrNotFound) {
		errs = append(errs, err)
	}
	// The note of what could not be removed must stay.
	if err := errors.Join(errs...); err != nil {
		return r, err
	}
	return r, t.removeFiles()
}

func only(ts []*Topology, name string) []*Topology {
	for _, t := range ts {
		if t.Name == name {
			return []*Topology{t}
		}
	}
	return nil
}

func joinNames(ts []*Topology) string {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = t.Name
	}
	return strings.Join(names, ", ")
}
