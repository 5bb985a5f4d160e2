package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"overtap/bench/netlab"
	"overtap/cmd/internal/control"
)

// readyLimit is how long a daemon may take until traffic flows; it takes a
// fraction of a second.
const readyLimit = 15 * time.Second

// tapDev is the TAP of overtap's network.
const tapDev = "vx-blue"

// build makes the lab, whole but for the proof that it works. After an error
// some of it may be there.
func (t *Topology) build(ctx context.Context, peer Peer) (*netlab.Lab, state, error) {
	s := state{Peer: peer, Since: time.Now().Truncate(time.Second), Boot: bootID(), Daemons: []process{}}
	if err := os.MkdirAll(t.dir(), 0o755); err != nil {
		return nil, s, fmt.Errorf("make the lab's directory: %w", err)
	}
	if err := t.writeState(s); err != nil {
		return nil, s, err
	}
	l, err := netlab.New(t.Name)
	if err != nil {
		return nil, s, err
	}
	mtu, err := underlayMTU.VXLANOverlay(false)
	if err != nil {
		return nil, s, err
	}
	if err := t.addHosts(l, int(mtu)); err != nil {
		return nil, s, err
	}
	binary, err := t.installBinary()
	if err != nil {
		return nil, s, err
	}
	for _, host := range hostNames {
		if err := t.addEnd(l, host, binary, int(mtu), &s); err != nil {
			return nil, s, err
		}
	}
	for _, p := range s.Daemons {
		if err := t.awaitReady(ctx, p); err != nil {
			return nil, s, fmt.Errorf("start overtap in host %s: %w", p.Host, err)
		}
	}
	return l, s, t.floodKernel(l, s)
}

// addEnd makes the host's end of the tunnel, and notes a daemon in the state.
func (t *Topology) addEnd(l *netlab.Lab, host, binary string, mtu int, s *state) error {
	h, err := l.Host(host)
	if err != nil {
		return err
	}
	if !s.runsOvertap(host) {
		return h.AddVXLAN(netlab.VXLANSpec{
			Name: netlab.SiteVXLAN, VNI: t.vni, Port: t.port,
			Local: underlay(host), Dev: netlab.UnderlayDev, Bridge: netlab.SiteBridge, MTU: mtu,
		})
	}
	p, err := t.startDaemon(h, binary)
	if err != nil {
		return fmt.Errorf("start overtap in host %s: %w", host, err)
	}
	s.Daemons = append(s.Daemons, p)
	return t.writeState(*s)
}

// floodKernel tells the kernel's vxlan of its peer once that is ready: what
// hosts say unasked would else count as dropped there.
func (t *Topology) floodKernel(l *netlab.Lab, s state) error {
	for _, host := range hostNames {
		if s.runsOvertap(host) {
			continue
		}
		h, err := l.Host(host)
		if err != nil {
			return err
		}
		if err := h.AddFDB(netlab.SiteVXLAN, 0, underlay(other(host))); err != nil {
			return err
		}
	}
	return nil
}

// runsOvertap reports whether overtap makes the host's end of the tunnel.
func (s state) runsOvertap(host string) bool {
	return host == hostNames[0] || s.Peer == OvertapPeer
}

// addHosts makes the hosts with their bridges, the underlay and the containers.
func (t *Topology) addHosts(l *netlab.Lab, mtu int) error {
	var hosts []*netlab.Host
	for _, name := range hostNames {
		h, err := l.AddHost(name)
		if err != nil {
			return err
		}
		if err := h.AddBridge(netlab.SiteBridge, mtu); err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	if err := l.Underlay(int(underlayMTU), hosts...); err != nil {
		return err
	}
	for _, c := range t.containers {
		h, err := l.Host(c.host)
		if err != nil {
			return err
		}
		in, err := h.AddContainer(netlab.ContainerSpec{
			Name: c.name, Bridge: netlab.SiteBridge,
			Addrs: []netip.Prefix{c.v4, c.v6}, MAC: c.mac(), MTU: mtu,
		})
		if err != nil {
			return err
		}
		for _, r := range c.routes {
			if err := in.AddRoute(r, netip.Addr{}, netlab.ContainerDev); err != nil {
				return err
			}
		}
	}
	return nil
}

// startDaemon writes the host's configuration and starts overtap with it.
func (t *Topology) startDaemon(h *netlab.Host, binary string) (process, error) {
	path := t.config(h.Name())
	if err := os.WriteFile(path, []byte(t.configText(h.Name())), 0o644); err != nil {
		return process{}, err
	}
	cmd := h.Command(binary, "run", "--config", path)
	cmd.Dir = "/"
	pid, err := cmd.Detach(t.log(h.Name()))
	if err != nil {
		return process{}, err
	}
	return newProcess(h.Name(), pid)
}

// configText is the host's configuration, fit to be read as an example.
func (t *Topology) configText(host string) string {
	return fmt.Sprintf(`# overtap in host %s of the lab %s.

[underlay]
address = %q # our address on the network between the hosts
device  = %q

[control]
socket = %q

[[vxlan]]
name   = %q
vni    = %d
port   = %d
tap    = %q # the device that overtap makes,
bridge = %q # and puts on this bridge, beside the containers

  [[vxlan.peer]]
  address = %q # host %s
`, host, t.Name, underlay(host), netlab.UnderlayDev, t.socket(host),
		t.network, t.vni, t.port, tapDev, netlab.SiteBridge, underlay(other(host)), other(host))
}

// awaitReady waits until traffic flows through the daemon.
func (t *Topology) awaitReady(ctx context.Context, p process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit,
		fmt.Errorf("it was not ready within %v", readyLimit))
	defer cancel()
	c := control.NewClient(t.socket(p.Host))
	for {
		if s, err := c.Status(ctx); err == nil && s.Ready {
			return nil
		}
		if !p.alive() {
			return fmt.Errorf("it ended before it was ready")
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// logTail returns the last lines of a daemon's log.
func (t *Topology) logTail(host string, lines int) []string {
	b, err := os.ReadFile(t.log(host))
	if err != nil {
		return nil
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return all[max(0, len(all)-lines):]
}
