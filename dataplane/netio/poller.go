package netio

// Poller waits until file descriptors are readable. Wait and Pin belong to one thread;
// any goroutine may call the others.
type Poller interface {
	// Add waits for fd too, level-triggered.
	Add(fd int) error
	// Remove does so no more. It may be called twice.
	Remove(fd int)
	// Wait blocks until a file descriptor is readable or Wake was called. It stores
	// what is readable in ready and returns how many that are, possibly 0.
	Wait(ready []int32) int
	// Wake makes a Wait return, the running one or the next.
	Wake()
	// Pin keeps the calling thread to the CPU number i, counted around, of those
	// that the process may use, where each worker has one: the per-CPU backlogs of
	// devices reorder the flows of a thread that wanders between CPUs.
	Pin(i, workers int)
	Close()
}
