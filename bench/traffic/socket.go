package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// tick is how long a blocked call sleeps at most before it looks whether it
// must stop.
const beat = 50 * time.Millisecond

// sock is a blocking socket with a receive and a send timeout of one tick.
type sock int

// open makes a socket of the end's family inside its host's namespace.
func (e End) open(kind int) (sock, error) {
	family := unix.AF_INET
	if e.Addr.Is6() {
		family = unix.AF_INET6
	}
	fd := -1
	err := e.Host.Do(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("host %s: open a socket: %w", e.Host.Name(), err)
	}
	s := sock(fd)
	if err := s.setTimeouts(); err != nil {
		s.close()
		return -1, err
	}
	return s, nil
}

func (s sock) setTimeouts() error {
	tv := unix.NsecToTimeval(beat.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, opt, &tv); err != nil {
			return fmt.Errorf("set a socket's timeout: %w", err)
		}
	}
	return nil
}

func (s sock) close() { unix.Close(int(s)) }

// set sets an integer option.
func (s sock) set(level, opt, value int) error {
	if err := unix.SetsockoptInt(int(s), level, opt, value); err != nil {
		return fmt.Errorf("set socket option %d of level %d to %d: %w", opt, level, value, err)
	}
	return nil
}

// bind binds to the address and returns the port, which the kernel chooses for
// port 0.
func (s sock) bind(a netip.Addr, port uint16) (uint16, error) {
	if err := unix.Bind(int(s), sockaddr(netip.AddrPortFrom(a, port))); err != nil {
		return 0, fmt.Errorf("bind to %v port %d: %w", a, port, err)
	}
	got, err := unix.Getsockname(int(s))
	if err != nil {
		return 0, fmt.Errorf("read the bound address: %w", err)
	}
	switch got := got.(type) {
	case *unix.SockaddrInet4:
		return uint16(got.Port), nil
	case *unix.SockaddrInet6:
		return uint16(got.Port), nil
	}
	return 0, fmt.Errorf("bound to an address of type %T", got)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// again reports whether a call only timed out or was interrupted.
func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EINPROGRESS)
}

// unreachable reports whether a connected UDP socket's call failed by an answer
// from the path to an earlier datagram.
func unreachable(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}

// device returns the index of the device that has the end's address.
func (e End) device() (index int, err error) {
	err = e.Host.Do(func() error {
		devs, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, dev := range devs {
			addrs, err := dev.Addrs()
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == e.Addr {
					index = dev.Index
					return nil
				}
			}
		}
		return errors.New("no device has it")
	})
	if err != nil {
		return 0, fmt.Errorf("host %s: look for the device of address %v: %w", e.Host.Name(), e.Addr, err)
	}
	return index, nil
}

// expired returns the context's error, naming what was given up.
func expired(ctx context.Context, doing string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
