package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"overtap/bench/netlab"
)

// view collects what the picture shows of a host.
func (r *report) view(l *netlab.Lab, h *netlab.Host, spec host) (hostView, error) {
	v := hostView{name: spec.name}
	for _, c := range r.topology.containers {
		if c.host != spec.name || c.join == onLAN {
			continue
		}
		d, err := r.member(l, c)
		if err != nil {
			return v, err
		}
		d.owner = c.name
		v.containers = append(v.containers, d)
	}
	bridge, err := r.device(h, netlab.SiteBridge, netlab.SiteBridge+" of host "+spec.name)
	if err != nil {
		return v, err
	}
	// Its MAC is one of its ports'.
	bridge.lines = slices.DeleteFunc(bridge.lines, func(s string) bool { _, err := netip.ParsePrefix(s); return err != nil })
	v.bridge = deviceView{name: bridge.name, lines: append([]string{"bridge"}, bridge.lines...)}
	if spec.lan != "" {
		d, err := r.lan(l, spec)
		if err != nil {
			return v, err
		}
		v.tunnel = append(v.tunnel, d)
	}
	tunnel := r.kernelTunnel
	if spec.overtapIn(r.peer) {
		tunnel = r.overtapTunnel
	}
	devices, err := tunnel(h, spec)
	if err != nil {
		return v, err
	}
	v.tunnel = append(v.tunnel, devices...)
	v.underlay, err = r.underlay(h)
	return v, err
}

// member is the device of a container, or of a machine on a LAN.
func (r *report) member(l *netlab.Lab, c container) (deviceView, error) {
	in, err := l.Host(c.name)
	if err != nil {
		return deviceView{}, err
	}
	return r.device(in, netlab.ContainerDev, c.name)
}

// lan is the host's second NIC, and who is on its LAN.
func (r *report) lan(l *netlab.Lab, spec host) (deviceView, error) {
	v := deviceView{name: spec.lan, lines: []string{"port of " + netlab.SiteBridge + ", to a LAN"}}
	for _, c := range r.topology.containers {
		if c.join != onLAN || c.host != spec.name {
			continue
		}
		d, err := r.member(l, c)
		if err != nil {
			return v, err
		}
		v.lines = append(v.lines, "there: machine "+c.name)
		v.lines = append(v.lines, d.lines...)
	}
	return v, nil
}

func (r *report) overtapTunnel(h *netlab.Host, spec host) ([]deviceView, error) {
	overtap := deviceView{name: "overtap", lines: spec.does}
	if spec.device == "" {
		return []deviceView{overtap}, nil
	}
	d, err := r.tunnelDevice(h, spec.device, func(mtu int) string { return fmt.Sprintf("%s, MTU %d", spec.kind, mtu) })
	return []deviceView{d, overtap}, err
}

func (r *report) kernelTunnel(h *netlab.Host, spec host) ([]deviceView, error) {
	v := spec.kernel.vxlan
	mtu := 0
	d, err := r.tunnelDevice(h, v.Name, func(m int) string { mtu = m; return "the kernel's VXLAN device" })
	d.lines = append(d.lines, fmt.Sprintf("MTU %d", mtu), fmt.Sprintf("VNI %d, UDP port %d", v.VNI, v.Port))
	return []deviceView{d}, err
}

// tunnelDevice is a device of a tunnel, with a line that says what it is first.
func (r *report) tunnelDevice(h *netlab.Host, dev string, title func(mtu int) string) (deviceView, error) {
	d, err := r.device(h, dev, dev+" of host "+h.Name())
	if err != nil {
		return d, err
	}
	mtu, err := h.MTU(dev)
	d.lines = append([]string{title(mtu)}, d.lines...)
	return d, err
}

// underlay is the device that leads to the other hosts; alone, a host has its
// address on the loopback.
func (r *report) underlay(h *netlab.Host) (deviceView, error) {
	dev := netlab.UnderlayDev
	if len(r.topology.hosts) == 1 {
		dev = "lo"
	}
	d, err := r.device(h, dev, dev+" of host "+h.Name())
	// The IPv6 address is there for tunnels and routes over IPv6.
	d.lines = slices.DeleteFunc(d.lines, func(s string) bool {
		p, err := netip.ParsePrefix(s)
		return err == nil && (p.Addr().Is6() || p.Addr().IsLoopback())
	})
	return d, err
}

// device returns the device with its addresses and its MAC, where it has one,
// and notes whose the MAC is.
func (r *report) device(h *netlab.Host, dev, owner string) (deviceView, error) {
	d := deviceView{name: dev}
	addrs, err := h.Addrs(dev)
	if err != nil {
		return d, err
	}
	for _, a := range addrs {
		d.lines = append(d.lines, a.String())
	}
	mac, err := h.MAC(dev)
	if errors.Is(err, netlab.ErrNoMAC) || err == nil && mac.IsZero() {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	d.lines = append(d.lines, mac.String())
	if _, taken := r.owners[mac]; !taken {
		r.owners[mac] = owner
	}
	return d, nil
}
