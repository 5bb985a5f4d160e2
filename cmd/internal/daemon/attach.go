package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"overtap/cmd/internal/attach"
	"overtap/dataplane"
)

// Attach implements control.Daemon.
func (d *daemon) Attach(ctx context.Context, ns *os.File, r attach.Request) (attach.Made, error) {
	n, err := d.network(r.Network)
	if err != nil {
		return attach.Made{}, err
	}
	r.Network = n.Name
	on := d.attachNetwork(n)
	if on.Bridge == "" {
		return attach.Made{}, fmt.Errorf("network %s has no bridge for containers to be attached to: "+
			"give it one by the key bridge in %s, and restart the daemon", n.Name, d.Path)
	}
	m, err := d.attach.Attach(ctx, on, ns, r)
	if err == nil {
		d.Log.Info("attached", "network", m.Network, "target", m.Target, "ifname", m.IfName,
			"addresses", m.Addresses, "mac", m.MAC, "veth", m.Veth)
	}
	return m, err
}

// Detach implements control.Daemon.
func (d *daemon) Detach(ns *os.File, s attach.Selector) (attach.Attachment, error) {
	gone, err := d.attach.Detach(d.attachNetworks(), ns, s)
	if err != nil {
		// What is left of a network that is configured no more can be detached,
		// so the name is looked up last.
		if _, unknown := d.network(s.Network); unknown != nil && errors.Is(err, attach.ErrNotAttached) {
			return gone, unknown
		}
		return gone, err
	}
	d.Log.Info("detached", "network", gone.Network, "target", gone.Target, "ifname", gone.IfName, "veth", gone.Veth)
	return gone, nil
}

// restoreAttachments puts the containers attached to the network back on its
// bridge, where it has one. One that cannot be is no reason for the others to
// wait. The caller holds mu, or is alone.
func (d *daemon) restoreAttachments(network string) {
	i := slices.IndexFunc(d.base.Networks, func(n dataplane.Network) bool { return n.Name == network })
	if i < 0 {
		return // a tunnel, or the plain routes
	}
	n := d.base.Networks[i]
	on := d.attachNetwork(n)
	if on.Bridge == "" {
		return
	}
	back, err := d.attach.Restore(on)
	for _, a := range back {
		d.Log.Info("attached again", "network", a.Network, "target", a.Target, "ifname", a.IfName, "veth", a.Veth)
	}
	if err != nil {
		d.limit.Warn("attached "+n.Name, d.Log, "a container that was attached is off its network: detach and attach it again", "network", n.Name, "err", err)
	}
}

// attachNetwork is what an attachment needs to know of n.
func (d *daemon) attachNetwork(n dataplane.Network) attach.Network {
	return attach.Network{Name: n.Name, Bridge: d.vxlan(n.Name).Bridge, MTU: n.MTU, MAC: n.MAC}
}

func (d *daemon) attachNetworks() []attach.Network {
	networks := d.networks()
	all := make([]attach.Network, 0, len(networks))
	for _, n := range networks {
		all = append(all, d.attachNetwork(n))
	}
	return all
}
