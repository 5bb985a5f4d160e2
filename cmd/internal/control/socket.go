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
	made []string // the directories, the innermost first
	left []string // those that Own will make ours
}

// Leave has Remove do nothing: another daemon listens on the socket by now.
func (l *Listener) Leave() { l.path, l.made = "", nil }

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

// Inherit goes on listening on the socket f of another daemon, which made these
// directories for it; they and the socket file are the other's until Own. It closes f.
func Inherit(f *os.File, made []string) (*Listener, error) {
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
func Listen(path string) (*Listener, error) {
	if err := CheckFree(path); err != nil {
		return nil, err
	}
	l := &Listener{path: path}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		l.made = append(l.made, dir)
	}
	if len(l.made) > 0 {
		if err := os.MkdirAll(l.made[0], 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("making the control socket's directory: %w: make it, or set control.socket to another path", err), l.removeDirs())
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("removing the stale control socket: %w", err), l.removeDirs())
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// Before bind: unix_bind_bsd gives the file the socket's own mode, so
		// at no moment does anybody else get in.
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	var err error
	if l.Listener, err = lc.Listen(context.Background(), "unix", path); err != nil {
		return nil, errors.Join(fmt.Errorf("listening on the control socket: %w: set control.socket to another path", err), l.removeDirs())
	}
	if u, ok := l.Listener.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return l, nil
}

// Close stops listening.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// Remove removes the socket file and the directories.
func (l *Listener) Remove() error {
	if l.path == "" {
		return nil
	}
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	l.path = ""
	return errors.Join(err, l.removeDirs())
}

func (l *Listener) removeDirs() error {
	for _, dir := range l.made {
		err := os.Remove(dir)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, unix.ENOTEMPTY):
			return nil // somebody else's by now
		default:
			return err
		}
	}
	return nil
}

// ErrAnswered says that somebody listens on a socket.
var ErrAnswered = errors.New("another overtap daemon answers")

// CheckFree reports whether Listen can have the path: an error when a daemon
// answers there, or when there is something that is no socket.
func CheckFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
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
	}
	return fmt.Errorf("trying the control socket: %w", err)
}
