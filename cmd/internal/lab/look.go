package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"overtap/bench/netlab"
	"overtap/bench/traffic"
	"overtap/cmd/internal/control"
	"overtap/dataplane"
	"overtap/encap"
)

// pings is how many echo requests prove a way.
const pings = 3

// pingRow is what came of pinging one container from another.
type pingRow struct {
	from, to string
	dst      [2]netip.Addr // IPv4, IPv6; the latter may be missing
	v4, v6   netlab.PingResult
	tcp      [2]streamResult
}

// streamBytes is how much TCP carries to prove a way.
const streamBytes = 1 << 20

// streamLimit is how long that may take.
const streamLimit = 20 * time.Second

// streamResult is what came of a TCP stream whose sums are compared.
type streamResult struct {
	traffic.TCPResult
	err error
}

// prove pings every way of the topology, and sends a TCP stream along it. It
// stops at the first way on which anything fails.
func (t *Topology) prove(ctx context.Context, l *netlab.Lab) ([]pingRow, error) {
	var rows []pingRow
	for _, way := range t.pings {
		r, err := t.ping(ctx, l, way)
		if err != nil {
			return nil, err
		}
		if r.fails() == "" {
			if err := t.stream(ctx, l, &r); err != nil {
				return nil, err
			}
		}
		rows = append(rows, r)
		if r.fails() != "" {
			break
		}
	}
	return rows, nil
}

func (t *Topology) ping(ctx context.Context, l *netlab.Lab, way [2]string) (pingRow, error) {
	r := pingRow{from: way[0], to: way[1]}
	for i, a := range t.container(way[1]).addrs() {
		r.dst[i] = a.Addr()
	}
	from, err := l.Host(way[0])
	if err != nil {
		return r, err
	}
	for i, result := range []*netlab.PingResult{&r.v4, &r.v6} {
		if !r.dst[i].IsValid() {
			continue
		}
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		if *result, err = netlab.Ping(from, r.dst[i], netlab.PingOptions{Count: pings}); err != nil {
			return r, fmt.Errorf("ping %s from %s: %w", r.dst[i], way[0], err)
		}
	}
	return r, nil
}

// stream sends the TCP streams of the row. What becomes of one is in the row.
func (t *Topology) stream(ctx context.Context, l *netlab.Lab, r *pingRow) error {
	from, err := l.Host(r.from)
	if err != nil {
		return err
	}
	to, err := l.Host(r.to)
	if err != nil {
		return err
	}
	for i, dst := range r.dst {
		if !dst.IsValid() {
			continue
		}
		limited, cancel := context.WithTimeoutCause(ctx, streamLimit, fmt.Errorf("not done within %v", streamLimit))
		// From any address: a host has one that the route chooses.
		source := netip.IPv4Unspecified()
		if dst.Is6() {
			source = netip.IPv6Unspecified()
		}
		s := &r.tcp[i]
		s.TCPResult, s.err = traffic.TCP(limited, traffic.End{Host: from, Addr: source}, traffic.End{Host: to, Addr: dst},
			traffic.TCPOptions{Bytes: streamBytes, Checked: true})
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// fails says what of the row did not come about, "" when all did.
func (r pingRow) fails() string {
	for i, dst := range r.dst {
		if dst.IsValid() && []netlab.PingResult{r.v4, r.v6}[i].Received == 0 {
			return fmt.Sprintf("nothing answers the ping from %s to %s (%s)", r.from, r.to, dst)
		}
	}
	for i, s := range r.tcp {
		if s.err != nil {
			return fmt.Sprintf("the TCP stream from %s to %s (%s) failed: %v", r.from, r.to, r.dst[i], s.err)
		}
	}
	return ""
}

// report is all that Up prints of a lab that stands.
type report struct {
	topology *Topology
	peer     Peer
	several  bool // labs are up: commands must name this one
	hosts    []hostView
	configs  []configFile
	pings    []pingRow
	carried  []carried
	learned  []learned
	routes   []hostRoutes
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

// configFile is what overtap in a host runs with.
type configFile struct{ host, path, text string }

// report looks at the lab from inside.
func (t *Topology) report(ctx context.Context, l *netlab.Lab, s state, rows []pingRow) (*report, error) {
	r := &report{topology: t, peer: s.Peer, pings: rows, owners: map[encap.MAC]string{}}
	for _, spec := range t.hosts {
		h, err := l.Host(spec.name)
		if err != nil {
			return nil, err
		}
		v, err := r.view(l, h, spec)
		if err != nil {
			return nil, err
		}
		r.hosts = append(r.hosts, v)
		look := r.lookKernel
		if spec.overtapIn(s.Peer) {
			look = r.lookOvertap
		}
		if err := look(ctx, h, spec); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *report) lookOvertap(ctx context.Context, h *netlab.Host, spec host) error {
	path := r.topology.config(spec.name)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	r.configs = append(r.configs, configFile{spec.name, path, string(text)})
	routes, err := overtapRoutes(h)
	if err != nil {
		return err
	}
	r.routes = append(r.routes, hostRoutes{spec.name, routes})
	c := control.NewClient(r.topology.socket(spec.name))
	stats, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	r.carried = append(r.carried, carried{spec.name, stats})
	entries, err := c.FDB(ctx, "")
	if err != nil {
		return err
	}
	known := learned{host: spec.name, by: "overtap"}
	for _, e := range entries {
		known.entries = append(known.entries, binding{e.MAC, e.Peer})
	}
	r.learned = append(r.learned, known)
	return nil
}

func (r *report) lookKernel(_ context.Context, h *netlab.Host, spec host) error {
	entries, err := h.KernelFDB(spec.kernel.vxlan.Name)
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

// fails says what the lab failed to prove, "" when it stands.
func (r *report) fails() string {
	for _, row := range r.pings {
		if s := row.fails(); s != "" {
			return s
		}
	}
	return ""
}
