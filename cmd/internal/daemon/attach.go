package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"overtap/cmd/internal/attach"
)

// Attach implements control.Daemon.
func (d *daemon) Attach(ctx context.Context, ns *os.File, r attach.Request) (attach.Made, error) {
	n, err := d.network(r.Network)
	if err != nil {
		return attach.Made{}, err
	}
	r.Network = n.Name
	on := d.conf().Network(n.Name).Host(n.MTU)
	if on.Bridge == "" {
		return attach.Made{}, fmt.Errorf("network %s has no bridge for containers to be attached to: "+
			"give it one by the key bridge in %s, and restart the daemon", n.Name, d.Path)
	}
	if r.Auto {
		d.members.allot.Lock()
		defer d.members.allot.Unlock()
		attached, err := d.attach.List(d.overlays())
		if err != nil {
			return attach.Made{}, err
		}
		p, err := d.freeAddress(n, attached)
		if err != nil {
			return attach.Made{}, err
		}
		r.Addresses = append(r.Addresses, p)
	}
	ends := d.ends()
	for _, p := range r.Addresses {
		if err := ends.Holds(p); err != nil && p.IsValid() {
			return attach.Made{}, fmt.Errorf("attaching %s to network %s: %s is in the subnet %s, which %w", r.Target, n.Name, p, p.Masked(), err)
		}
	}
	m, err := d.attach.Attach(ctx, on, ns, r)
	if err == nil {
		signal(d.members.republish)
		d.Log.Info("attached", "network", m.Network, "target", m.Target, "ifname", m.IfName,
			"addresses", m.Addresses, "mac", m.MAC, "veth", m.Veth)
	}
	return m, err
}

// Detach implements control.Daemon.
func (d *daemon) Detach(ns *os.File, s attach.Selector) (attach.Attachment, error) {
	gone, err := d.attach.Detach(d.overlays(), ns, s)
	if err != nil {
		// What is left of a network that is configured no more can be detached,
		// so the name is looked up last.
		if _, unknown := d.network(s.Network); unknown != nil && errors.Is(err, attach.ErrNotAttached) {
			return gone, unknown
		}
		return gone, err
	}
	signal(d.members.republish)
	d.Log.Info("detached", "network", gone.Network, "target", gone.Target, "ifname", gone.IfName, "veth", gone.Veth)
	return gone, nil
}

// restoreAttachments puts the containers attached to the networks of these names
// back on their bridges, where they have one. One that cannot be is no reason for
// the others to wait. The caller holds mu, or is alone.
func (d *daemon) restoreAttachments(networks ...string) {
	wanted := make(map[string]bool, len(networks))
	for _, name := range networks {
		wanted[name] = true
	}
	var on []attach.Network
	for _, n := range d.hostNetworks() {
		if wanted[n.Name] && n.Bridge != "" {
			on = append(on, n)
		}
	}
	if len(on) == 0 {
		return
	}
	back, err := d.attach.Restore(on...)
	for _, a := range back {
		d.Log.Info("attached again", "network", a.Network, "target", a.Target, "ifname", a.IfName, "veth", a.Veth)
	}
	if err != nil {
		d.limit.Warn("attached "+on[0].Name, d.Log, "a container that was attached is off its network: detach and attach it again", "err", err)
	}
}
