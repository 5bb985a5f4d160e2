package netlab

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// SNMP returns the counters of the host's stack (/proc/net/snmp and snmp6) as
// `nstat` names them: TcpRetransSegs, UdpInCsumErrors, Udp6InCsumErrors.
func (h *Host) SNMP() (map[string]uint64, error) {
	var v4, v6 []byte
	err := h.Do(func() (err error) {
		if v4, err = os.ReadFile("/proc/thread-self/net/snmp"); err != nil {
			return err
		}
		if v6, err = os.ReadFile("/proc/thread-self/net/snmp6"); os.IsNotExist(err) {
			return nil // a kernel without IPv6
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: read the stack's counters: %w", h.name, err)
	}
	counters := map[string]uint64{}
	if err := parseSNMP(counters, string(v4), string(v6)); err != nil {
		return nil, fmt.Errorf("host %s: read the stack's counters: %w", h.name, err)
	}
	return counters, nil
}

// parseSNMP reads /proc/net/snmp, which has a line of names before each line of
// values, and snmp6, which has a line for each counter.
func parseSNMP(counters map[string]uint64, snmp, snmp6 string) error {
	lines := strings.Split(strings.TrimSpace(snmp), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) == 0 || len(names) != len(values) || names[0] != values[0] {
			return fmt.Errorf("/proc/net/snmp: %q and %q do not match", lines[i], lines[i+1])
		}
		group := strings.TrimSuffix(names[0], ":")
		for k := 1; k < len(names); k++ {
			// Of all only TcpMaxConn may be negative, and it counts nothing.
			if n, err := strconv.ParseUint(values[k], 10, 64); err == nil {
				counters[group+names[k]] = n
			}
		}
	}
	for line := range strings.Lines(snmp6) {
		f := strings.Fields(line)
		if len(f) != 2 {
			return fmt.Errorf("/proc/net/snmp6: %q is not understood", line)
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/net/snmp6: %q: %w", line, err)
		}
		counters[f[0]] = n
	}
	return nil
}
