package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what the figures were taken on. The zero value of a field is that
// it is not known.
type Machine struct {
	Kernel  string `json:"kernel"` // uname -r
	Arch    string `json:"arch"`
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`        // that this process may run on
	Load    string `json:"load_average"` // of 1, 5 and 15 minutes before the run: what else the machine did
	Go      string `json:"go"`
	Overtap string `json:"overtap"` // `overtap version`; "" without the binary
}

// ThisMachine is what is known of this machine, and which version the binary has.
func ThisMachine(ctx context.Context, binary string) Machine {
	// What it could not find out is not known.
	m, _ := readMachine(ctx, binary)
	return m
}

// readMachine looks at this machine, and asks the binary for its version unless
// it is "".
func readMachine(ctx context.Context, binary string) (Machine, error) {
	m := Machine{Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("uname: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	// Neither is worth a failed run.
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = cpuModel(string(b))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) >= 3 {
			m.Load = strings.Join(f[:3], " ")
		}
	}
	if binary != "" {
		out, err := exec.CommandContext(ctx, binary, "version").Output()
		if err != nil {
			return m, fmt.Errorf("%s version: %w", binary, err)
		}
		m.Overtap = strings.TrimSpace(string(out))
	}
	return m, nil
}

// cpuModel returns the first CPU's name: "model name" on most architectures,
// "Model" or "Hardware" on some.
func cpuModel(cpuinfo string) string {
	for _, key := range []string{"model name", "Model", "Hardware", "cpu model"} {
		for line := range strings.Lines(cpuinfo) {
			name, value, ok := strings.Cut(line, ":")
			if ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
	}
	return ""
}
