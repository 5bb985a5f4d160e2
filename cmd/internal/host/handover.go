package host

// KeepJournal reads what a run that was killed left to undo from the file at path,
// if there is one of this boot, and keeps this run's list there from now on. Settle
// removes what of it was not set up again by then.
func (h *Host) KeepJournal(path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	head, steps, err := readJournal(path)
	if err != nil {
		return err
	}
	if head.Owner != "" {
		before := append(head.Before, head.Owner)
		h.undo.head.Before = before[max(0, len(before)-maxAncestors):]
	}
	h.addInherited(steps)
	h.undo.path = path
	h.undo.rewrite(h.undo.steps)
	return nil
}

// TakeOver makes this run the one that takes the place of the run of that id, which
// lives and leaves these steps to it.
func (h *Host) TakeOver(owner string, steps []Step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = owner
	h.addInherited(steps)
}

// TakeJournal keeps the list in the file at path from now on, in the place of the
// run that this one succeeds.
func (h *Host) TakeJournal(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.undo.path = path
	h.undo.rewrite(h.undo.steps)
}

// HandoverState returns what a run that takes the place of this one needs to know: the id
// that links are marked with, and what is to be undone at the end.
func (h *Host) HandoverState() (owner string, steps []Step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.owner.id, append([]Step{}, h.undo.steps...)
}

// Leave makes Undo do nothing from now on: another run has taken over all of it,
// the journal also.
func (h *Host) Leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.undo.clear()
	h.routes = nil
	clear(h.networks)
	h.undo.close()
	h.undo.path = ""
}

// Abandon undoes what this run made beside what it inherited, which goes on being
// that of the run that lives.
func (h *Host) Abandon(steps []Step) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := make(map[stepKey]bool)
	for i := range steps {
		keep[steps[i].key()] = true
	}
	err := h.undoWhere(func(s *Step) bool { return !s.inherited && !keep[s.key()] })
	h.undo.clear()
	return err
}

// addInherited takes over the steps of a run before.
func (h *Host) addInherited(steps []Step) {
	h.undo.inherit(steps)
	for i := range steps {
		if s := &steps[i]; s.Do == restoreAddresses && s.Moved != nil {
			h.moved[s.Link] = s.Moved
		}
	}
}
