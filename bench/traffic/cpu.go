package traffic

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// keepTo binds the calling goroutine to the CPU number i of those that the
// process may use, counted around, until release is called. On a machine whose
// CPUs cannot be told apart it binds it to none.
//
// Two hosts share no CPU: where both ends run on one, the scheduler would put
// them there side by side, and a packet's way would hold no wake-up at all.
func keepTo(i int) (release func()) {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if unix.SchedGetaffinity(0, &all) != nil || all.Count() == 0 {
		return runtime.UnlockOSThread
	}
	i %= all.Count()
	for cpu := 0; ; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		if i == 0 {
			one.Set(cpu)
			break
		}
		i--
	}
	if unix.SchedSetaffinity(0, &one) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.SchedSetaffinity(0, &all) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with its goroutine
	}
}
