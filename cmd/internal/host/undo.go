package host

import "slices"

// undoLog is the list of what Undo does, and the file that keeps it for a daemon
// after one that was killed.
type undoLog struct {
	steps []Step          // in the order things were made
	index map[stepKey]int // in steps
	journal
}

// put adds a step, or replaces the one with its key.
func (u *undoLog) put(s Step) {
	if i, ok := u.index[s.key()]; ok {
		u.steps[i] = s
		return
	}
	if u.index == nil {
		u.index = make(map[stepKey]int)
	}
	u.index[s.key()] = len(u.steps)
	u.steps = append(u.steps, s)
}

// get returns the step with that key, nil when there is none. It is valid until the
// next change.
func (u *undoLog) get(k stepKey) *Step {
	if i, ok := u.index[k]; ok {
		return &u.steps[i]
	}
	return nil
}

// remember puts a step on the list before what it undoes is made: a daemon that is
// killed in between leaves a step that finds nothing to undo. What is made again,
// because it was removed from outside, is undone once, as it is then.
func (u *undoLog) remember(s Step) {
	if old := u.get(s.key()); old != nil {
		if same(*old, s) && s.Moved == nil {
			old.inherited = false
			return
		}
		if s.Do == removeNeighbors && old.inherited {
			u.splitOff(*old, s)
		}
	}
	u.put(s)
	u.add(u.steps, s)
}

// splitOff leaves those inherited neighbours to Settle that now does not have.
func (u *undoLog) splitOff(old, now Step) {
	old.Neighbors = slices.DeleteFunc(slices.Clone(old.Neighbors), func(n Neighbor) bool { return slices.Contains(now.Neighbors, n) })
	if len(old.Neighbors) == 0 {
		return
	}
	old.Earlier = true
	u.put(old)
	u.add(u.steps, old)
}

// keep marks what the step is about as set up by this run: Settle leaves it alone,
// and Undo does it.
func (u *undoLog) keep(s Step) {
	if old := u.get(s.key()); old != nil {
		old.inherited = false
	}
}

// forget takes a step off the list, since what it is about was not made.
func (u *undoLog) forget(s Step) {
	k := s.key()
	u.drop(func(s *Step) bool { return s.key() == k })
}

// drop takes the steps that match off the list.
func (u *undoLog) drop(match func(*Step) bool) {
	before := len(u.steps)
	u.steps = slices.DeleteFunc(u.steps, func(s Step) bool { return match(&s) })
	if len(u.steps) == before {
		return
	}
	clear(u.index)
	for i := range u.steps {
		u.index[u.steps[i].key()] = i
	}
	u.rewrite(u.steps)
}

// clear empties the list. The journal's file stays as it is.
func (u *undoLog) clear() {
	u.steps = nil
	clear(u.index)
}

// inherit puts the steps of a run before on the list.
func (u *undoLog) inherit(steps []Step) {
	for _, s := range steps {
		s.inherited = true
		u.put(s)
	}
}
