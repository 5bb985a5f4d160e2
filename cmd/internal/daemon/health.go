package daemon

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"overtap/cmd/internal/attach"
	"overtap/cmd/internal/firewall"
	"overtap/cmd/internal/host"
)

const (
	// filterEvery is how long the packet filter goes unlooked at: no event says that
	// its rules changed. Of the links events do; they are looked at once in slowest
	// all the same.
	filterEvery = 10 * time.Second
	// healthFresh is how old an answer of `status` may be.
	healthFresh = debounce
	// healthGrace is how long something that does not stop a network must last
	// before the log has it: a container's device is down for a moment when it is
	// made.
	healthGrace = time.Second
	// endedFor is how long status names a container that was attached and is gone.
	endedFor = 10 * time.Minute
	// maxEnded bounds those.
	maxEnded = 16
)

// health is what containers feel of the host, beside what is configured: see
// host.Health, package firewall and attach.Track.
type health struct {
	mu       sync.Mutex // held for a whole look
	at       time.Time  // of the last look
	linked   time.Time  // when the links were looked at
	links    []host.Finding
	filtered time.Time // when the packet filter was looked at
	blocks   []host.Finding
	rules    firewall.Watcher
	troubles map[string]*trouble // by what they are about
	ended    []ended
}

// occasion is why the host is looked at.
type occasion int

const (
	onTime  occasion = iota // nothing is known to have changed
	onEvent                 // of the kernel
	onAsk                   // someone wants to know
)

// trouble is a finding that stands.
type trouble struct {
	host.Finding
	since  time.Time
	logged bool
}

// ended is an attachment whose container, or device, is gone.
type ended struct {
	attach.Attachment
	at time.Time
}

// lookAtHealth looks at the host, logs what changed and has readiness know.
func (d *daemon) lookAtHealth(why occasion) {
	h := &d.health
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if why == onAsk && now.Sub(h.at) < healthFresh || d.yielded.Load() {
		return
	}
	h.at = now
	found, err := d.findings(now, why)
	if err != nil {
		d.limit.Warn("health", d.Log, "cannot look at the host's links", "err", err)
		return
	}
	if h.troubles == nil {
		h.troubles = make(map[string]*trouble)
	}
	still := make(map[string]bool)
	for _, f := range found {
		still[f.About] = true
		t := h.troubles[f.About]
		switch {
		case t == nil:
			t = &trouble{Finding: f, since: now}
			h.troubles[f.About] = t
		case t.Text != f.Text:
			t.Finding, t.logged = f, false
		}
		if f.Cut {
			d.ready.setProblem(healthProblem+f.About, f.Text)
		} else {
			d.ready.clear(healthProblem + f.About)
		}
		if !t.logged && (f.Cut || now.Sub(t.since) >= healthGrace) {
			t.logged = true
			d.limit.Warn(healthProblem+f.About, d.Log, f.Text)
		}
	}
	for about, t := range h.troubles {
		if still[about] {
			continue
		}
		delete(h.troubles, about)
		d.ready.clear(healthProblem + about)
		if t.logged {
			d.limit.Info(healthProblem+about, d.Log, about+": the problem is over", "after", now.Sub(t.since).Round(time.Second))
		}
	}
}

// healthProblem begins what readiness files findings under.
const healthProblem = "health: "

// findings are all that there are now. The caller holds the mutex of health.
func (d *daemon) findings(now time.Time, why occasion) ([]host.Finding, error) {
	h := &d.health
	if why != onTime || h.unsettled() || now.Sub(h.linked) >= slowest {
		links, err := d.linkFindings(now)
		if err != nil {
			return nil, err
		}
		h.links, h.linked = links, now
	}
	if why == onAsk || now.Sub(h.filtered) >= filterEvery {
		h.filtered = now
		if blocks, err := d.filterFindings(); err == nil {
			h.blocks = blocks
		} else { // what was found before stands: rules change while they are read
			d.Log.Debug("the packet filter cannot be looked at", "err", err)
		}
	}
	return slices.Concat(h.links, h.blocks), nil
}

