package host

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
)

// A journal keeps what is to be undone in a file, for the run after one that was
// killed: marks on links say whose they are, but addresses, ports and
// routes that were put on what was found do not. It begins with a line about the
// run, and goes on with a line a step; of two of one name the later holds. A run
// writes a step down before it takes it.
type journal struct {
	head  journalHead
	log   *slog.Logger
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

// checkOwn is an error when another user than root and the daemon's own may
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

// bootID differs from boot to boot of this host.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// add writes one more step of all those that are to be undone.
func (j *journal) add(all []Step, s Step) {
	if j.file == nil || j.err != nil {
		return
	}
	if j.lines > 2*len(all)+1024 {
		j.rewrite(all)
		return
	}
	j.err = j.write(s)
	j.complain()
}

func (j *journal) write(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = j.file.Write(append(b, '\n'))
	}
	j.lines++
	return err
}

// rewrite makes the file hold the list as it stands, at once for a reader.
// One that cannot be kept is said once, and is no reason to stop.
func (j *journal) rewrite(all []Step) {
	if j.path == "" || j.err != nil {
		return
	}
	j.close()
	j.lines = 0
	if err := os.Remove(j.path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.err = err
		j.complain()
		return
	}
	f, err := os.OpenFile(j.path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		j.file = f
		err = j.write(j.head)
		for i := 0; i < len(all) && err == nil; i++ {
			err = j.write(all[i])
		}
		if err == nil {
			err = os.Rename(j.path+".new", j.path)
		}
	}
	j.err = err
	j.complain()
}

func (j *journal) complain() {
	if j.err != nil {
		j.log.Warn("what is to be undone at the end cannot be kept for a daemon after this one", "err", j.err)
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
