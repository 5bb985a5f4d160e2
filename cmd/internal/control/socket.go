package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener is the daemon's unix socket. Close stops listening; Remove removes the
// socket file, and the directories that Listen made unless something else is in them:
// in between another daemon may take over, whose they are then.
type Listener struct {
	net.Listener
	path string   // what Remove removes; "" = nothing
	file *os.File // the file at path as it was bound (O_PATH); later there may be another's
	made []string // the directories, the innermost first
	left []string // those that Own will make ours
}

// Leave has Remove do nothing: another daemon listens on the socket by now.
func (l *Listener) Leave() {
	l.path, l.made = "", nil
	l.file.Close()
}

// Made returns the directories that Listen made.
func (l *Listener) Made() []string { return l.made }

// File returns the socket, to hand it over; it is the caller's.
func (l *Listener) File() (*os.File, error) {
	u, ok := l.Listener.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("a %T is no unix socket", l.Listener)
	}
	return u.File()
}

// ListenOn goes on listening on the socket f of another daemon, which made these
// directories for it; they and the socket file are the other's until Own. It closes f.
func ListenOn(f *os.File, made []string) (*Listener, error) {
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("going on with the control socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("going on with the control socket: it is a %T", l)
	}
	u.SetUnlinkOnClose(false)
	return &Listener{Listener: u, left: made}, nil
}

// Own has Remove remove what it would have of a socket that Listen made.
func (l *Listener) Own() {
	l.path = l.Addr().String()
	l.file, _ = pin(l.path) // nil: Remove leaves what is there
	l.made, l.left = l.left, nil
}

// TryListen returns the error that Listen would, and leaves nothing behind.
func TryListen(path string) error {
	l, err := Listen(path)
	if err != nil {
		return err
	}
	return errors.Join(l.Close(), l.Remove())
}

// Listen creates the socket at path with mode 0600; directories that are missing
// are made with mode 0755. The socket file of a daemon that died is
// replaced; one that still answers is an error.
//
// The path is locked from the look at what is there until the socket listens, so that
// of two daemons that start at once neither removes the other's.
func Listen(path string) (*Listener, error) {
	if err := CheckFree(path); err != nil {
		return nil, err
	}
	made, err := MakeDirs(path)
	if err != nil {
		return nil, err
	}
	l := &Listener{path: path, made: made}
	unlock, err := lockSocket(path)
	if err != nil {
		return nil, errors.Join(err, l.removeDirs())
	}
	err = l.listen(path)
	unlock()
	if err != nil {
		return nil, errors.Join(err, l.removeDirs())
	}
	return l, nil
}

// MakeDirs makes the directories for a socket that are missing, with mode 0755, and
// returns them, the innermost first.
func MakeDirs(path string) (made []string, err error) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, dir)
	}
	if len(made) > 0 {
		if err := os.MkdirAll(made[0], 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("making the control socket's directory: %w: make it, or set control.socket to another path", err), RemoveDirs(made))
		}
	}
	return made, nil
}

// AlsoRemove has Remove remove these directories too, which were made for the socket
// before Listen.
func (l *Listener) AlsoRemove(made []string) { l.made = append(l.made, made...) }

// listen replaces the socket file of a daemon that died; the caller has locked it.
func (l *Listener) listen(path string) error {
	if err := CheckFree(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the stale control socket: %w", err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Before bind: unix_bind_bsd gives the file the socket's own mode, so
		// at no moment does another process get in.
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	made, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return fmt.Errorf("listening on the control socket: %w: set control.socket to another path", err)
	}
	if u, ok := made.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	if l.file, err = pin(path); err != nil {
		return errors.Join(fmt.Errorf("looking at the control socket: %w", err), made.Close())
	}
	l.Listener = made
	return nil
}

// Close stops listening.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// Remove removes the socket file, unless it is another daemon's by now, and the
// directories.
func (l *Listener) Remove() error {
	if l.path == "" {
		return nil
	}
	path := l.path
	l.path = ""
	unlock, err := lockSocket(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l.removeDirs()
	}
	if err != nil {
		return err
	}
	now, err := os.Lstat(path)
	if bound, serr := l.file.Stat(); err == nil && serr == nil && os.SameFile(now, bound) {
		err = os.Remove(path)
	}
	l.file.Close()
	unlock()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.removeDirs())
}

// pin opens the file at path so that, as long as it is open, no other file has its
// inode number.
func pin(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// lockTimeout bounds the wait for another daemon that looks after its socket, which
// takes moments.
const lockTimeout = 5 * time.Second

// lockSocket keeps other daemons from the socket at path until the returned function
// is called: by a file beside it that no other user may open, and so may not lock.
func lockSocket(path string) (unlock func(), err error) {
	name := path + ".lock"
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err == nil {
			var held bool
			if held, err = lock(f); err == nil && held {
				return func() {
					_ = os.Remove(name) // who waits for it looks whether it is there still
					f.Close()
				}, nil
			}
			f.Close()
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("locking the control socket: %w", err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("locking the control socket: another process has locked %s for %v: end it", name, lockTimeout)
		}
	}
}

// lock locks the file f, and reports false while another process has it, or when
// another has removed it.
func lock(f *os.File) (held bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return false, fmt.Errorf("%s may be another user's work (owner %d, mode %#o): remove it", f.Name(), st.Uid, st.Mode&0o7777)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, err
	}
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(ours, now), nil
}

func (l *Listener) removeDirs() error { return RemoveDirs(l.made) }

// RemoveDirs removes directories that MakeDirs made, unless something is in them.
func RemoveDirs(made []string) error {
	for _, dir := range made {
		err := os.Remove(dir)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, unix.ENOTEMPTY):
			return nil // another process's by now
		case errors.Is(err, fs.ErrPermission):
			return nil // made by a daemon before, whose parent this one may not write to
		default:
			return err
		}
	}
	return nil
}

// ErrAnswered says that a process listens on a socket.
var ErrAnswered = errors.New("another overtap daemon answers")

// CheckFree reports whether Listen can have the path: an error when a daemon
// answers there, or when there is something that is no socket.
func CheckFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return mayNotOpen(path)
	case err != nil:
		return fmt.Errorf("looking for the control socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is no socket: remove it, or set control.socket to another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("%w at %s: stop it, or set control.socket to another path", ErrAnswered, path)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return mayNotOpen(path)
	}
	return fmt.Errorf("trying the control socket: %w", err)
}
