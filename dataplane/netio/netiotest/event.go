package netiotest

import (
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// event is an eventfd that is readable while raised.
type event struct {
	fd     int
	closed atomic.Bool
}

func newEvent(tb testing.TB) event {
	tb.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		tb.Fatalf("create an eventfd: %v", err)
	}
	return event{fd: fd}
}

func (e *event) raise() {
	one := uint64(1)
	_, _ = unix.Write(e.fd, (*[8]byte)(unsafe.Pointer(&one))[:])
}

func (e *event) lower() {
	var b [8]byte
	_, _ = unix.Read(e.fd, b[:])
}

// close returns EBADF when it was closed before.
func (e *event) close() error {
	if e.closed.Swap(true) {
		return unix.EBADF
	}
	return unix.Close(e.fd)
}

// poison overwrites memory whose borrower must not use it any more.
func poison(b []byte) {
	for i := range b {
		b[i] = 0xdb
	}
}

// one lets a single caller at a time in.
type one struct{ busy atomic.Bool }

func (o *one) enter(tb testing.TB, what string) {
	if o.busy.Swap(true) {
		tb.Errorf("two callers at once: %s", what)
	}
}

func (o *one) leave() { o.busy.Store(false) }
