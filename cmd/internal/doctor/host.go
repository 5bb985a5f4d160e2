package doctor

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"overtap/cmd/internal/config"
	"overtap/cmd/internal/firewall"
	"overtap/cmd/internal/host"
)

// tun opens the device that TAPs come from.
func tun(add report) {
	f, err := os.OpenFile(host.TunDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		add("tun", OK, "", "%s can be opened", host.TunDevice)
	case errors.Is(err, fs.ErrPermission):
		add("tun", Fail, "run it as root, or give the container --device "+host.TunDevice, "%v", err)
	default:
		add("tun", Fail, "modprobe tun, or give the container --device "+host.TunDevice, "%v", err)
	}
}

// capabilities looks for what the daemon would need of them.
func capabilities(add report, c *config.Config) {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		add("capabilities", Fail, "", "reading this process's capabilities: %v", err)
		return
	}
	has := func(n int) bool { return data[n/32].Effective&(1<<(n%32)) != 0 }
	missing := false
	need := func(n int, name string, level Level, what string) {
		if !has(n) {
			missing = true
			add("capabilities", level, "run it as root, or in a container with --cap-add "+strings.TrimPrefix(name, "CAP_"), "%s is missing: %s", name, what)
		}
	}
	need(unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", Fail, "no TAP, no bridge, no route without it")
	raw := Warn
	if c != nil && len(c.IPIP) > 0 {
		raw = Fail
	}
	need(unix.CAP_NET_RAW, "CAP_NET_RAW", raw, "no IP-in-IP, and attach cannot ask whether an address is free")
	need(unix.CAP_BPF, "CAP_BPF", Warn, "GSO packets are cut in user space, and a flow may change workers")
	need(unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", Warn, "no attach and detach")
	if !missing {
		add("capabilities", OK, "", "all that the daemon uses are there")
	}
}

// kernel reports what this one's age costs.
func kernel(add report) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		add("kernel", Warn, "", "asking for the kernel's version: %v", err)
		return
	}
	release := unix.ByteSliceToString(u.Release[:])
	major, minor, ok := version(release)
	if !ok {
		add("kernel", Warn, "", "the version %q is not understood", release)
		return
	}
	since := func(a, b int) bool { return major > a || major == a && minor >= b }
	switch {
	case !since(4, 18):
		add("kernel", Fail, "a newer kernel", "%s has no UDP_SEGMENT: every datagram is sent alone", release)
	case !since(5, 0):
		add("kernel", Warn, "a newer kernel", "%s has no UDP_GRO: every datagram is received alone", release)
	case !since(6, 2):
		add("kernel", Warn, "a newer kernel", "%s takes no UDP GSO packets by a TAP (6.2)", release)
	case !since(6, 17):
		add("kernel", OK, "", "%s; from 6.17 GSO packets could leave unsegmented", release)
	default:
		add("kernel", OK, "", "%s has all that overtap uses", release)
	}
}

// version are the first two numbers of a kernel's release.
func version(release string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(release, ".")
	second := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		second = rest[:i]
	}
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	minor, err = strconv.Atoi(second)
	return major, minor, err == nil
}

// sysctl reads a key of /proc/sys, with slashes; "" when there is none.
func sysctl(key string) string {
	b, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// forwarding looks whether the host routes, where the configuration has routes.
func forwarding(add report, c *config.Config) {
	routes := len(c.Routes) + len(c.IPIP)
	for _, v := range c.VXLAN {
		routes += len(v.Routes)
	}
	if routes == 0 {
		return
	}
	if sysctl("net/ipv4/ip_forward") == "0" {
		add("forwarding", Warn, "sysctl -w net.ipv4.ip_forward=1", "there are routes, but this host does not forward: its containers reach them by it only when it does")
		return
	}
	add("forwarding", OK, "", "this host forwards")
}

// bridgeNetfilter looks whether the packet filter drops what the ports of the
// networks' bridges send to each other. br_netfilter itself is never what to turn
// off: the rules of container engines for published ports need it.
func bridgeNetfilter(add report, c *config.Config) {
	const check = "bridge netfilter"
	var bridges []string
	if c != nil {
		for _, v := range c.VXLAN {
			if v.Bridge != "" && !slices.Contains(bridges, v.Bridge) {
				bridges = append(bridges, v.Bridge)
			}
		}
	}
	v4, v6 := firewall.Bridged()
	blocks, err := firewall.Look(bridges)
	for _, b := range blocks {
		add(check, Warn, b.Remedy, "%s", b.Problem())
	}
	switch {
	case err != nil:
		add(check, Warn, "", "%v", err)
	case len(blocks) > 0:
	case !v4 && !v6:
		add(check, OK, "", "bridged frames do not pass by iptables")
	case firewall.Legacy():
		add(check, Warn, "iptables-legacy -S FORWARD", "bridged frames pass by iptables (br_netfilter), and there are rules of iptables-legacy, which are not looked at here: a policy of DROP swallows them")
	case len(bridges) == 0:
		add(check, OK, "", "bridged frames pass by iptables (br_netfilter); with the configuration its rules are looked at")
	default:
		add(check, OK, "", "bridged frames pass by iptables (br_netfilter), which lets those of %s pass", strings.Join(bridges, ", "))
	}
}
