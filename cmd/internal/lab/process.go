package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// How long daemons have to end after SIGTERM, and to vanish after SIGKILL.
const (
	termGrace = 5 * time.Second
	killGrace = 2 * time.Second
)

// process is a daemon that Up started. Its id may belong to another by now: the
// time of its start distinguishes them.
type process struct {
	Host  string `json:"host"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, proc_pid_stat(5) starttime
}

func newProcess(host string, pid int) (process, error) {
	start, alive, err := startTime(pid)
	if err != nil {
		return process{}, err
	}
	if !alive {
		return process{}, fmt.Errorf("process %d ended at once", pid)
	}
	return process{host, pid, start}, nil
}

// alive reports whether it still runs; a zombie does not.
func (p process) alive() bool {
	start, alive, err := startTime(p.PID)
	return err == nil && alive && start == p.Start
}

// signal sends sig to this process and never to another of the same id: it takes
// a handle (pidfd) first and only then looks whose id it is.
func (p process) signal(sig syscall.Signal) error {
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	defer h.Release()
	if !p.alive() {
		return nil
	}
	if err := h.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end process %d of host %s: %w", p.PID, p.Host, err)
	}
	return nil
}

// endProcesses ends those that run: by SIGTERM, so that each may clean up, then
// by SIGKILL.
func endProcesses(ps []process) error {
	for _, step := range []struct {
		sig   syscall.Signal
		grace time.Duration
	}{{syscall.SIGTERM, termGrace}, {syscall.SIGKILL, killGrace}} {
		for _, p := range ps {
			if err := p.signal(step.sig); err != nil {
				return err
			}
		}
		for deadline := time.Now().Add(step.grace); ; time.Sleep(5 * time.Millisecond) {
			left := false
			for _, p := range ps {
				left = left || p.alive()
			}
			if !left {
				return nil
			}
			if time.Now().After(deadline) {
				break
			}
		}
	}
	return errors.New("daemons are left that SIGKILL did not end")
}

// startTime reads when the process began and whether it is alive.
func startTime(pid int) (start uint64, alive bool, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	// The second field is the program's name in brackets, with any characters;
	// the third is the state and the twenty-second the start.
	s := string(stat)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 20 {
		return 0, false, fmt.Errorf("/proc/%d/stat: %q is not understood", pid, s)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	return start, f[0] != "Z" && f[0] != "X", nil
}

// bootID differs from boot to boot of the machine: process ids and start
// times may repeat.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
