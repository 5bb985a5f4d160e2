package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// All that is known of tun(4) stands in this file: the ioctls of the offloading
// opener and the plain opener through water.

// TUN_F_* of include/uapi/linux/if_tun.h that x/sys/unix lacks.
const (
	tunFUSO4 = 0x20
	tunFUSO6 = 0x40
)

// offloadSteps are the offload sets to ask for, best first; an unknown bit is
// EINVAL (drivers/net/tun.c, set_offload), so the probe goes downward.
var offloadSteps = []struct {
	bits  int
	names []string
}{
	// USO4 and USO6 are taken together or not at all, since kernel 6.2.
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | tunFUSO4 | tunFUSO6,
		[]string{"csum", "tso4", "tso6", "ecn", "uso"}},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
		[]string{"csum", "tso4", "tso6", "ecn"}},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6, []string{"csum", "tso4", "tso6"}},
	{unix.TUN_F_CSUM, []string{"csum"}},
	{0, nil},
}

// openTap creates the TAP or TUN that s describes and returns its queues. It is
// down, and vanishes when the last queue closes. An existing device belongs to
// another program, unless it is to be adopted: then it goes on as it is.
func openTap(s netio.DeviceSpec, adopt bool) ([]netio.Device, error) {
	if s.Plain {
		return openPlainTap(s, adopt)
	}
	var queues []netio.Device
	fail := func(err error) ([]netio.Device, error) {
		for _, q := range queues {
			q.Close()
		}
		return nil, fmt.Errorf("create %s %s: %w", s.Kind(), s.Name, err)
	}
	for i := range s.Queues {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if s.TUN {
			flags ^= unix.IFF_TAP | unix.IFF_TUN
		}
		if s.Queues > 1 {
			flags |= unix.IFF_MULTI_QUEUE
		}
		if i == 0 && !adopt {
			flags |= unix.IFF_TUN_EXCL
		}
		fd, err := attachTap(s.Name, flags)
		if err != nil {
			return fail(err)
		}
		names, err := setOffloads(fd, s)
		if err != nil {
			unix.Close(fd)
			return fail(err)
		}
		queues = append(queues, &tapQueue{fd: fd, vnetLen: encap.VnetHdrLen, offloads: names})
	}
	if err := configureTap(s); err != nil {
		return fail(err)
	}
	return queues, nil
}

func attachTap(name string, flags uint16) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, tapAttachError(err)
	}
	return fd, nil
}

func tapAttachError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("TUNSETIFF: %w: this needs CAP_NET_ADMIN", err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("TUNSETIFF: %w: a device of this name exists already", err)
	}
	return fmt.Errorf("TUNSETIFF: %w", err)
}

// setOffloads fixes the vnet header's form and asks for the offloads that s wants.
func setOffloads(fd int, s netio.DeviceSpec) ([]string, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, encap.VnetHdrLen); err != nil {
		return nil, fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return nil, fmt.Errorf("TUNSETVNETLE: %w", err)
	}
	var err error
	for _, step := range offloadSteps {
		if s.NoGSO && slices.Contains(step.names, "tso4") || (s.NoGSO || s.NoUSO) && slices.Contains(step.names, "uso") {
			continue
		}
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, step.bits); err == nil {
			return step.names, nil
		}
	}
	return nil, fmt.Errorf("TUNSETOFFLOAD: %w", err)
}

// hardware is struct ifreq with a struct sockaddr in its union.
type hardware struct {
	name   [unix.IFNAMSIZ]byte
	family uint16
	data   [22]byte
}

// read fills hw with the address of the device.
func (hw *hardware) read(fd int, name string) (encap.MAC, unix.Errno) {
	copy(hw.name[:unix.IFNAMSIZ-1], name)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(hw)))
	return encap.MACFrom(hw.data[:]), e
}

// keepsMAC is an error when the device s, which works, has another MAC than s says.
func keepsMAC(s netio.DeviceSpec) error {
	if s.TUN {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to look at %s: %w", s.Name, err)
	}
	defer unix.Close(fd)
	var hw hardware
	now, e := hw.read(fd, s.Name)
	if e != 0 {
		return fmt.Errorf("read the MAC of %s: %w", s.Name, e)
	}
	if now != s.MAC {
		return fmt.Errorf("the device %s works with the MAC %s, and cannot become %s meanwhile", s.Name, now, s.MAC)
	}
	return nil
}

// configureTap sets the MAC and MTU while the device is down, so that no program
// ever sees it with others.
func configureTap(s netio.DeviceSpec) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to configure it: %w", err)
	}
	defer unix.Close(fd)
	if s.TUN {
		return setMTU(fd, s)
	}
	var hw hardware
	if now, e := hw.read(fd, s.Name); e == 0 && now == s.MAC {
		return setMTU(fd, s) // of an adopted device: no event must say that it changed
	}
	hw.family = unix.ARPHRD_ETHER
	s.MAC.Put(hw.data[:])
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&hw))); e != 0 {
		return fmt.Errorf("set MAC %s: %w", s.MAC, e)
	}
	return setMTU(fd, s)
}

func setMTU(fd int, s netio.DeviceSpec) error {
	ifr, err := unix.NewIfreq(s.Name)
	if err != nil {
		return err
	}
	if unix.IoctlIfreq(fd, unix.SIOCGIFMTU, ifr) == nil && ifr.Uint32() == uint32(s.MTU) {
		return nil
	}
	ifr.SetUint32(uint32(s.MTU))
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, ifr); err != nil {
		return fmt.Errorf("set MTU %d: %w", s.MTU, err)
	}
	return nil
}

