package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// uplink takes superframes to the underlay uncut: a TAP with UDP tunnel
// segmentation (kernel 6.17), into which they are written with their outer
// headers, and whose ingress passes them on to the route's device (see
// uplinkProgram). The stack or the NIC cuts them as late as it can. Nothing of
// it outlives its file descriptors.
//
// Every superframe is either passed on or refused, and the writer knows which
// when its write returns; what is refused takes the socket's way. So a change
// of routes, neighbours, devices or path MTU needs nobody to follow it.
type uplink struct {
	name     string
	index    int
	fd       int
	verdicts *ebpf.Map
	memory   []byte // of verdicts
	program  *ebpf.Program
	ingress  link.Link
	// Of IP-in-IP, nil before a tunnel was opened (uplinkipip_linux.go).
	ipipProgram *ebpf.Program
	ipipIngress link.Link
	ipipRefused atomic.Pointer[string] // why there is none, once it was tried
	ipsec       *ipsecWatch
	devices     uplinkDevices
	only        string                 // device that the underlay is bound to; "" = any
	resting     atomic.Pointer[string] // why no device takes superframes; "" = one does
	broken      atomic.Pointer[error]  // why it is of no use any more
	workers     []uplinkWorker
}

// uplinkWorker is one outbound thread's share.
type uplinkWorker struct {
	_       [64]byte
	up      *uplink
	verdict *[2]uint32 // written by the program during the write: verdict and device
	head    uplinkHeader
	iov     [2]unix.Iovec
	buf     [maxUplinkHeader]byte
	shunned [64]shunned
	asked   atomic.Uint32 // index of a device that the program does not know
	sent    atomic.Uint64
	refused [refusals]atomic.Uint64
	_       [64]byte
}

// shunned is a peer that was refused a moment ago.
type shunned struct {
	peer  netip.Addr
	until time.Time
}

// A peer's superframes take the socket's way for a while after one was refused,
// since each try costs a copy: until its next hop is resolved, say, or until
// its device was looked at.
const (
	shunBriefly = 100 * time.Millisecond
	shunABeat   = beat
)

// tunFUDPTunnelGSO and tunFUDPTunnelGSOCsum are TUN_F_UDP_TUNNEL_GSO and
// TUN_F_UDP_TUNNEL_GSO_CSUM of include/uapi/linux/if_tun.h.
const (
	tunFUDPTunnelGSO     = 0x080
	tunFUDPTunnelGSOCsum = 0x100
)

// openUplink makes the uplink for packets from src, which probably leave by the
// device of that index, and tries it. An error says what this host lacks.
func openUplink(src netip.Addr, device int, only string, workers int) (_ *uplink, err error) {
	u := &uplink{fd: -1, only: only, workers: make([]uplinkWorker, workers), devices: uplinkDevices{control: -1}}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.close())
		}
	}()
	if u.ipsec, err = watchIPsec(); err != nil {
		return nil, err
	}
	if u.devices, err = openUplinkDevices(); err != nil {
		return nil, err
	}
	if err := u.openTap(); err != nil {
		return nil, err
	}
	if u.index, err = u.configure(); err != nil {
		return nil, fmt.Errorf("configure %s: %w", u.name, err)
	}
	if err := u.openVerdicts(workers); err != nil {
		return nil, err
	}
	if u.program, err = uplinkProgram(u.verdicts, workers, src.Is6()); err != nil {
		return nil, err
	}
	u.ingress, err = link.AttachTCX(link.TCXOptions{
		Interface: u.index, Program: u.program, Attach: ebpf.AttachTCXIngress,
	})
	if err != nil {
		return nil, fmt.Errorf("attach the program to %s: %w", u.name, err)
	}
	for i := range u.workers {
		w := &u.workers[i]
		w.up, w.head = u, uplinkHeader{src: src.AsSlice(), worker: uint16(i)}
		w.verdict = (*[2]uint32)(unsafe.Pointer(&u.memory[i*verdictStride]))
	}
	if err := u.probe(src); err != nil {
		return nil, err
	}
	u.look(device)
	return u, nil
}

