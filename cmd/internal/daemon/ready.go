package daemon

import (
	"maps"
	"slices"
	"sync"
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

// blame notes a problem and reports whether it is new, or another than before.
func (r *readiness) blame(about, problem string) bool {
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
