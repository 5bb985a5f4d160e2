package daemon

import (
	"fmt"
	"slices"
	"strings"

	"overtap/dataplane"
)

// Explain implements control.Daemon.
func (d *daemon) Explain(p dataplane.Query) (dataplane.Explanation, error) {
	if p.Network != "" || p.VNI == nil || p.Port == 0 {
		name, err := d.traced(p.Network)
		if err != nil {
			return dataplane.Explanation{}, err
		}
		p.Network = name
	}
	x, err := d.engine.get().Explain(p)
	if err != nil {
		return x, fmt.Errorf("tracing a frame: %w", err)
	}
	if err := d.bridged(&p, &x); err != nil {
		return x, fmt.Errorf("tracing a frame: %w", err)
	}
	d.lookAtHealth(onAsk)
	for i, problem := range d.ready.of(x.Network) {
		x.Steps = slices.Insert(x.Steps, i, dataplane.Step{Name: "status", Verdict: "note", Detail: "not ready, which the steps below leave out: " + problem})
	}
	return x, nil
}

// traced returns the name of a network or tunnel that runs; for "" that of the
// only one.
func (d *daemon) traced(name string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var known []string
	for _, n := range d.base.Networks {
		known = append(known, n.Name)
	}
	for _, t := range d.base.Tunnels {
		known = append(known, t.Name)
	}
	for _, one := range known {
		switch {
		case one != name && (name != "" || len(known) != 1):
		case d.lost[one]:
			return "", fmt.Errorf("network %s waits for its device: see `overtap status`", one)
		default:
			return one, nil
		}
	}
	switch {
	case len(known) == 0:
		return "", fmt.Errorf("this daemon has no network: give it one in %s", d.Path)
	case name == "":
		return "", fmt.Errorf("there are several networks: name one of %s with --network", strings.Join(known, ", "))
	}
	return "", fmt.Errorf("there is no network %q: name one of %s", name, strings.Join(known, ", "))
}
