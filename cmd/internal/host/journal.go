package host

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// A journal keeps what is to be undone in a file, for the run after one that was
// killed: links tell by their marks whose they are, but addresses, ports and
// routes that were put on what was found do not. It begins with a line about the
// run, and goes on with a line a step; of two of one name the later holds. A run
// writes a step down before it takes it.
type journal struct {
	path  string // "" = there is none
	file  *os.File
	lines int
	err   error // why it is not kept any more
}

// journalHead is the first line.
type journalHead struct {
	Owner string `json:"overtap_run"`
	Boot  string `json:"boot"`
	// Before are the runs before it that died before they had settled.
	Before []string `json:"before,omitempty"`
}

// maxAncestors bounds how many of those are remembered.
const maxAncestors = 64

// maxJournal bounds what is read of a journal.
const maxJournal = 64 << 20

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
		h.ancestors = append(head.Before, head.Owner)
		h.ancestors = h.ancestors[max(0, len(h.ancestors)-maxAncestors):]
	}
	h.inherit(steps)
	h.journal.path = path
	h.journal.rewrite(h)
	return nil
}

// Succeed makes this run the one that takes the place of the run of that id, which
// lives and leaves these steps to it.
func (h *Host) Succeed(owner string, steps []Step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = owner
	h.inherit(steps)
}

// TakeJournal keeps the list in the file at path from now on, in the place of the
// run that this one succeeds.
func (h *Host) TakeJournal(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.journal.path = path
	h.journal.rewrite(h)
}

// Estate returns what a run that takes the place of this one needs to know: the id
// that links are marked with, and what is to be undone at the end.
func (h *Host) Estate() (owner string, steps []Step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.owner.id, append([]Step{}, h.undo...)
}

// Leave makes Undo do nothing from now on: another run has taken over all of it,
// the journal also.
func (h *Host) Leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.undo, h.routes = nil, nil
	clear(h.done)
	clear(h.networks)
	h.journal.close()
	h.journal = journal{}
}

// Abandon undoes what this run made beside what it inherited, which goes on being
// that of the run that lives.
func (h *Host) Abandon(steps []Step) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	keep := make(map[string]bool)
	for i := range steps {
		keep[steps[i].what()] = true
	}
	for i := range h.undo {
		if s := &h.undo[i]; s.inherited {
			keep[s.what()] = true
		}
	}
	err := h.undoOnly(func(what string) bool { return !keep[what] })
	h.undo = nil
	clear(h.done)
	return err
}

// inherit puts the steps of a run before on the list.
func (h *Host) inherit(steps []Step) {
	for _, s := range steps {
		s.inherited = true
		what := s.what()
		if i, ok := h.done[what]; ok {
			h.undo[i] = s
		} else {
			h.done[what] = len(h.undo)
			h.undo = append(h.undo, s)
		}
		if s.Do == giveBack && s.Loan != nil {
			h.loans[s.Link] = s.Loan
		}
	}
}

// readJournal returns what the journal at path says, of a run of this boot that is
// gone; else nothing.
func readJournal(path string) (head journalHead, steps []Step, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return head, nil, nil
	}
	if err != nil {
		return head, nil, fmt.Errorf("reading what a daemon before left: %w", err)
	}
	defer f.Close()
	if err := checkOwn(f); err != nil {
		return head, nil, fmt.Errorf("reading what a daemon before left: %w: remove it", err)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxJournal)
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &head) != nil || head.Boot != bootID() || head.Owner == "" {
		return journalHead{}, nil, nil // of another boot, or no journal
	}
	if lives, err := Alive(head.Owner); err != nil || lives {
		return journalHead{}, nil, err
	}
	for lines.Scan() {
		var s Step
		// A line that was being written when the run was killed is of a step
		// that was not taken.
		if json.Unmarshal(lines.Bytes(), &s) == nil {
			steps = append(steps, s)
		}
	}
	return head, steps, nil
}

// checkOwn is an error when somebody else than root and the daemon's own user may
// have written the file.
func checkOwn(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s may be another user's work (owner %d, mode %#o)", f.Name(), st.Uid, st.Mode&0o7777)
	}
	return nil
}

// bootID tells one boot of this host from another.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// add writes one more step, unless it stands there already.
func (j *journal) add(h *Host, s Step) {
	if j.file == nil || j.err != nil {
		return
	}
	if j.lines > 2*len(h.undo)+1024 {
		j.rewrite(h)
		return
	}
	j.err = j.write(s)
	j.complain(h)
}

func (j *journal) write(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = j.file.Write(append(b, '\n'))
	}
	j.lines++
	return err
}

// rewrite makes the file hold the list as it stands, at once for whoever reads it.
// One that cannot be kept is said once, and is no reason to stop.
func (j *journal) rewrite(h *Host) {
	if j.path == "" || j.err != nil {
		return
	}
	j.close()
	j.lines = 0
	if err := os.Remove(j.path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.err = err
		j.complain(h)
		return
	}
	f, err := os.OpenFile(j.path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		j.file = f
		err = j.write(journalHead{Owner: h.owner.id, Boot: bootID(), Before: h.ancestors})
		for i := 0; i < len(h.undo) && err == nil; i++ {
			err = j.write(h.undo[i])
		}
		if err == nil {
			err = os.Rename(j.path+".new", j.path)
		}
	}
	j.err = err
	j.complain(h)
}

func (j *journal) complain(h *Host) {
	if j.err != nil {
		h.log.Warn("what is to be undone at the end cannot be kept for a daemon after this one", "err", j.err)
	}
}

func (j *journal) close() {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
}

// remove ends the journal of a run that has undone all.
func (j *journal) remove() error {
	if j.path == "" {
		return nil
	}
	j.close()
	path := j.path
	j.path = ""
	for _, p := range []string{path, path + ".new"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the journal: %w", err)
		}
	}
	return nil
}

// same reports whether two steps are the same but for where they come from.
func same(a, b Step) bool {
	a.inherited, b.inherited = false, false
	return reflect.DeepEqual(a, b)
}
