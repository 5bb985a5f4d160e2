package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"overtap/bench/netlab"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// pings is how many echo requests prove a way.
const pings = 3

// pingRow is what came of pinging one container from another.
type pingRow struct {
	from, to string
	v4, v6   netlab.PingResult
}

// ping tries every way of the topology and stops at the first that gives no
// answer at all.
func (t *Topology) ping(ctx context.Context, l *netlab.Lab) ([]pingRow, error) {
	var rows []pingRow
	for _, way := range t.pings {
		from, err := l.Host(way[0])
		if err != nil {
			return nil, err
		}
		r := pingRow{from: way[0], to: way[1]}
		to := t.container(way[1])
		for _, echo := range []struct {
			dst netip.Addr
			to  *netlab.PingResult
		}{{to.v4.Addr(), &r.v4}, {to.v6.Addr(), &r.v6}} {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if *echo.to, err = netlab.Ping(from, echo.dst, netlab.PingOptions{Count: pings}); err != nil {
				return nil, fmt.Errorf("ping %s from %s: %w", echo.dst, way[0], err)
			}
		}
		rows = append(rows, r)
		if r.v4.Received == 0 || r.v6.Received == 0 {
			break
		}
	}
	return rows, nil
}

// report is all that Up tells of a lab that stands.
type report struct {
	topology *Topology
	peer     Peer
	several  bool // labs are up: commands must name this one
	hosts    [2]hostView
	pings    []pingRow
	carried  []carried
	learned  []learned
	owners   map[encap.MAC]string // what devices are whose
}

// carried is what the overtap in one host counted.
type carried struct {
	host string
	dataplane.Stats
}

// learned is what one end knows by now of the containers behind the other.
type learned struct {
	host, by string
	entries  []binding
}

// binding says behind which host a MAC is.
type binding struct {
	mac  encap.MAC
	peer netip.Addr
}

// report looks at the lab from inside.
func (t *Topology) report(ctx context.Context, l *netlab.Lab, s state, rows []pingRow) (*report, error) {
	r := &report{topology: t, peer: s.Peer, pings: rows, owners: map[encap.MAC]string{}}
	for i, name := range hostNames {
		h, err := l.Host(name)
		if err != nil {
			return nil, err
		}
		if r.hosts[i], err = r.view(l, h, s.runsOvertap(name)); err != nil {
			return nil, err
		}
		look := r.lookKernel
		if s.runsOvertap(name) {
			look = r.lookOvertap
		}
		if err := look(ctx, h); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *report) lookOvertap(ctx context.Context, h *netlab.Host) error {
	c := control.NewClient(r.topology.socket(h.Name()))
	stats, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	r.carried = append(r.carried, carried{h.Name(), stats})
	entries, err := c.FDB(ctx, "")
	if err != nil {
		return err
	}
	known := learned{host: h.Name(), by: "overtap"}
	for _, e := range entries {
		known.entries = append(known.entries, binding{e.MAC, e.Peer})
	}
	r.learned = append(r.learned, known)
	return nil
}

func (r *report) lookKernel(_ context.Context, h *netlab.Host) error {
	entries, err := h.KernelFDB(netlab.SiteVXLAN)
	if err != nil {
		return err
	}
	known := learned{host: h.Name(), by: "the kernel"}
	for _, e := range entries {
		if e.Peer.IsValid() && !e.MAC.IsZero() {
			known.entries = append(known.entries, binding{e.MAC, e.Peer})
		}
	}
	r.learned = append(r.learned, known)
	return nil
}

// view collects what the picture shows of a host.
func (r *report) view(l *netlab.Lab, h *netlab.Host, overtap bool) (hostView, error) {
	t := r.topology
	v := hostView{name: h.Name()}
	for _, c := range t.containers {
		if c.host != h.Name() {
			continue
		}
		in, err := l.Host(c.name)
		if err != nil {
			return v, err
		}
		d, err := r.device(in, netlab.ContainerDev, c.name)
		if err != nil {
			return v, err
		}
		d.owner = c.name
		v.containers = append(v.containers, d)
	}
	v.bridge = deviceView{name: netlab.SiteBridge, lines: []string{"bridge"}}
	if _, err := r.device(h, netlab.SiteBridge, netlab.SiteBridge+" of host "+h.Name()); err != nil {
		return v, err
	}
	dev := netlab.SiteVXLAN
	if overtap {
		dev = tapDev
	}
	d, err := r.device(h, dev, dev+" of host "+h.Name())
	if err != nil {
		return v, err
	}
	mtu, err := h.MTU(dev)
	if err != nil {
		return v, err
	}
	if overtap {
		d.lines = append([]string{fmt.Sprintf("TAP, MTU %d", mtu)}, d.lines...)
		v.tunnel = []deviceView{d, {name: "overtap", lines: []string{
			fmt.Sprintf("VXLAN, VNI %d", t.vni), fmt.Sprintf("UDP port %d", t.port),
		}}}
	} else {
		d.lines = append([]string{"the kernel's VXLAN device"}, d.lines...)
		d.lines = append(d.lines, fmt.Sprintf("MTU %d", mtu), fmt.Sprintf("VNI %d, UDP port %d", t.vni, t.port))
		v.tunnel = []deviceView{d}
	}
	v.underlay, err = r.device(h, netlab.UnderlayDev, netlab.UnderlayDev+" of host "+h.Name())
	// The IPv6 address is there for tunnels over IPv6.
	v.underlay.lines = slices.DeleteFunc(v.underlay.lines, func(s string) bool {
		p, err := netip.ParsePrefix(s)
		return err == nil && p.Addr().Is6()
	})
	return v, err
}

// device returns the device with its addresses and its MAC, and notes whose the
// MAC is.
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
	if err != nil {
		return d, err
	}
	d.lines = append(d.lines, mac.String())
	if _, taken := r.owners[mac]; !taken {
		r.owners[mac] = owner
	}
	return d, nil
}

// unanswered names the way that gave no answer, "" when all did.
func (r *report) unanswered() string {
	for _, p := range r.pings {
		to := r.topology.container(p.to)
		if p.v4.Received == 0 {
			return fmt.Sprintf("%s to %s (%s)", p.from, p.to, to.v4.Addr())
		}
		if p.v6.Received == 0 {
			return fmt.Sprintf("%s to %s (%s)", p.from, p.to, to.v6.Addr())
		}
	}
	return ""
}
