package dataplane

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// thread is one of a worker's two: it sleeps in epoll until a file descriptor
// of its own is readable and takes what waits to the other end. It is an OS
// thread, so that the runtime's poller and scheduler stay off the road.
type thread struct {
	epoll int
	wake  int // eventfd
	stop  atomic.Bool
	// epoch is the door's epoch that the thread has seen: whatever the door
	// unpublished before it is no longer in use here.
	epoch atomic.Uint64
	ports atomic.Pointer[map[int32]*port]
	done  chan struct{}
}

// port is a file descriptor that a thread reads: a device's queue with the
// network or tunnel it belongs to, or a wire with where it receives.
type port struct {
	fd   int
	of   *overlay // outbound: whose device it is
	net  *network // outbound: the TAP's
	tun  *tunnel  // outbound: the TUN's
	dev  Device
	wire Wire     // inbound: what to read; outbound: where to send
	at   endpoint // inbound
}

func newThread() (*thread, error) {
	t := &thread{epoll: -1, wake: -1, done: make(chan struct{})}
	t.ports.Store(&map[int32]*port{})
	var err error
	if t.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create an epoll: %w", err)
	}
	if t.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(t.epoll)
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	if err := t.watch(t.wake); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *thread) close() {
	unix.Close(t.epoll)
	unix.Close(t.wake)
}

func (t *thread) watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(t.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("watch file descriptor %d: %w", fd, err)
	}
	return nil
}

// unwatch stops events of fd; it may be called twice.
func (t *thread) unwatch(fd int) {
	_ = unix.EpollCtl(t.epoll, unix.EPOLL_CTL_DEL, fd, nil)
}

// add publishes the port, then watches it. The door calls it.
func (t *thread) add(p *port) error {
	t.publish(func(m map[int32]*port) { m[int32(p.fd)] = p })
	if err := t.watch(p.fd); err != nil {
		t.publish(func(m map[int32]*port) { delete(m, int32(p.fd)) })
		return err
	}
	return nil
}

func (t *thread) knows(fd int) bool { return (*t.ports.Load())[int32(fd)] != nil }

// remove unpublishes the port; it is in use until the thread passed an epoch.
func (t *thread) remove(fd int) {
	t.unwatch(fd)
	t.publish(func(m map[int32]*port) { delete(m, int32(fd)) })
}

func (t *thread) publish(change func(map[int32]*port)) {
	next := make(map[int32]*port)
	for fd, p := range *t.ports.Load() {
		next[fd] = p
	}
	change(next)
	t.ports.Store(&next)
}

func (t *thread) kick() {
	one := uint64(1)
	_, _ = unix.Write(t.wake, (*[8]byte)(unsafe.Pointer(&one))[:])
}

// pin keeps the calling thread to the CPU number i, counted around, of those
// that the process may use: a thread that wanders between CPUs has the devices'
// per-CPU backlogs reorder its flows. The threads of a worker keep to
// neighbours, so that a flow's data and its acknowledgements do not wait for
// each other. With another number of workers than of CPUs the scheduler decides.
func pin(i, workers int) {
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

// loop runs until stop is set: it waits, and calls run for each port that is
// readable. The epoch is taken over at the top, where nothing is in use. The
// thread is not given back to the runtime, which would go on with it pinned.
func (t *thread) loop(cpu, workers int, epoch *atomic.Uint64, run func(*port)) {
	runtime.LockOSThread()
	defer close(t.done)
	pin(cpu, workers)
	events := make([]unix.EpollEvent, 64)
	var drain [8]byte
	for {
		t.epoch.Store(epoch.Load())
		if t.stop.Load() {
			return
		}
		n, err := unix.EpollWait(t.epoll, events, -1)
		if err != nil {
			n = 0 // EINTR: nothing else can happen to a valid epoll
		}
		ports := *t.ports.Load()
		for _, ev := range events[:n] {
			if int(ev.Fd) == t.wake {
				_, _ = unix.Read(t.wake, drain[:])
				continue
			}
			if p := ports[ev.Fd]; p != nil {
				run(p)
			}
		}
	}
}
