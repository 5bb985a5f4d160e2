package daemon

import "overtap/cmd/internal/host"

// hostNetworks describes what this host must look like around the device of every
// network and tunnel. The caller holds mu, or is alone.
func (d *daemon) hostNetworks() []host.Network { return d.conf().HostNetworks(d.base) }

// overlays copies out hostNetworks as they are now.
func (d *daemon) overlays() []host.Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hostNetworks()
}
