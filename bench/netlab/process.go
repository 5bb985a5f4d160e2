package netlab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// How long the processes of a lab have to end after SIGTERM, and to vanish
// after SIGKILL.
const (
	termGrace = 5 * time.Second
	killGrace = 2 * time.Second
)

// Processes returns the ids of the processes whose main thread is in the
// host's namespace, without the calling process.
func (h *Host) Processes() ([]int, error) {
	var ids []int
	err := eachProcess(func(id int, ns os.FileInfo) {
		if own, err := h.ns.Stat(); err == nil && os.SameFile(own, ns) {
			ids = append(ids, id)
		}
	})
	return ids, err
}

// endProcesses ends what runs in the named namespaces: first by SIGTERM, so
// that each may clean up, then by SIGKILL.
func (l *Lab) endProcesses(hosts []string) error {
	var inside []os.FileInfo
	for _, name := range hosts {
		if ns, err := os.Stat(filepath.Join(runDir, l.namespace(name))); err == nil {
			inside = append(inside, ns)
		}
	}
	for _, step := range []struct {
		sig   syscall.Signal
		grace time.Duration
	}{{syscall.SIGTERM, termGrace}, {syscall.SIGKILL, killGrace}} {
		deadline := time.Now().Add(step.grace)
		signalled := map[int]bool{}
		for {
			// Looked up again each round: an id may belong to another by now.
			var left []int
			err := eachProcess(func(id int, ns os.FileInfo) {
				for _, in := range inside {
					if os.SameFile(in, ns) {
						left = append(left, id)
						return
					}
				}
			})
			if err != nil {
				return err
			}
			if len(left) == 0 {
				return nil
			}
			for _, id := range left {
				if signalled[id] {
					continue
				}
				signalled[id] = true
				if err := syscall.Kill(id, step.sig); err != nil && !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("end process %d: %w", id, err)
				}
			}
			if time.Now().After(deadline) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return errors.New("processes are left inside that SIGKILL did not end")
}

// eachProcess calls f with every process of the machine but this one, and the
// identity of its network namespace. Zombies have none and are left out.
func eachProcess(f func(id int, ns os.FileInfo)) error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range procs {
		id, err := strconv.Atoi(p.Name())
		if err != nil || id == os.Getpid() {
			continue
		}
		if ns, err := os.Stat(filepath.Join("/proc", p.Name(), "ns/net")); err == nil {
			f(id, ns)
		}
	}
	return nil
}
