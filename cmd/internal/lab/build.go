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
	if err := t.addHosts(l); err != nil {
		return nil, s, err
	}
	if err := t.addContainers(l, onLAN); err != nil {
		return nil, s, err
	}
	binary, err := t.installBinary()
	if err != nil {
		return nil, s, err
	}
	for _, h := range t.hosts {
		if err := t.addEnd(l, h, binary, &s); err != nil {
			return nil, s, err
		}
	}
	for _, p := range s.Daemons {
		if err := t.awaitReady(ctx, p); err != nil {
			return nil, s, fmt.Errorf("start overtap in host %s: %w", p.Host, err)
		}
	}
	if err := t.finishKernelEnds(l, peer); err != nil {
		return nil, s, err
	}
	if err := t.addContainers(l, plugged); err != nil {
		return nil, s, err
	}
	return l, s, t.addContainers(l, attached)
}

// addHosts makes the hosts, those of their bridges that overtap only finds, and
// the underlay.
func (t *Topology) addHosts(l *netlab.Lab) error {
	var hosts []*netlab.Host
	for _, spec := range t.hosts {
		h, err := l.AddHost(spec.name)
		if err != nil {
			return err
		}
		if err := spec.furnish(h, t.mtu); err != nil {
			return err
		}
		hosts = append(hosts, h)
	}
	if len(hosts) == 1 {
		return hosts[0].AddAddr("lo", netip.PrefixFrom(underlay(hosts[0].Name()), 32))
	}
	return l.Underlay(int(underlayMTU), hosts...)
}

// furnish gives a new host what is there before overtap.
func (spec host) furnish(h *netlab.Host, mtu int) error {
	if spec.router {
		for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			if err := h.Sysctl(key, "1"); err != nil {
				return err
			}
		}
	}
	if !spec.bridge {
		return nil
	}
	if err := h.AddBridge(netlab.SiteBridge, mtu); err != nil {
		return err
	}
	for _, a := range spec.addrs {
		if err := h.AddAddr(netlab.SiteBridge, a); err != nil {
			return err
		}
	}
	return nil
}

// addEnd makes what joins the host to the others, and notes a daemon in the
// state.
func (t *Topology) addEnd(l *netlab.Lab, spec host, binary string, s *state) error {
	h, err := l.Host(spec.name)
	if err != nil {
		return err
	}
	if !spec.overtapIn(s.Peer) {
		v := spec.kernel.vxlan
		v.Flood = nil
		return h.AddVXLAN(v)
	}
	p, err := t.startDaemon(h, spec, binary)
	if err != nil {
		return fmt.Errorf("start overtap in host %s: %w", spec.name, err)
	}
	s.Daemons = append(s.Daemons, p)
	return t.writeState(*s)
}

// finishKernelEnds sets to whom the kernel sends.
func (t *Topology) finishKernelEnds(l *netlab.Lab, peer Peer) error {
	for _, spec := range t.hosts {
		if spec.overtapIn(peer) {
			continue
		}
		h, err := l.Host(spec.name)
		if err != nil {
			return err
		}
		for _, to := range spec.kernel.vxlan.Flood {
			if err := h.AddFDB(spec.kernel.vxlan.Name, 0, to); err != nil {
				return err
			}
		}
		if spec.kernel.late != nil {
			if err := spec.kernel.late(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// startDaemon writes the host's configuration and starts overtap with it.
func (t *Topology) startDaemon(h *netlab.Host, spec host, binary string) (process, error) {
	path := t.config(h.Name())
	if err := os.WriteFile(path, []byte(t.configText(spec)), 0o644); err != nil {
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
func (t *Topology) configText(h host) string {
	own := fmt.Sprintf("address = %q # our address on the network between the hosts\ndevice  = %q\n",
		underlay(h.name), netlab.UnderlayDev)
	if len(t.hosts) == 1 {
		own = fmt.Sprintf("address = %q # our own address; there are no other hosts\n", underlay(h.name))
	}
	return fmt.Sprintf(`# overtap in host %s of the lab %s.

[underlay]
%s
[control]
socket = %q

%s`, h.name, t.Name, own, t.socket(h.name), h.config)
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
