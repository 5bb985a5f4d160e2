package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// reservedPortsFile lists the ports that the administrator keeps for programs
// which name them (net.ipv4.ip_local_reserved_ports; for IPv6 too).
const reservedPortsFile = "/proc/sys/net/ipv4/ip_local_reserved_ports"

// portSet is a set of ports of the dynamic range.
type portSet [lastSourcePort - firstSourcePort + 1]bool

func (s *portSet) has(port uint16) bool {
	return port >= firstSourcePort && s[port-firstSourcePort]
}

// all reports whether no port of the dynamic range is left.
func (s *portSet) all() bool {
	for _, in := range s {
		if !in {
			return false
		}
	}
	return true
}

// reservedPorts returns the ports of the dynamic range that are reserved.
func reservedPorts() (*portSet, error) {
	text, err := os.ReadFile(reservedPortsFile)
	if errors.Is(err, os.ErrNotExist) {
		return new(portSet), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the reserved ports: %w", err)
	}
	s, err := parsePorts(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("read the reserved ports: %s: %w", reservedPortsFile, err)
	}
	if s.all() {
		return nil, fmt.Errorf("net.ipv4.ip_local_reserved_ports reserves every port from %d to %d: leave some of them for overtap",
			firstSourcePort, lastSourcePort)
	}
	return s, nil
}

// parsePorts reads a list as the kernel prints it: "50000-50010,51000"
// (proc_do_large_bitmap).
func parsePorts(list string) (*portSet, error) {
	s := new(portSet)
	if list == "" {
		return s, nil
	}
	for one := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(one, "-")
		if !isRange {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || from > to {
			return nil, fmt.Errorf("%q is no port and no range of ports", one)
		}
		for port := max(from, firstSourcePort); port <= to; port++ {
			s[port-firstSourcePort] = true
		}
	}
	return s, nil
}
