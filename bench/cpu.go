package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// userHZ is the unit of /proc's times per second: USER_HZ, which is 100 on every
// architecture that Go runs on.
const userHZ = 100

// machineTicks returns how long the CPUs have worked so far, in ticks and summed
// over all: the first line of /proc/stat without idle, iowait and steal. Guests'
// time is in user and nice already (kernel account_guest_time).
func machineTicks() (uint64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseMachineTicks(string(b))
}

func parseMachineTicks(stat string) (uint64, error) {
	line, _, _ := strings.Cut(stat, "\n")
	// cpu user nice system idle iowait irq softirq steal guest guest_nice
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: %q is not understood", line)
	}
	return sum(f[1], f[2], f[3], f[6], f[7])
}

// processTicks returns how long the process has worked so far, in ticks: user
// and system time of all its threads, also of those that ended.
func processTicks(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseProcessTicks(string(b))
}

func parseProcessTicks(stat string) (uint64, error) {
	// The second field is the program's name in brackets, with any characters;
	// utime and stime are the 14th and 15th.
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat: %q is not understood", stat)
	}
	return sum(f[11], f[12])
}

func sum(fields ...string) (total uint64, err error) {
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("a time in /proc: %w", err)
		}
		total += n
	}
	return total, nil
}

// resetPeakRSS has the process's peak start again (proc_pid_clear_refs(5)).
func resetPeakRSS(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// peakRSS returns the most memory that the process had resident, in bytes.
func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parsePeakRSS(string(b))
}

func parsePeakRSS(status string) (int64, error) {
	_, rest, ok := strings.Cut(status, "\nVmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	kib, isKB := strings.CutSuffix(strings.TrimSpace(line), " kB")
	n, err := strconv.ParseInt(kib, 10, 64)
	if !ok || !isKB || err != nil {
		return 0, fmt.Errorf("/proc/PID/status: no VmHWM that is understood: %q", line)
	}
	return n << 10, nil
}

// meter measures what a turn costs: begun before it, read after it.
type meter struct {
	bed     *Bed
	machine uint64
	daemons uint64
}

func startMeter(b *Bed) (*meter, error) {
	for _, d := range b.daemons {
		if err := resetPeakRSS(d.PID()); err != nil {
			return nil, fmt.Errorf("reset the daemon's peak of memory: %w", err)
		}
	}
	m := &meter{bed: b}
	var err error
	m.machine, m.daemons, err = m.now()
	return m, err
}

func (m *meter) now() (machine, daemons uint64, err error) {
	if machine, err = machineTicks(); err != nil {
		return 0, 0, err
	}
	for _, d := range m.bed.daemons {
		n, err := processTicks(d.PID())
		if err != nil {
			return 0, 0, err
		}
		daemons += n
	}
	return machine, daemons, nil
}

// read returns what it cost since the start.
func (m *meter) read() (c Cost, err error) {
	machine, daemons, err := m.now()
	if err != nil {
		return c, err
	}
	c.MachineSeconds = float64(machine-m.machine) / userHZ
	c.DaemonSeconds = float64(daemons-m.daemons) / userHZ
	for _, d := range m.bed.daemons {
		n, err := peakRSS(d.PID())
		if err != nil {
			return c, err
		}
		c.PeakRSS = max(c.PeakRSS, n)
	}
	return c, nil
}
