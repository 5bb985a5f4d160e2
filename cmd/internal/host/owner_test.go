package host

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/netnstest"
)

// as runs f on a thread of another user, which ends with it.
func as(t *testing.T, uid int, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			done <- e
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// seqpacket returns a socket until the test's end.
func seqpacket(t *testing.T) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		t.Cleanup(func() { unix.Close(fd) })
	}
	return fd, err
}

// flood connects to the socket of the id until its queue is full.
func flood(t *testing.T, id string) error {
	for {
		fd, err := seqpacket(t)
		if err != nil {
			return err
		}
		switch err := unix.Connect(fd, livenessSocket(id)); err {
		case nil:
		case unix.EAGAIN:
			return nil
		default:
			return err
		}
	}
}

// A run lives as long as root or this user holds its name, also when others connect to it
// or holds it, and whether or not its queue is full.
func TestAlive(t *testing.T) {
	netnstest.Require(t)
	const nobody = 65534
	wants := func(id, when string, want bool) {
		t.Helper()
		if lives, err := Alive(id); err != nil || lives != want {
			t.Errorf("%s: alive %t, %v, want %t", when, lives, err, want)
		}
	}
	o, err := newOwner()
	if err != nil {
		t.Fatal(err)
	}
	wants(o.id, "it runs", true)
	as(t, nobody, func() error { return flood(t, o.id) })
	wants(o.id, "it runs, and another user fills its queue", true)
	o.close()
	wants(o.id, "it is gone", false)
	as(t, nobody, func() error {
		fd, err := seqpacket(t)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, livenessSocket(o.id)); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	})
	wants(o.id, "it is gone, and another user has its name", false)
	if lives, err := answers(o.id); err != nil || lives {
		t.Errorf("without UNIX_DIAG: alive %t, %v", lives, err)
	}
	as(t, nobody, func() error { return flood(t, o.id) })
	wants(o.id, "it is gone, and another user has its name and fills the queue", false)
	wants("", "the empty name", false)
	wants("never", "a name that was never there", false)
}
