package host

import "github.com/vishvananda/netlink"

// fallbackIPIP is the device that the kernel's ipip makes of itself in every
// namespace (ip_tunnel_init_net).
const fallbackIPIP = "tunl0"

// isKernelIPIP reports whether l is an IP-in-IP device of the kernel's. While
// there is one, the kernel too acts upon every IP-in-IP packet that comes in: it
// decapsulates it a second time, or answers with an ICMP error (tunnel4_rcv).
func isKernelIPIP(l netlink.Link) bool { return l.Type() == "ipip" || l.Attrs().Name == fallbackIPIP }
