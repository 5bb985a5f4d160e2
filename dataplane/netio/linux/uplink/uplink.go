// Package uplink takes GSO packets to the underlay unsegmented: a TAP, and programs of the
// kernel that pass on what is written into it.
package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// Uplink takes GSO packets to the underlay unsegmented: a TAP with UDP tunnel
// segmentation (kernel 6.17), into which they are written with their outer
// headers, and whose ingress passes them on to the route's device (see
// uplinkProgram). The stack or the NIC cuts them as late as it can. Nothing of
// it outlives its file descriptors.
//
// Every GSO packet is either passed on or refused, and the writer knows which
// when its write returns; what is refused takes the socket's way. So a change
// of routes, neighbours, devices or path MTU need not be followed.
type Uplink struct {
	name     string
	index    int
	fd       int
	verdicts *ebpf.Map
	memory   []byte // of verdicts
	program  *ebpf.Program
	ingress  link.Link
	// Of IP-in-IP, nil before a tunnel was opened (ipip.go).
	ipipProgram *ebpf.Program
	ipipIngress link.Link
	IPIPRefused atomic.Pointer[string] // why there is none, once it was tried
	ipsec       *ipsecWatch
	routes      *routeWatch
	devices     devices
	only        string                 // device that the underlay is bound to; "" = any
	resting     atomic.Pointer[string] // why no device takes GSO packets; "" = one does
	broken      atomic.Pointer[error]  // why it is of no use any more
	Workers     []Worker
}

// tunFUDPTunnelGSO and tunFUDPTunnelGSOCsum are TUN_F_UDP_TUNNEL_GSO and
// TUN_F_UDP_TUNNEL_GSO_CSUM of include/uapi/linux/if_tun.h.
const (
	tunFUSO4 = 0x20 // TUN_F_USO4 and TUN_F_USO6 of the same, as in tap.go of linux
	tunFUSO6 = 0x40

	tunFUDPTunnelGSO     = 0x080
	tunFUDPTunnelGSOCsum = 0x100
)

// Open makes the uplink for packets from src, which probably leave by the
// device of that index, and tries it. An error says what this host lacks.
func Open(src netip.Addr, device int, only string, workers int) (_ *Uplink, err error) {
	u := &Uplink{fd: -1, only: only, Workers: make([]Worker, workers), devices: devices{control: -1}}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Close())
		}
	}()
	if u.ipsec, err = watchIPsec(); err != nil {
		return nil, err
	}
	if u.devices, err = openDevices(); err != nil {
		return nil, err
	}
	if err := u.openTap(); err != nil {
		return nil, err
	}
	if u.index, err = u.configure(src.Is6()); err != nil {
		return nil, fmt.Errorf("configure %s: %w", u.name, err)
	}
	if err := u.openVerdicts(workers); err != nil {
		return nil, err
	}
	how := (*uint64)(unsafe.Pointer(&u.memory[lookupAt(workers)]))
	u.routes, err = watchRoutes(u, src, func(l lookup) { atomic.StoreUint64(how, uint64(l)) })
	if err != nil {
		return nil, err
	}
	if err := u.forward6(src); err != nil {
		return nil, fmt.Errorf("configure %s: %w", u.name, err)
	}
	u.routes.follow()
	if u.program, err = uplinkProgram(u.verdicts, workers, src.Is6()); err != nil {
		return nil, err
	}
	u.ingress, err = link.AttachTCX(link.TCXOptions{
		Interface: u.index, Program: u.program, Attach: ebpf.AttachTCXIngress,
	})
	if err != nil {
		return nil, fmt.Errorf("attach the program to %s: %w", u.name, err)
	}
	for i := range u.Workers {
		w := &u.Workers[i]
		w.up, w.head = u, header{src: src.AsSlice(), worker: uint16(i)}
		w.verdict = (*[2]uint32)(unsafe.Pointer(&u.memory[i*verdictStride]))
	}
	if err := u.probe(src); err != nil {
		return nil, err
	}
	u.look(device)
	return u, nil
}

// Tick looks at the devices again.
func (u *Uplink) Tick() {
	asked := 0
	for i := range u.Workers {
		if index := u.Workers[i].asked.Swap(0); index != 0 {
			asked = int(index)
		}
	}
	u.look(asked)
}

// look sets by which devices the program lets GSO packets leave.
func (u *Uplink) look(asked int) {
	allowed := (*[maxDevices]uint32)(unsafe.Pointer(&u.memory[len(u.Workers)*verdictStride]))
	for i, index := range u.devices.look(asked, u.only) {
		atomic.StoreUint32(&allowed[i], index)
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&u.memory[ipipDeviceAt(len(u.Workers))])), u.devices.onlyIndex(u.only))
	why := u.devices.reason()
	u.resting.Store(&why)
}

func (u *Uplink) openTap() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	u.fd = fd
	ifr, err := unix.NewIfreq("otup%d") // the kernel takes the first that is free
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("create the uplink TAP: %w", err)
	}
	u.name = ifr.Name()
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, uplinkVnetLen); err != nil {
		return fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("TUNSETVNETLE: %w", err)
	}
	offloads := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN |
		tunFUSO4 | tunFUSO6 | tunFUDPTunnelGSO | tunFUDPTunnelGSOCsum
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("TUNSETOFFLOAD: %w: UDP tunnel segmentation of a TAP needs kernel 6.17", err)
		}
		return fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return nil
}

