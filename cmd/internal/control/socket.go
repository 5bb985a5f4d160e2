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

// Listener is the daemon's unix socket. Close removes the socket file, and the
// directory when Listen made it and nothing else is in it.
type Listener struct {
	net.Listener
	madeDir string
}

// Listen creates the socket at path with mode 0600, in a directory that is made
// with mode 0755 when missing. The socket file of a daemon that died is
// replaced; one that still answers is an error.
func Listen(path string) (*Listener, error) {
	if err := CheckFree(path); err != nil {
		return nil, err
	}
	l := &Listener{}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("making the control socket's directory: %w", err)
		}
		l.madeDir = dir
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("removing the stale control socket: %w", err), l.removeDir())
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
		return nil, errors.Join(fmt.Errorf("listening on the control socket: %w", err), l.removeDir())
	}
	return l, nil
}

// Close stops listening and removes the socket file.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, l.removeDir())
}

func (l *Listener) removeDir() error {
	if l.madeDir == "" {
		return nil
	}
	err := os.Remove(l.madeDir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else's by now
	}
	return err
}

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
		return fmt.Errorf("another overtap daemon answers at %s: stop it, or set control.socket to another path", path)
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("trying the control socket: %w", err)
}