// beat looks at the devices anew.
func (u *uplink) beat() {
	asked := 0
	for i := range u.workers {
		if index := u.workers[i].asked.Swap(0); index != 0 {
			asked = int(index)
		}
	}
	u.look(asked)
}

// look tells the program by which devices superframes may leave.
func (u *uplink) look(asked int) {
	allowed := (*[maxUplinkDevices]uint32)(unsafe.Pointer(&u.memory[len(u.workers)*verdictStride]))
	for i, index := range u.devices.look(asked, u.only) {
		atomic.StoreUint32(&allowed[i], index)
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&u.memory[ipipDeviceAt(len(u.workers))])), u.devices.onlyIndex(u.only))
	why := u.devices.reason()
	u.resting.Store(&why)
}

func (u *uplink) openTap() error {
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
func (u *uplink) configure() (index int, err error) {
	for _, s := range []struct{ key, value string }{
		{"net/ipv6/conf/" + u.name + "/disable_ipv6", "1"},
		// bpf_fib_lookup answers for devices that forward only. Nothing that
		// comes in here ever reaches the stack: the program takes it all.
		{"net/ipv6/conf/" + u.name + "/forwarding", "1"},
		{"net/ipv4/conf/" + u.name + "/forwarding", "1"},
	} {
		err := os.WriteFile(filepath.Join("/proc/sys", s.key), []byte(s.value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
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

func (u *uplink) openVerdicts(workers int) error {
	size := ipipDeviceAt(workers) + 4
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

// probe writes a superframe to the host's loopback address, which no route
// leads to from outside: the program must refuse it, and before write returns.
func (u *uplink) probe(src netip.Addr) error {
	to := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if src.Is6() {
		to = netip.IPv6Loopback()
	}
	const size = 64
	frame := make([]byte, encap.EthernetHeaderLen+encap.IPv4HeaderLen+encap.UDPHeaderLen+2*size)
	l4 := encap.EthernetHeaderLen + encap.IPv4HeaderLen
	frame[12], frame[14], frame[23] = 0x08, 0x45, encap.ProtoUDP
	w := &u.workers[0]
	w.head.port = 1
	superframe := &Whole{
		To: netip.AddrPortFrom(to, 1), TTL: 1, Data: frame, L3: encap.EthernetHeaderLen,
		VNet: encap.VnetHdr{
			GSOType: encap.VnetGSOUDPL4, HdrLen: uint16(l4 + encap.UDPHeaderLen), GSOSize: size,
			CsumStart: uint16(l4), CsumOffset: udpSumAt,
		},
	}
	errno, v := w.write(superframe, w.head.put(w.buf[:], superframe))
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

func (u *uplink) close() error {
	var errs []error
	if u.ipsec != nil {
		errs = append(errs, u.ipsec.close())
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

// reason says why superframes do not leave by the uplink, nil when they do.
func (u *uplink) reason() error {
	if err := u.broken.Load(); err != nil {
		return *err
	}
	if u.ipsec.active.Load() {
		return errIPsec
	}
	if why := *u.resting.Load(); why != "" {
		return errors.New(why)
	}
	return nil
}

// fail gives the uplink up for good.
func (u *uplink) fail(err error) { u.broken.CompareAndSwap(nil, &err) }

// offers reports whether superframes to the peer are tried at all.
func (u *uplink) offers(peer netip.Addr) bool {
	return u.broken.Load() == nil && !u.ipsec.active.Load() && !peer.IsMulticast()
}

// takes reports whether superframes to the peer may be sent.
func (w *uplinkWorker) takes(peer netip.Addr) bool {
	if !w.up.offers(peer) {
		return false
	}
	s := &w.shunned[shunSlot(peer)]
	return s.peer != peer || !time.Now().Before(s.until)
}

// send passes s on uncut, or reports false when the socket has to.
func (w *uplinkWorker) send(s *Whole, port uint16) bool {
	w.head.port = port
	return w.judge(s, w.head.put(w.buf[:], s))
}

// judge writes s behind the headers, of n bytes, and notes what became of it.
func (w *uplinkWorker) judge(s *Whole, n int) bool {
	u := w.up
	errno, v := w.write(s, n)
	if errno == 0 && v == verdictSent {
		w.sent.Add(1)
		return true
	}
	w.refused[refusal(errno, v)].Add(1)
	shun := shunBriefly
	switch {
	case errno == unix.EMSGSIZE:
		return false // longer than an outer packet: nothing was written, others may fit
	case errno == unix.EBADFD || errno == unix.EIO:
		// tun_get_user: the TAP was deleted, or is down.
		u.fail(fmt.Errorf("write to %s: %w: it was deleted or set down", u.name, errno))
	case errno == 0 && v == verdictOtherDevice:
		shun = shunABeat
		w.asked.Store(w.verdict[1])
	case errno == 0 && v == verdictNone:
		u.fail(fmt.Errorf("%s: the program was detached", u.name))
	}
	peer := s.To.Addr()
	w.shunned[shunSlot(peer)] = shunned{peer: peer, until: time.Now().Add(shun)}
	return false
}

// write writes the headers, of n bytes, with the superframe; n is 0 when that is
// too long.
func (w *uplinkWorker) write(s *Whole, n int) (unix.Errno, verdict) {
	if n == 0 {
		return unix.EMSGSIZE, verdictNone
	}
	w.iov[0].Base = &w.buf[0]
	w.iov[0].SetLen(n)
	w.iov[1].Base = &s.Data[0]
	w.iov[1].SetLen(len(s.Data))
	atomic.StoreUint32(&w.verdict[0], uint32(verdictNone))
	for {
		_, _, e := unix.Syscall(unix.SYS_WRITEV, uintptr(w.up.fd), uintptr(unsafe.Pointer(&w.iov[0])), 2)
		runtime.KeepAlive(s)
		if e != unix.EINTR {
			return e, verdict(atomic.LoadUint32(&w.verdict[0]))
		}
	}
}

// shunSlot spreads peers over the slots; two in one slot only shorten the time
// that they are shunned.
func shunSlot(a netip.Addr) int {
	b := a.As16()
	return int(b[15]^b[14]^b[13]) & 63
}

// Why a superframe was refused.
const (
	refusedNoRoute = iota
	refusedNoNeighbour
	refusedTooBig
	refusedOtherDevice
	refusedByKernel
	refusals
)

var refusalNames = [refusals]string{
	refusedNoRoute:     "no_route",
	refusedNoNeighbour: "no_neighbour",
	refusedTooBig:      "too_big",
	refusedOtherDevice: "other_device",
	refusedByKernel:    "kernel",
}

func refusal(e unix.Errno, v verdict) int {
	switch {
	case e == unix.EMSGSIZE || v == verdictTooBig:
		return refusedTooBig
	case e != 0 || v == verdictNone || v == verdictForwardOff || v == verdictReshape:
		return refusedByKernel
	case v == verdictNoNeighbour:
		return refusedNoNeighbour
	case v == verdictOtherDevice:
		return refusedOtherDevice
	}
	return refusedNoRoute
}

// info copies out what the uplink did.
func (u *uplink) info() UplinkInfo {
	i := UplinkInfo{Device: u.name, Lost: u.broken.Load() != nil, Refused: map[string]uint64{}}
	if err := u.reason(); err != nil {
		i.Reason = err.Error()
	} else {
		i.Active = true
	}
	if why := u.ipipRefused.Load(); why != nil {
		i.IPIPReason = *why
	}
	for k := range u.workers {
		w := &u.workers[k]
		i.Sent += w.sent.Load()
		for r := range w.refused {
			if n := w.refused[r].Load(); n != 0 {
				i.Refused[refusalNames[r]] += n
			}
		}
	}
	return i
}