// unsettled reports whether a look at the links is due soon: something stops a
// network, or is about to be logged.
func (h *health) unsettled() bool {
	for _, t := range h.troubles {
		if t.Cut || !t.logged {
			return true
		}
	}
	return false
}

// linkFindings are those of links and attachments.
func (d *daemon) linkFindings(now time.Time) ([]host.Finding, error) {
	attached, gone, err := d.attach.Track(d.overlays())
	if err != nil {
		return nil, err
	}
	d.noteEnded(attached, gone, now)
	all, err := d.host.Health(containers(attached))
	if err != nil {
		return nil, err
	}
	for _, a := range attached {
		if a.Bridge == "" && d.conf().Network(a.Network).Name == "" {
			all = append(all, host.Finding{About: fmt.Sprintf("%s on network %s", a, a.Network),
				Text: fmt.Sprintf("%s is attached to network %s, which is not configured: it is back once that is, or detach it with `overtap detach`", a, a.Network)})
		}
	}
	return all, nil
}

// containers are the attachments as package host knows them.
func containers(attached []attach.Attachment) []host.Container {
	all := make([]host.Container, 0, len(attached))
	for _, a := range attached {
		all = append(all, host.Container{Name: a.String(), Network: a.Network, Veth: a.Veth, MTU: a.MTU})
	}
	return all
}

// filterFindings finds the bridges of networks whose frames the packet filter drops. The
// caller holds the mutex of health.
func (d *daemon) filterFindings() ([]host.Finding, error) {
	networks := make(map[string][]string) // by bridge
	for _, n := range d.overlays() {
		if n.Bridge != "" {
			networks[n.Bridge] = append(networks[n.Bridge], n.Name)
		}
	}
	blocks, err := d.health.rules.Look(slices.Sorted(maps.Keys(networks)))
	var all []host.Finding
	for _, b := range blocks {
		about := "the firewall of " + b.Bridge
		if b.IPv6 {
			about += " for IPv6"
		}
		all = append(all, host.Finding{About: about, Text: fmt.Sprintf("network %s: %s", host.Some(networks[b.Bridge]), b)})
	}
	return all, err
}

// noteEnded logs the attachments that ended, and remembers them for status until
// they are attached again.
func (d *daemon) noteEnded(attached, gone []attach.Attachment, now time.Time) {
	h := &d.health
	for _, a := range gone {
		d.Log.Warn("a container that was attached is gone: attach it again when it is back", "network", a.Network, "target", a.Target,
			"ifname", a.IfName, "addresses", a.Addresses, "mac", a.MAC, "again", a.Again())
		h.ended = append(h.ended, ended{a, now})
	}
	h.ended = slices.DeleteFunc(h.ended, func(e ended) bool {
		again := slices.ContainsFunc(attached, func(a attach.Attachment) bool {
			return a.Network == e.Network && (a.Target == e.Target || a.MAC == e.MAC && a.MAC != 0)
		})
		return again || now.Sub(e.at) >= endedFor
	})
	if more := len(h.ended) - maxEnded; more > 0 {
		h.ended = h.ended[more:]
	}
}

// healthWarnings are the findings that stop no network, for status.
func (d *daemon) healthWarnings() []string {
	h := &d.health
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for _, about := range slices.Sorted(maps.Keys(h.troubles)) {
		if t := h.troubles[about]; !t.Cut {
			all = append(all, t.Text)
		}
	}
	for _, e := range h.ended {
		all = append(all, fmt.Sprintf("network %s: %s was attached and is gone, %s: attach it again when it is back: `%s`",
			e.Network, e.Attachment, ago(time.Since(e.at)), e.Again()))
	}
	return all
}

// nextHealth is when to look again without an event.
func (d *daemon) nextHealth() time.Time {
	h := &d.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unsettled() {
		return h.at.Add(healthGrace)
	}
	return h.filtered.Add(filterEvery)
}
