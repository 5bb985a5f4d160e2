package host

import (
	"fmt"
	"slices"
)

// fallbackIPIP is the device that the kernel's ipip makes of itself in every
// namespace (ip_tunnel_init_net).
const fallbackIPIP = "tunl0"

// KernelIPIP names the kernel's own IP-in-IP devices. While there is one, the
// kernel too acts upon every IP-in-IP packet that comes in: it decapsulates it a
// second time, or answers that nobody wants it (tunnel4_rcv).
func (h *Host) KernelIPIP() ([]string, error) {
	links, err := h.links()
	if err != nil {
		return nil, fmt.Errorf("looking for the kernel's IP-in-IP devices: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Type() == "ipip" || l.Attrs().Name == fallbackIPIP {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
