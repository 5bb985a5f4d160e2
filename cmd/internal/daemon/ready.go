package daemon

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"overtap/cmd/internal/host"
)

// readiness says whether all that the configuration asks for is in place, and
// what is not.
type readiness struct {
	mu       sync.Mutex
	started  bool
	problems map[string]string // by what they are about
}

// start begins to be ready; stop ends it for good.
func (r *readiness) start() { r.set(func() { r.started = true }) }
func (r *readiness) stop()  { r.set(func() { r.started = false }) }

func (r *readiness) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// setProblem notes a problem and reports whether it is new, or another than before.
func (r *readiness) setProblem(about, problem string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.problems == nil {
		r.problems = make(map[string]string)
	}
	was := r.problems[about]
	r.problems[about] = problem
	return was != problem
}

// clear forgets a problem and reports whether there was one.
func (r *readiness) clear(about string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, was := r.problems[about]
	delete(r.problems, about)
	return was
}

// of lists the problems of the network: with its device, its place on the host, or
// what carries it.
func (r *readiness) of(network string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	device, _ := deviceProblem(network)
	var all []string
	for _, about := range []string{device, networkProblem(network), healthProblem + host.AboutDevice(network)} {
		if problem, is := r.problems[about]; is {
			all = append(all, problem)
		}
	}
	return all
}

// networkProblem is what a network that is not in place on the host is filed under.
func networkProblem(network string) string { return "network " + network }

// Ready reports whether traffic flows as configured.
func (r *readiness) Ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started && len(r.problems) == 0
}

// Problems lists what is wrong, in a stable order: what was noted, and more.
func (r *readiness) Problems(more map[string]string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	problems := maps.Clone(more)
	maps.Copy(problems, r.problems)
	all := make([]string, 0, len(problems))
	for _, about := range slices.Sorted(maps.Keys(problems)) {
		all = append(all, problems[about])
	}
	return all
}

// announced is what was logged and sent to systemd of readiness.
type announced struct {
	mu     sync.Mutex
	ready  bool   // the log has "ready"
	status string // that systemd has
}

// sayReady logs "ready" once all is in place for the first time, and has systemd
// know of every change of it.
func (d *daemon) sayReady() {
	a := &d.announced
	a.mu.Lock()
	defer a.mu.Unlock()
	problems := d.problems()
	if !d.isReady() && len(problems) == 0 {
		return // it has not begun, or is about to end
	}
	status := "ready"
	if len(problems) > 0 {
		status = "not ready: " + strings.Join(problems, "; ")
	}
	if len(problems) == 0 && !a.ready {
		a.ready = true
		announce(d.Log, "ready",
			"version", d.Version,
			"underlay", d.conf().Underlay.Address,
			"networks", len(d.conf().VXLAN)+len(d.conf().IPIP),
			"socket", d.conf().Control.Socket)
	}
	// A daemon that is ready from its start need not notify systemd.
	if status != a.status && (a.status != "" || len(problems) > 0) {
		notify(d.Log, "STATUS="+strings.ReplaceAll(status, "\n", "; "))
	}
	a.status = status
}

// problems lists all that is wrong.
func (d *daemon) problems() []string {
	missing := make(map[string]string)
	for _, name := range lost(d.engine.get().Info()) {
		about, problem := deviceProblem(name)
		missing[about] = problem
	}
	return d.ready.Problems(missing)
}
