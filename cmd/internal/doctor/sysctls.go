package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/host"
	"overtap/dataplane"
)

// reversePath looks whether the kernel drops what comes from a peer by another
// device than the route to it leaves by. Of the values for all devices and for the
// underlay's the greater counts (Documentation/networking/ip-sysctl.rst, rp_filter);
// IPv6 has none.
func reversePath(add report, h *host.Host, c *config.Config, device string) {
	const check = "rp_filter"
	if !c.Underlay.Address.Is4() {
		return
	}
	value := 0
	for _, of := range []string{"all", device} {
		n, err := strconv.Atoi(sysctl("net/ipv4/conf/" + of + "/rp_filter"))
		if err != nil {
			add(check, Warn, "", "reading it for %s: %v", of, err)
			return
		}
		value = max(value, n)
	}
	remedy := "sysctl -w net/ipv4/conf/" + device + "/rp_filter=2"
	switch value {
	case 0:
		add(check, OK, "", "off for %s", device)
		return
	case 2:
		add(check, OK, "", "loose for %s: it drops only what comes from where no route leads", device)
		return
	}
	var elsewhere []string
	for _, p := range peersOf(c) {
		by, err := h.LeavesBy(c.Underlay.Address, p.address)
		if err == nil && len(by) > 0 && !slices.Contains(by, device) {
			elsewhere = append(elsewhere, fmt.Sprintf("%s (%s)", p.address, strings.Join(by, ", ")))
		}
	}
	if len(elsewhere) > 0 {
		add(check, Warn, remedy, "strict for %s, by which no route leads to %s: what comes from there by %s is dropped", device, host.Some(elsewhere), device)
		return
	}
	add(check, OK, "", "strict for %s, by which all peers are reached; for a device that their packets come in by otherwise: sysctl -w net/ipv4/conf/DEVICE/rp_filter=2", device)
}

// buffers looks whether sockets get the buffers that the daemon asks for: any size
// with CAP_NET_ADMIN, else as much as the kernel's bounds allow (socket(7)).
func buffers(add report) {
	const check = "socket buffers"
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		add(check, Warn, "", "opening a socket: %v", err)
		return
	}
	defer unix.Close(fd)
	sound := true
	for _, b := range []struct {
		force, set int
		key        string
	}{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, "rmem_max"},
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, "wmem_max"},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.force, dataplane.SocketBuffer) == nil {
			continue
		}
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.set, dataplane.SocketBuffer)
		got := 0
		if err == nil {
			got, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, b.set)
			got /= 2 // the kernel doubles what is set, for its own overhead
		}
		switch {
		case err != nil:
			sound = false
			add(check, Warn, "", "asking for a buffer: %v", err)
		case got < dataplane.SocketBuffer:
			sound = false
			add(check, Warn, fmt.Sprintf("sysctl -w net.core.%s=%d, or CAP_NET_ADMIN", b.key, dataplane.SocketBuffer),
				"%d of %d bytes are granted: net.core.%s bounds them without CAP_NET_ADMIN", got, dataplane.SocketBuffer, b.key)
		}
	}
	if sound {
		add(check, OK, "", "the %d bytes that the daemon asks for are granted", dataplane.SocketBuffer)
	}
}