// openPlainTap opens the TAP without a vnet header.
func openPlainTap(s netio.DeviceSpec, adopt bool) ([]netio.Device, error) {
	var queues []netio.Device
	fail := func(err error) ([]netio.Device, error) {
		for _, q := range queues {
			q.Close()
		}
		return nil, fmt.Errorf("create %s %s: %w", s.Kind(), s.Name, err)
	}
	if err := refuseExisting(s.Name); err != nil && !adopt {
		return fail(err)
	}
	kind := water.DeviceType(water.TAP)
	if s.TUN {
		kind = water.TUN
	}
	for range s.Queues {
		ifc, err := water.New(water.Config{
			DeviceType: kind,
			PlatformSpecificParams: water.PlatformSpecificParams{
				Name: s.Name, MultiQueue: s.Queues > 1,
			},
		})
		if err != nil {
			return fail(err)
		}
		q, err := plainQueue(ifc)
		if err != nil {
			ifc.Close()
			return fail(err)
		}
		queues = append(queues, q)
	}
	if err := configureTap(s); err != nil {
		return fail(err)
	}
	return queues, nil
}

// refuseExisting is an error when a link of that name is there: water knows no
// IFF_TUN_EXCL and would join another program's device.
func refuseExisting(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket to look for it: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr) == nil {
		return fmt.Errorf("%w: a device of this name exists already", unix.EBUSY)
	}
	return nil
}

// plainQueue takes the file descriptor out of water's file, so that reads and
// writes stay clear of the runtime's poller.
func plainQueue(ifc *water.Interface) (*tapQueue, error) {
	f, ok := ifc.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, fmt.Errorf("water returned a %T, not a file", ifc.ReadWriteCloser)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the descriptor non-blocking: %w", err)
	}
	if err := ifc.Close(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("close water's descriptor: %w", err)
	}
	return &tapQueue{fd: fd}, nil
}

// tapQueue is a queue of a TAP with a vnet header (vnetLen 10) or without one.
type tapQueue struct {
	fd       int
	vnetLen  int
	offloads []string
	vnet     [encap.VnetHdrLen]byte // of the frame being written
	iov      []unix.Iovec           // of the frame being written
	answer   []unix.Iovec           // of the answer being written, by the tx thread
}

// noVnet says that a frame is whole and its checksums are complete.
var noVnet [encap.VnetHdrLen]byte

func (q *tapQueue) FD() int            { return q.fd }
func (q *tapQueue) Offloads() []string { return q.offloads }
func (q *tapQueue) Close() error       { return unix.Close(q.fd) }

func (q *tapQueue) Persist(on bool) error {
	value := 0
	if on {
		value = 1
	}
	if err := unix.IoctlSetInt(q.fd, unix.TUNSETPERSIST, value); err != nil {
		return fmt.Errorf("TUNSETPERSIST: %w", err)
	}
	return nil
}

func (q *tapQueue) ReadBatch(b *netio.FrameBatch) error {
	for {
		slot := b.Slot(q.vnetLen)
		if slot == nil {
			return nil
		}
		n, e := sysRead(q.fd, slot)
		switch e {
		case 0:
		case unix.EAGAIN:
			return nil
		case unix.EINTR:
			continue
		default:
			return e
		}
		if n <= q.vnetLen {
			continue
		}
		var v encap.VnetHdr
		if q.vnetLen != 0 {
			v = encap.ParseVnetHdr(slot)
		}
		b.Commit(n-q.vnetLen, v)
	}
}

func (q *tapQueue) WriteBatch(f []netio.OutFrame) (refused int) {
	for i := range f {
		f[i].Errno = q.write(&f[i])
		if f[i].Errno != 0 {
			refused++
		}
	}
	return refused
}

func (q *tapQueue) Inject(frame []byte) unix.Errno {
	q.answer = appendIovec(q.answer[:0], noVnet[:q.vnetLen])
	q.answer = appendIovec(q.answer, frame)
	return writev(q.fd, q.answer)
}

func (q *tapQueue) write(f *netio.OutFrame) unix.Errno {
	q.iov = q.iov[:0]
	if q.vnetLen != 0 {
		f.VNet.Put(q.vnet[:])
		q.iov = appendIovec(q.iov, q.vnet[:])
	}
	for _, p := range f.Parts {
		q.iov = appendIovec(q.iov, p)
	}
	return writev(q.fd, q.iov)
}

// writev puts one frame into the TAP. tun_get_user runs the receiving side's
// stack inline, so it can take long: a plain Syscall, never a raw one, lets the
// garbage collector go on meanwhile. The vectors point to what they hold, which
// keeps it alive.
func writev(fd int, iov []unix.Iovec) unix.Errno {
	for {
		_, _, e := unix.Syscall(unix.SYS_WRITEV, uintptr(fd),
			uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		runtime.KeepAlive(iov)
		if e != unix.EINTR {
			return e
		}
	}
}

// appendIovec appends p, unless it is empty.
func appendIovec(iov []unix.Iovec, p []byte) []unix.Iovec {
	if len(p) == 0 {
		return iov
	}
	v := unix.Iovec{Base: &p[0]}
	v.SetLen(len(p))
	return append(iov, v)
}

func sysRead(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), e
}