// configure brings the TAP up, silent, and returns its index.
func (u *Uplink) configure(v6 bool) (index int, err error) {
	if err := u.setSysctl("ipv6", "disable_ipv6"); err != nil {
		return 0, err
	}
	if !v6 {
		// bpf_fib_lookup answers for devices that forward only. Nothing that
		// comes in here ever reaches the stack: the program takes it all.
		if err := u.setSysctl("ipv4", "forwarding"); err != nil {
			return 0, err
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(u.name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_NOARP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return 0, fmt.Errorf("bring it up: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("read its index: %w", err)
	}
	return int(ifr.Uint32()), nil
}

// setSysctl sets a switch of the TAP's.
func (u *Uplink) setSysctl(family, key string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net", family, "conf", u.name, key), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// forward6 has routes over IPv6 looked up for packets that come in by the TAP, where
// they are not looked up another way.
func (u *Uplink) forward6(src netip.Addr) error {
	by := uint32(loopbackIndex)
	if u.only != "" {
		by = u.devices.onlyIndex(u.only)
	}
	if !src.Is6() || u.routes.forwards(by) {
		return nil
	}
	some, err := u.routes.learned()
	if err != nil {
		return fmt.Errorf("list the routes of router advertisements: %w", err)
	}
	if some {
		return errors.New("the host has routes of router advertisements and does not forward IPv6: the kernel would drop these routes")
	}
	return u.setSysctl("ipv6", "forwarding")
}

func (u *Uplink) openVerdicts(workers int) error {
	size := lookupAt(workers) + 8
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "overtap_uplink", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size),
		MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return fmt.Errorf("create the uplink's verdicts: %w", err)
	}
	u.verdicts = m
	if u.memory, err = unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("map the uplink's verdicts: %w", err)
	}
	return nil
}

// probe writes a GSO packet to the host's loopback address, which no route
// leads to from outside: the program must refuse it, and before write returns.
func (u *Uplink) probe(src netip.Addr) error {
	to := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if src.Is6() {
		to = netip.IPv6Loopback()
	}
	const size = 64
	frame := make([]byte, encap.EthernetHeaderLen+encap.IPv4HeaderLen+encap.UDPHeaderLen+2*size)
	l4 := encap.EthernetHeaderLen + encap.IPv4HeaderLen
	frame[12], frame[14], frame[23] = 0x08, 0x45, encap.ProtoUDP
	w := &u.Workers[0]
	w.head.port = 1
	gsoPacket := &netio.Unsegmented{
		To: netip.AddrPortFrom(to, 1), TTL: 1, Data: frame, L3: encap.EthernetHeaderLen,
		VNet: encap.VnetHdr{
			GSOType: encap.VnetGSOUDPL4, HdrLen: uint16(l4 + encap.UDPHeaderLen), GSOSize: size,
			CsumStart: uint16(l4), CsumOffset: 6,
		},
	}
	errno, v := w.write(gsoPacket, w.head.put(w.buf[:], gsoPacket))
	switch {
	case errno != 0:
		return fmt.Errorf("write to %s: %w", u.name, errno)
	case v == verdictNone:
		return fmt.Errorf("%s: frames are not received inline (is receive packet steering on?)", u.name)
	case v == verdictForwardOff:
		return fmt.Errorf("%s cannot be made to look up routes: /proc/sys/net is read-only", u.name)
	case v == verdictSent:
		return fmt.Errorf("%s: the route to %s leaves this host", u.name, to)
	}
	return nil
}

func (u *Uplink) Close() error {
	var errs []error
	if u.ipsec != nil {
		errs = append(errs, u.ipsec.close())
	}
	if u.routes != nil {
		errs = append(errs, u.routes.close()) // before the memory that it writes to goes
	}
	if u.ipipIngress != nil {
		errs = append(errs, u.ipipIngress.Close())
	}
	if u.ipipProgram != nil {
		errs = append(errs, u.ipipProgram.Close())
	}
	if u.ingress != nil {
		errs = append(errs, u.ingress.Close())
	}
	if u.program != nil {
		errs = append(errs, u.program.Close())
	}
	if u.memory != nil {
		errs = append(errs, unix.Munmap(u.memory))
	}
	if u.verdicts != nil {
		errs = append(errs, u.verdicts.Close())
	}
	if u.fd >= 0 {
		errs = append(errs, unix.Close(u.fd))
	}
	if u.devices.control >= 0 {
		errs = append(errs, unix.Close(u.devices.control))
	}
	return errors.Join(errs...)
}

// Detach takes the program off, as another program may.
func (u *Uplink) Detach() error { return u.ingress.Close() }

// Reason says why GSO packets do not leave by the uplink, nil when they do.
func (u *Uplink) Reason() error {
	if err := u.broken.Load(); err != nil {
		return *err
	}
	if u.ipsec.active.Load() {
		return errIPsec
	}
	if err := u.routes.reason.Load(); err != nil {
		return *err
	}
	if why := *u.resting.Load(); why != "" {
		return errors.New(why)
	}
	return nil
}

// fail gives the uplink up for good.
func (u *Uplink) fail(err error) { u.broken.CompareAndSwap(nil, &err) }

// Offers reports whether GSO packets to the peer are tried at all.
func (u *Uplink) Offers(peer netip.Addr) bool {
	return u.broken.Load() == nil && !u.ipsec.active.Load() && u.routes.reason.Load() == nil && !peer.IsMulticast()
}

// Info copies out what the uplink did.
func (u *Uplink) Info() netio.UplinkInfo {
	i := netio.UplinkInfo{Device: u.name, Lost: u.broken.Load() != nil, Refused: map[string]uint64{}}
	if err := u.Reason(); err != nil {
		i.Reason = err.Error()
	} else {
		i.Active = true
	}
	if why := u.IPIPRefused.Load(); why != nil {
		i.IPIPReason = *why
	}
	for k := range u.Workers {
		w := &u.Workers[k]
		i.Sent += w.sent.Load()
		for r := range w.refused {
			if n := w.refused[r].Load(); n != 0 {
				i.Refused[refusalNames[r]] += n
			}
		}
	}
	return i
}
