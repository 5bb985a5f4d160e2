// Package epoll is the Poller of Linux: epoll(7), and an eventfd that wakes it.
package epoll

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Poller implements netio.Poller.
type Poller struct {
	epoll, wake int
	events      [64]unix.EpollEvent
}

// New returns a Poller without file descriptors.
func New() (*Poller, error) {
	p := &Poller{epoll: -1, wake: -1}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create an epoll: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(p.epoll)
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	if err := p.Add(p.wake); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close implements netio.Poller.
func (p *Poller) Close() {
	unix.Close(p.epoll)
	unix.Close(p.wake)
}

// Add implements netio.Poller.
func (p *Poller) Add(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch file descriptor %d: %w", fd, err)
	}
	return nil
}

// Remove implements netio.Poller.
func (p *Poller) Remove(fd int) { _ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

// Wake implements netio.Poller.
func (p *Poller) Wake() {
	one := uint64(1)
	_, _ = unix.Write(p.wake, (*[8]byte)(unsafe.Pointer(&one))[:])
}

// Wait implements netio.Poller.
func (p *Poller) Wait(ready []int32) int {
	n, err := unix.EpollWait(p.epoll, p.events[:min(len(ready), len(p.events))], -1)
	if err != nil {
		return 0 // EINTR: nothing else happens to a valid epoll
	}
	count := 0
	for i := range p.events[:n] {
		fd := p.events[i].Fd
		if int(fd) == p.wake {
			var drain [8]byte
			_, _ = unix.Read(p.wake, drain[:])
			continue
		}
		ready[count] = fd
		count++
	}
	return count
}

// Pin implements netio.Poller. With another number of workers than of CPUs the
// scheduler decides.
func (p *Poller) Pin(i, workers int) {
	var may, one unix.CPUSet
	if unix.SchedGetaffinity(0, &may) != nil || may.Count() != workers {
		return
	}
	for cpu, seen := 0, 0; ; cpu++ {
		if !may.IsSet(cpu) {
			continue
		}
		if seen == i%workers {
			one.Set(cpu)
			_ = unix.SchedSetaffinity(0, &one) // else it wanders
			return
		}
		seen++
	}
}
