package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunDevice is the character device that TAPs come from.
const TunDevice = "/dev/net/tun"

// Plan is what a run is about to ask of this host.
type Plan struct {
	Tun      string     // TunDevice
	Underlay netip.Addr // outer source address
	Device   string     // the underlay's device; "" = any
	// NoUnderlay: the address or the device is not there yet, and waited for. What
	// needs it is not looked at.
	NoUnderlay bool
	Ports      []uint16 // UDP ports to bind on the underlay address
	Networks   []Network
	Routes     []Route // plain ones
}

// Preflight looks whether p can work and returns every obstacle at once, each
// with what to do about it. It leaves nothing behind. It must run in the
// network namespace of the thread that called New.
func (h *Host) Preflight(p Plan) error {
	errs := []error{checkNetAdmin(), checkTun(p.Tun)}
	if p.NoUnderlay {
	} else if _, err := h.Underlay(p.Underlay, p.Device); err != nil {
		errs = append(errs, err)
	} else {
		for _, port := range p.Ports {
			errs = append(errs, h.checkUDP(netip.AddrPortFrom(p.Underlay, port), p.Device))
		}
	}
	for _, n := range p.Networks {
		if err := h.checkNetwork(p, n); err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", n.Name, err))
		}
	}
	if !p.NoUnderlay { // else no next hop can be reached yet
		errs = append(errs, h.checkRoutes(p))
	}
	return errors.Join(errs...)
}

// checkNetAdmin looks for the capability that TAPs and links need.
func checkNetAdmin() error {
	var data [2]unix.CapUserData // version 3 of the call: 64 bits in two words
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("reading this process's capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("the capability CAP_NET_ADMIN is missing: run as root, or in a container with --cap-add NET_ADMIN")
	}
	return nil
}

// checkTun opens the TUN device and closes it again.
func checkTun(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("there is no %s: load it with `modprobe tun`, or give it to the container with --device %s", path, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("may not open %s: run as root, or give it to the container with --device %s", path, path)
	default:
		return fmt.Errorf("opening %s: %w", path, err)
	}
}

// checkNetwork looks for names and routes that are taken and ports that are
// missing or not to be had.
func (h *Host) checkNetwork(p Plan, n Network) error {
	var errs []error
	if l, err := h.nl.LinkByName(n.Device); err == nil {
		if left, err := h.left(l); left || err != nil {
			return errors.Join(err, h.checkAround(p, n))
		}
		key := "tap"
		if n.TUN {
			key = "the tunnel"
		}
		if strings.HasPrefix(l.Attrs().Alias, deviceMark) {
			errs = append(errs, fmt.Errorf("the device %s belongs to another overtap daemon, which runs: stop that, or choose another name for %s", n.Device, key))
			return errors.Join(append(errs, h.checkAround(p, n))...)
		}
		errs = append(errs, h.nameTaken(n, l, key, p))
	} else if !gone(err) {
		errs = append(errs, fmt.Errorf("looking for %s: %w", n.Device, err))
	}
	return errors.Join(append(errs, h.checkAround(p, n))...)
}

// checkAround looks at all of n but its device.
func (h *Host) checkAround(p Plan, n Network) error {
	var errs []error
	bridge := 0
	if n.Bridge != "" {
		if l, err := h.nl.LinkByName(n.Bridge); err == nil {
			bridge = l.Attrs().Index
			if l.Type() != "bridge" {
				errs = append(errs, notABridge(n.Bridge, l.Type()))
			}
		} else if !gone(err) {
			errs = append(errs, fmt.Errorf("looking for %s: %w", n.Bridge, err))
		}
	}
	errs = append(errs, h.checkPorts(p, n, bridge), h.checkNeighbors(n, bridge), h.checkNetworkRoutes(n, bridge))
	return errors.Join(errs...)
}

// checkUDP binds the port as the engine will and lets it go again.
func (h *Host) checkUDP(addr netip.AddrPort, device string) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if device == "" {
			return nil
		}
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); cerr != nil {
			return cerr
		}
		return err
	}}
	c, err := lc.ListenPacket(context.Background(), "udp", addr.String())
	switch {
	case err == nil:
		return c.Close()
	case errors.Is(err, unix.EADDRINUSE):
		if dev := h.vxlanAt(addr.Port()); len(dev) > 0 {
			return fmt.Errorf("UDP port %d on %s is taken, most likely by the kernel's vxlan device %s: %s",
				addr.Port(), addr.Addr(), strings.Join(dev, ", "), freePort(dev[0], h.isUnderlay(dev[0])))
		}
		return fmt.Errorf("UDP port %d on %s is taken: find who has it with `ss -ulpn sport = :%d`, or choose another port", addr.Port(), addr.Addr(), addr.Port())
	default:
		return fmt.Errorf("binding UDP port %d on %s: %w", addr.Port(), addr.Addr(), err)
	}
}

// vxlanAt names the kernel's vxlan devices that are up on a UDP port: a vxlan
// device holds its socket, on every address, only while it is up (vxlan_open).
func (h *Host) vxlanAt(port uint16) []string {
	links, err := h.links()
	if err != nil {
		return nil // the hint is lost, not the error
	}
	var names []string
	for _, l := range links {
		if v, ok := l.(*netlink.Vxlan); ok && v.Port == int(port) && v.Attrs().RawFlags&unix.IFF_UP != 0 {
			names = append(names, v.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}
