package uplink

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// watch calls a function whenever the kernel notifies of a change by netlink(7), and
// has a socket for questions.
type watch struct {
	events int // subscribed, non-blocking; -1 = none
	ask    int // for questions
	stop   int // eventfd
	done   sync.WaitGroup
}

// openWatch opens the sockets of a protocol, the first subscribed to the multicast
// groups of the mask. The caller closes the watch, also after an error.
func openWatch(protocol int, groups uint32) (*watch, error) {
	w := &watch{events: -1, ask: -1, stop: -1}
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC
	var err error
	if w.events, err = unix.Socket(unix.AF_NETLINK, kind|unix.SOCK_NONBLOCK, protocol); err != nil {
		return w, err
	}
	if err := unix.Bind(w.events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return w, err
	}
	if w.ask, err = unix.Socket(unix.AF_NETLINK, kind, protocol); err != nil {
		return w, err
	}
	w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
	return w, err
}

// start calls changed after each change, until close. It sleeps in a thread of its own,
// so that the runtime's poller takes no part: the time in which a change is not yet
// known is that of a thread's wake-up.
func (w *watch) start(changed func()) {
	w.done.Go(func() {
		news := make([]byte, 1<<16)
		fds := []unix.PollFd{{Fd: int32(w.stop), Events: unix.POLLIN}, {Fd: int32(w.events), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); err != nil {
				continue // EINTR
			}
			if fds[0].Revents != 0 {
				return
			}
			for { // what it says does not matter, nor whether some was lost (ENOBUFS)
				if _, _, err := unix.Recvfrom(w.events, news, 0); errors.Is(err, unix.EAGAIN) {
					break
				}
			}
			changed()
		}
	})
}

// close ends it and waits for a call of changed to return.
func (w *watch) close() error {
	if w.stop >= 0 {
		_, _ = unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 1})
	}
	w.done.Wait()
	var errs []error
	for _, fd := range []int{w.stop, w.events, w.ask} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
