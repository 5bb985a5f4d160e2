package daemon

import (
	"fmt"
	"net/netip"
	"slices"

	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

// overlayWay is what the daemon knows of the ways out of its own networks.
type overlayWay struct {
	found   host.Overlays
	blocked []string // listed peers that this host routes into a network, sorted
}

// guardIngress looks for the devices and routes by which frames come out of this
// host's overlay networks, and has e refuse what comes by them.
// The caller holds mu, or is alone.
func (d *daemon) guardIngress(e Engine) error {
	// It remembers where the underlay runs by now; without one nothing is exempt.
	_, _ = d.findUnderlay()
	found, err := d.host.Overlays(d.hostNetworks())
	if err != nil {
		return err
	}
	w := &overlayWay{found: found, blocked: blockedPeers(d.conf().Peers(), found.Routes)}
	if err := refuse(e, found.Devices, found.Routes); err != nil {
		return err
	}
	was := d.way.Swap(w)
	changed := was == nil || was.found.Underlay != w.found.Underlay || !slices.Equal(was.blocked, w.blocked)
	if changed && d.serving { // before, serve logs it with all other warnings
		for _, text := range w.warnings() {
			d.limit.Warn("ingress", d.Log, text)
		}
	}
	return nil
}

// guardDevices adds the devices of networks that were set up since guardIngress,
// without looking at all links again. The caller holds mu, or is alone.
func (d *daemon) guardDevices() error {
	var routes []host.OverlayRoute
	if w := d.way.Load(); w != nil {
		routes = w.found.Routes
	}
	return refuse(d.engine.get(), d.host.OverlayDevices(), routes)
}

func refuse(e Engine, devices []int, routes []host.OverlayRoute) error {
	i := dataplane.Ingress{Devices: devices}
	for _, r := range routes {
		i.Routes = append(i.Routes, dataplane.IngressRoute{Prefix: r.Prefix, Overlay: r.Overlay})
	}
	if err := e.SetIngress(i); err != nil {
		return fmt.Errorf("refusing what comes out of this host's networks: %w", err)
	}
	return nil
}

// keepGuard looks again when links, addresses or routes changed, and once in a while:
// the routes of a host that has none configured are not followed.
func (f *follower) keepGuard(due bool) {
	if !f.host.OverlaysChanged() && !due {
		return
	}
	f.daemon.mu.Lock()
	defer f.daemon.mu.Unlock()
	if f.closed || f.yielded.Load() {
		return
	}
	if err := f.guardIngress(f.engine.get()); err != nil {
		f.limit.Warn("ingress", f.Log, "cannot look for what comes out of the networks: what was found before holds", "err", err)
	}
}

// blockedPeers names the listed peers whose longest prefix leads into a network.
func blockedPeers(peers []netip.Addr, routes []host.OverlayRoute) []string {
	var names []string
	for _, a := range peers {
		best := host.OverlayRoute{}
		for _, r := range routes {
			if r.Prefix.Contains(a) && (!best.Prefix.IsValid() || r.Prefix.Bits() > best.Prefix.Bits()) {
				best = r
			}
		}
		if best.Overlay {
			names = append(names, a.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// warnings are what an operator should know about the ways out of the networks.
func (w *overlayWay) warnings() []string {
	var all []string
	if u := w.found.Underlay; u != "" {
		all = append(all, fmt.Sprintf("the underlay's device %s carries frames of a network too: what a container sends by it with a peer's address is taken for the peer's; "+
			"give the network a bridge of its own, or filter forged sources there", u))
	}
	if len(w.blocked) > 0 {
		all = append(all, fmt.Sprintf("this host routes peers into its own networks: %s: what comes from there is dropped as from_overlay; correct the routes (`ip route get PEER`)",
			host.Some(w.blocked)))
	}
	return all
}
