package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/host"
	"overtap/dataplane/netio"
)

// reversePath looks whether the kernel drops what comes from a peer by another
// device than the route to it leaves by, and whether it takes what cannot be from a
// peer: what comes with a peer's address by a device that is neither the underlay's
// nor a network's. Of the values for all devices and for one the greater counts
// (Documentation/networking/ip-sysctl.rst, rp_filter); IPv6 has none.
func reversePath(add report, h *host.Host, c *config.Config, device string) {
	const check = "rp_filter"
	by := make(map[string][]string) // peers, by the device that they are reached by
	for _, p := range peersOf(c) {
		devices, err := h.LeavesBy(c.Underlay.Address, p.address)
		if err != nil {
			continue // peers says so
		}
		for _, d := range devices {
			by[d] = append(by[d], p.address.String())
		}
	}
	strict := false
	if c.Underlay.Address.Is4() {
		value, err := rpFilter(device)
		if err != nil {
			add(check, Warn, "", "%v", err)
			return
		}
		strict = value == 1
	}
	if elsewhere := otherWays(by, device); strict && len(elsewhere) > 0 {
		add(check, Warn, "sysctl -w net/ipv4/conf/"+device+"/rp_filter=2",
			"strict for %s, by which no route leads to %s: what comes from there by %s is dropped", device, host.Some(elsewhere), device)
	} else if strict {
		add(check, OK, "", "strict for %s, by which all peers are reached; for a device that their packets come in by otherwise: sysctl -w net/ipv4/conf/DEVICE/rp_filter=2", device)
	}
	forgers(add, h, c, device, by)
}

// otherWays are the peers that are reached by other devices alone, with those.
func otherWays(by map[string][]string, device string) []string {
	devices := make(map[string][]string)
	for d, peers := range by {
		for _, p := range peers {
			devices[p] = append(devices[p], d)
		}
	}
	var all []string
	for p, d := range devices {
		if !slices.Contains(d, device) {
			slices.Sort(d)
			all = append(all, fmt.Sprintf("%s (%s)", p, strings.Join(d, ", ")))
		}
	}
	return all
}

// forgers finds the devices by which a container could send as a peer. What comes out of the
// networks the engine itself refuses.
func forgers(add report, h *host.Host, c *config.Config, device string, by map[string][]string) {
	const check = "rp_filter"
	if c.Underlay.Device != "" {
		add(check, OK, "", "underlay.device is set: what comes by another device than %s is not taken for a peer's", device)
		return
	}
	others, err := h.Bystanders(c.Plan().Networks)
	if err != nil {
		add(check, Warn, "", "%v", err)
		return
	}
	var open []string
	for _, d := range others {
		if len(by[d]) > 0 {
			continue // peers are there
		}
		value := 0
		if c.Underlay.Address.Is4() {
			if value, err = rpFilter(d); err != nil {
				add(check, Warn, "", "%v", err)
				continue
			}
		}
		if value != 1 {
			open = append(open, d)
		}
	}
	if len(open) == 0 {
		add(check, OK, "", "no device but the underlay's takes what is sent with a peer's address; what comes out of the networks is refused (from_overlay)")
		return
	}
	var remedies []string
	if d := onlyWay(by); d != "" {
		remedies = append(remedies, fmt.Sprintf("set underlay.device = %q", d))
	}
	// The greater of two values counts: under 2 for all devices none is strict.
	if c.Underlay.Address.Is4() && sysctl("net/ipv4/conf/all/rp_filter") != "2" {
		for _, d := range open[:min(len(open), 3)] {
			remedies = append(remedies, "sysctl -w net/ipv4/conf/"+d+"/rp_filter=1")
		}
	}
	how := "off or loose"
	if c.Underlay.Address.Is6() {
		how = "none for IPv6"
	}
	if len(remedies) == 0 {
		remedies = append(remedies, "drop there what has a peer's address as its source, by a rule of the firewall")
	}
	add(check, Warn, strings.Join(remedies, "; or "), "%s for %s: who is behind it can send to this host with a peer's address, and is taken for the peer", how, host.Some(open))
}

// onlyWay is the device by which all peers are reached, "" when there is not one.
func onlyWay(by map[string][]string) string {
	only := ""
	for d := range by {
		if only != "" {
			return ""
		}
		only = d
	}
	return only
}

// rpFilter is the value that holds for a device.
func rpFilter(device string) (int, error) {
	value := 0
	for _, of := range []string{"all", device} {
		n, err := strconv.Atoi(sysctl("net/ipv4/conf/" + of + "/rp_filter"))
		if err != nil {
			return 0, fmt.Errorf("reading rp_filter for %s: %w", of, err)
		}
		value = max(value, n)
	}
	return value, nil
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
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.force, netio.SocketBuffer) == nil {
			continue
		}
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.set, netio.SocketBuffer)
		got := 0
		if err == nil {
			got, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, b.set)
			got /= 2 // the kernel doubles what is set, for its own overhead
		}
		switch {
		case err != nil:
			sound = false
			add(check, Warn, "", "asking for a buffer: %v", err)
		case got < netio.SocketBuffer:
			sound = false
			add(check, Warn, fmt.Sprintf("sysctl -w net.core.%s=%d, or CAP_NET_ADMIN", b.key, netio.SocketBuffer),
				"%d of %d bytes are granted: net.core.%s bounds them without CAP_NET_ADMIN", got, netio.SocketBuffer, b.key)
		}
	}
	if sound {
		add(check, OK, "", "the %d bytes that the daemon asks for are granted", netio.SocketBuffer)
	}
}
