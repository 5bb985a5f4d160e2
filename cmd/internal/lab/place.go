package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// runDir holds a directory for each lab.
const runDir = "/run/overtap/lab"

// binaryDirs are where a lab's binary may lie, best first. Debian mounts /run
// noexec. None is a directory that all may write to: root runs what is there.
var binaryDirs = []string{runDir, "/var/lib/overtap/lab"}

func (t *Topology) dir() string { return filepath.Join(runDir, t.Name) }

// file returns the path of a file of the lab.
func (t *Topology) file(name string) string { return filepath.Join(t.dir(), name) }

func (t *Topology) socket(host string) string { return t.file(host + ".sock") }
func (t *Topology) log(host string) string    { return t.file(host + ".log") }
func (t *Topology) config(host string) string { return t.file(host + ".toml") }

// installBinary copies the running program to where the lab's hosts can run it:
// `go run` deletes its own when it ends. It returns the copy's path.
func (t *Topology) installBinary() (string, error) {
	for _, parent := range binaryDirs {
		dir := filepath.Join(parent, t.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("make room for the lab's copy of overtap: %w", err)
		}
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			return "", fmt.Errorf("stat the file system of %s: %w", dir, err)
		}
		if s.Flags&unix.ST_NOEXEC != 0 {
			continue
		}
		path := filepath.Join(dir, "overtap")
		if err := copyProgram(path); err != nil {
			return "", fmt.Errorf("copy overtap to %s: %w", path, err)
		}
		return path, nil
	}
	return "", fmt.Errorf("no place for the lab's copy of overtap: %v are mounted noexec", binaryDirs)
}

func copyProgram(path string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// binary returns the path of the lab's copy of overtap, "" when there is none.
func (t *Topology) binary() string {
	for _, parent := range binaryDirs {
		path := filepath.Join(parent, t.Name, "overtap")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// hasFiles reports whether the lab has any directory.
func (t *Topology) hasFiles() bool {
	for _, parent := range binaryDirs {
		if _, err := os.Lstat(filepath.Join(parent, t.Name)); err == nil {
			return true
		}
	}
	return false
}

// removeFiles removes the lab's directories.
func (t *Topology) removeFiles() error {
	var errs []error
	for _, parent := range binaryDirs {
		errs = append(errs, os.RemoveAll(filepath.Join(parent, t.Name)))
	}
	return errors.Join(errs...)
}

// lock waits until no other process makes or removes a lab. The unlock function
// also removes the directories that nothing is in any more. Waiting is called
// once when it has to wait.
func lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	said := false
	for {
		f, err := tryLock()
		if err == nil {
			return func() {
				for _, dir := range binaryDirs {
					removeEmpty(dir)
				}
				f.Close()
			}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", runDir, err)
		}
		if !said {
			waiting()
			said = true
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return nil, context.Cause(ctx)
		}
	}
}

// tryLock locks the directory itself, which the kernel unlocks when the process
// dies. EWOULDBLOCK: another has the lock.
func tryLock() (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unix.EWOULDBLOCK // removed in between by an unlock
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	// The holder before may have removed the directory as empty.
	own, err := f.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = os.Stat(runDir); err == nil && os.SameFile(own, now) {
			return f, nil
		}
	}
	f.Close()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil, unix.EWOULDBLOCK
	}
	return nil, err
}

// removeEmpty removes overtap/lab and then overtap, unless something is in it.
func removeEmpty(dir string) {
	if os.Remove(dir) == nil {
		os.Remove(filepath.Dir(dir))
	}
}

// sleep waits and reports whether ctx still lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
