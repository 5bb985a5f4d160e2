package dataplane

import (
	"runtime"
	"sync/atomic"

	"overtap/dataplane/netio"
)

// thread is one of a worker's two: it waits until one of its file descriptors is
// readable, and runs the path from there for all that waits. It is an OS thread, so
// that the runtime's poller and scheduler take no part.
type thread struct {
	netio.Poller
	stop atomic.Bool
	// epoch is the engine's epoch that the thread has seen: what control
	// unpublished before it is no longer in use here.
	epoch   atomic.Uint64
	targets atomic.Pointer[map[int32]*pollTarget]
	done    chan struct{}
}

// pollTarget is a file descriptor that a thread reads: a device's queue with the
// network or tunnel it belongs to, or a Conn with the endpoint it receives on.
type pollTarget struct {
	fd   int
	of   *netBase // outbound: whose device it is
	net  *network // outbound: the TAP's
	tun  *tunnel  // outbound: the TUN's
	dev  netio.Device
	conn netio.Conn // inbound: what to read; outbound: where to send
	at   endpoint   // inbound
}

func newThread(p netio.Poller) *thread {
	t := &thread{Poller: p, done: make(chan struct{})}
	t.targets.Store(&map[int32]*pollTarget{})
	return t
}

// add publishes the target, then waits for it. Control calls it.
func (t *thread) add(p *pollTarget) error {
	t.publish(func(m map[int32]*pollTarget) { m[int32(p.fd)] = p })
	if err := t.Add(p.fd); err != nil {
		t.publish(func(m map[int32]*pollTarget) { delete(m, int32(p.fd)) })
		return err
	}
	return nil
}

func (t *thread) knows(fd int) bool { return (*t.targets.Load())[int32(fd)] != nil }

// remove unpublishes the target, which is in use until the thread passed an epoch.
func (t *thread) remove(fd int) {
	t.Remove(fd)
	t.publish(func(m map[int32]*pollTarget) { delete(m, int32(fd)) })
}

func (t *thread) publish(change func(map[int32]*pollTarget)) {
	next := make(map[int32]*pollTarget)
	for fd, p := range *t.targets.Load() {
		next[fd] = p
	}
	change(next)
	t.targets.Store(&next)
}

// loop runs until stop is set: it waits, and calls run for each target that is
// readable. It takes over the epoch at the top, where nothing is in use. The threads
// of a worker are pinned to neighbouring CPUs, so that a flow's data and its
// acknowledgements do not wait for each other. The thread is not given back to the
// runtime, which would go on with it pinned.
func (t *thread) loop(cpu, workers int, epoch *atomic.Uint64, run func(*pollTarget)) {
	runtime.LockOSThread()
	defer close(t.done)
	t.Pin(cpu, workers)
	ready := make([]int32, 64)
	for {
		t.epoch.Store(epoch.Load())
		if t.stop.Load() {
			return
		}
		n := t.Wait(ready)
		targets := *t.targets.Load()
		for _, fd := range ready[:n] {
			if p := targets[fd]; p != nil {
				run(p)
			}
		}
	}
}
