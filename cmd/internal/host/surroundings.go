package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// maxNamed is how many things one sentence names.
const maxNamed = 8

// Surroundings are the links around the networks that may harm them although
// all that is configured is in place.
type Surroundings struct {
	// IPIP names the kernel's own IP-in-IP devices.
	IPIP []string
	// IPIPUsed: one of them is more than what loading the module makes, the
	// fallback device, down: unloading it would end what that carries.
	IPIPUsed bool

	ports map[string][]bridgePort // by bridge
	vxlan []kernelVXLAN
}

// bridgePort is a port of a bridge as it is.
type bridgePort struct {
	name string
	mtu  int
}

// kernelVXLAN is a vxlan device of the kernel.
type kernelVXLAN struct {
	name string
	port uint16 // UDP
	up   bool
	// underlay: the underlay runs over it.
	underlay bool
}

// Surroundings looks at the links of this namespace.
func (h *Host) Surroundings() (Surroundings, error) {
	links, err := h.links()
	if err != nil {
		return Surroundings{}, fmt.Errorf("listing this host's devices: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	s := Surroundings{ports: make(map[string][]bridgePort)}
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex != 0 {
			bridge := names[a.MasterIndex]
			s.ports[bridge] = append(s.ports[bridge], bridgePort{a.Name, a.MTU})
		}
		if isKernelIPIP(l) {
			s.IPIP = append(s.IPIP, a.Name)
			s.IPIPUsed = s.IPIPUsed || a.Name != fallbackIPIP || a.RawFlags&unix.IFF_UP != 0
		}
		if v, ok := l.(*netlink.Vxlan); ok {
			s.vxlan = append(s.vxlan, kernelVXLAN{a.Name, uint16(v.Port), a.RawFlags&unix.IFF_UP != 0, h.marks.isUnderlay(a.Index)})
		}
	}
	slices.Sort(s.IPIP)
	return s, nil
}

// IPIPRemedy says what to do about the kernel's IP-in-IP.
func (s Surroundings) IPIPRemedy() string {
	if s.IPIPUsed {
		return "move what uses these devices to overtap, or take [[ipip]] out; with the devices gone unload the module with `modprobe -r ipip`"
	}
	return "unload the module with `modprobe -r ipip`"
}

// Container is one that `overtap attach` joined to a bridge: the device in it has
// an MTU of its own.
type Container struct {
	Name    string           // as an operator knows it
	Network string           // that it was attached to
	Veth    string           // its port of the bridge
	MTU     encap.OverlayMTU // of the device in it
}

// MTUs names, in sentences, the ports of n's bridge and the containers whose MTU
// is another than the network's. Devices that are networks' own are in own.
func (s Surroundings) MTUs(n Network, own map[string]bool, containers []Container) []string {
	above, below := make(map[int][]string), make(map[int][]string)
	note := func(name string, mtu int) {
		switch {
		case mtu > int(n.MTU):
			above[mtu] = append(above[mtu], name)
		case mtu < int(n.MTU):
			below[mtu] = append(below[mtu], name)
		}
	}
	noted := make(map[string]bool)
	for _, c := range containers {
		noted[c.Veth] = true
		note(c.Name, int(c.MTU))
	}
	for _, p := range s.ports[n.Bridge] {
		if !own[p.name] && !noted[p.name] {
			note("port "+p.name, p.mtu)
		}
	}
	var all []string
	for mtu, names := range above {
		has, its := number(names)
		all = append(all, fmt.Sprintf("%s %s an MTU of %d, network %s %d: %s longer packets are dropped, by overtap as too_big or unseen by the veth: set both ends to %d",
			Some(names), has, mtu, n.Name, n.MTU, its, n.MTU))
	}
	for mtu, names := range below {
		has, _ := number(names)
		all = append(all, fmt.Sprintf("%s %s an MTU of %d, network %s %d: the bridge drops longer packets on the way there: set both ends to %d",
			Some(names), has, mtu, n.Name, n.MTU, n.MTU))
	}
	slices.Sort(all)
	return all
}

// number is what a sentence about the names says of one or of several.
func number(names []string) (has, its string) {
	if len(names) == 1 {
		return "has", "its"
	}
	return "have", "their"
}

// Some lists names for a sentence: sorted, the first few, and how many more there
// are.
func Some(names []string) string {
	names = slices.Sorted(slices.Values(names))
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// Clashes names, in sentences, the kernel's vxlan devices on a UDP port of ours.
func (s Surroundings) Clashes(port uint16) []string {
	var all []string
	for _, v := range s.vxlan {
		switch {
		case v.port != port:
		case v.up:
			all = append(all, fmt.Sprintf("the kernel's vxlan device %s is up on UDP port %d too: it may take what is for the networks here; %s", v.name, port, freePort(v.name, v.underlay)))
		default:
			all = append(all, fmt.Sprintf("the kernel's vxlan device %s has UDP port %d too: it cannot come up while overtap runs, and overtap cannot start while it is up; give one of the two another port", v.name, port))
		}
	}
	return all
}
