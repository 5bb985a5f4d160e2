// Package doctor looks over a host: whether it has what overtap needs, and what on
// it may swallow frames. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/control"
	"overtap/cmd/internal/host"
	"overtap/encap"
)

// Level says how grave a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // may cost throughput, or traffic in some cases
	Fail Level = "fail" // nothing, or something that is configured, will not work
)

// Finding is what one check came to.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // what to do
}

// Subject is what is looked over.
type Subject struct {
	Config *config.Config // nil = the host alone
	// Status asks the daemon; its error says that none runs.
	Status func(context.Context) (control.Status, error)
}

// Run looks over the host by all checks, in an order that is always the same. It
// must run in the network namespace of the daemon, on the thread that calls it.
func Run(ctx context.Context, s Subject) []Finding {
	var all []Finding
	add := func(check string, level Level, remedy, format string, args ...any) {
		all = append(all, Finding{check, level, fmt.Sprintf(format, args...), remedy})
	}
	status, err := s.Status(ctx)
	runs := err == nil
	tun(add)
	capabilities(add, s.Config)
	kernel(add)
	buffers(add)
	if s.Config != nil {
		for _, w := range s.Config.Warnings {
			add("configuration", Warn, "", "%v", w)
		}
		hostFor(add, s.Config, runs)
		forwarding(add, s.Config)
		peers(ctx, add, s.Config)
	}
	bridgeNetfilter(add, s.Config)
	daemon(add, status, err)
	return all
}

// Failed reports whether one of the findings is a failure.
func Failed(all []Finding) bool {
	return slices.ContainsFunc(all, func(f Finding) bool { return f.Level == Fail })
}

// report takes one finding.
type report func(check string, level Level, remedy, format string, args ...any)

// hostFor asks what a start would ask of the host. While the daemon runs, names
// and ports that it has are no obstacle, so that only the underlay is looked at.
func hostFor(add report, c *config.Config, runs bool) {
	h, err := host.New(c.Underlay.Address, slog.New(slog.DiscardHandler))
	if err != nil {
		add("host", Fail, "run it as root, on the host itself", "%v", err)
		return
	}
	defer h.Close()
	u, err := h.Underlay(c.Underlay.Address, c.Underlay.Device, c.Destinations()...)
	if u.Guessed {
		u.MTU = max(u.MTU, c.LeastUnderlay())
	}
	if err != nil {
		add("underlay", Fail, "correct [underlay], or give the host that address", "%v", err)
		return
	}
	add("underlay", OK, "", "%s is on %s, MTU %d", c.Underlay.Address, u.Name, u.MTU)
	if !u.Up {
		add("underlay", Fail, "ip link set "+u.Name+" up", "%s is down", u.Name)
	}
	mtu(add, c, u.MTU)
	reversePath(add, h, c, u.Name)
	if runs {
		return // it reports the rest itself
	}
	around(add, h, c, u.MTU)
	plan := c.Plan()
	obstacles := flatten(h.Preflight(plan))
	for _, err := range obstacles {
		add("start", Fail, "", "%v", err)
	}
	if len(obstacles) == 0 {
		add("start", OK, "", "names, bridges and UDP ports %v are free", plan.Ports)
	}
}

// around looks at the links that were there before the daemon.
func around(add report, h *host.Host, c *config.Config, underlay encap.UnderlayMTU) {
	s, err := h.Surroundings()
	if err != nil {
		add("links", Warn, "", "%v", err)
		return
	}
	if len(c.IPIP) > 0 && len(s.IPIP) > 0 {
		add("ip-in-ip", Warn, s.IPIPRemedy(), "the kernel has IP-in-IP too (%v): it takes the tunnels' packets a second time", s.IPIP)
	}
	for _, port := range c.Ports() {
		for _, text := range s.Clashes(port) {
			add("port", Warn, "", "%s", text)
		}
	}
	for _, n := range c.Plan().Networks {
		if text := host.Advertisements(n); text != "" {
			add("router advertisements", Warn, "", "%s", text)
		}
		if n.MTU, err = c.OverlayMTU(n.Name, underlay); err != nil || n.Bridge == "" {
			continue // mtu has said so
		}
		for _, text := range s.MTUs(n, nil, nil) {
			add("mtu", Warn, "", "%s", text)
		}
	}
}

// flatten are the errors that were joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, flatten(one)...)
	}
	return all
}

// mtu compares the networks' MTUs with what the underlay carries.
func mtu(add report, c *config.Config, underlay encap.UnderlayMTU) {
	if _, err := c.Desired(underlay); err != nil {
		add("mtu", Fail, "lower mtu, or raise the underlay's", "%v", err)
		return
	}
	for i := range c.VXLAN {
		name := c.VXLAN[i].Name
		if fits, err := c.OverlayMTU(name, underlay); err == nil {
			add("mtu", OK, "", "network %s: containers may have an MTU of %d", name, fits)
		}
	}
	for i := range c.IPIP {
		name := c.IPIP[i].Name
		if fits, err := c.OverlayMTU(name, underlay); err == nil {
			add("mtu", OK, "", "tunnel %s: an MTU of %d", name, fits)
		}
	}
}

// daemon reports what the running one says of itself.
func daemon(add report, s control.Status, err error) {
	if err != nil {
		remedy := ""
		if errors.Is(err, control.ErrNoDaemon) {
			remedy = "overtap run --config FILE"
		}
		add("daemon", Warn, remedy, "%v", err)
		return
	}
	for _, p := range s.Problems {
		add("daemon", Fail, "", "%s", p)
	}
	for _, w := range s.Warnings {
		add("daemon", Warn, "", "%s", w)
	}
	if !s.Uplink.Active && s.Uplink.Reason != "" { // no reason: it waits for the underlay
		add("daemon", Warn, "docs/performance.md", "GSO packets are cut in user space: %s", s.Uplink.Reason)
	}
	if s.Ready && len(s.Problems) == 0 {
		add("daemon", OK, "", "it runs as PID %d and is ready", s.PID)
	}
}
