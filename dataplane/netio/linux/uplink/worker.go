package uplink

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
)

// Worker is one tx thread's share.
type Worker struct {
	_       [64]byte
	up      *Uplink
	verdict *[2]uint32 // written by the program during the write: verdict and device
	head    header
	iov     [2]unix.Iovec
	buf     [maxHeader]byte
	backoff [64]backoff
	asked   atomic.Uint32 // index of a device that the program does not know
	sent    atomic.Uint64
	refused [refusals]atomic.Uint64
	_       [64]byte
}

// backoff is a peer that was refused a moment ago.
type backoff struct {
	peer  netip.Addr
	until time.Time
}

// A peer's GSO packets take the socket's way for a while after one was refused,
// since each try costs a copy: until its next hop is resolved, say, or until
// its device was looked at.
const (
	backoffBriefly = 100 * time.Millisecond
	backoffOneTick = time.Second
)

// Takes reports whether GSO packets to the peer may be sent.
func (w *Worker) Takes(peer netip.Addr) bool {
	if !w.up.Offers(peer) {
		return false
	}
	s := &w.backoff[backoffSlot(peer)]
	return s.peer != peer || !time.Now().Before(s.until)
}

// Send passes s on unsegmented, or reports false when the socket has to.
func (w *Worker) Send(s *netio.Unsegmented, port uint16) bool {
	w.head.port = port
	return w.judge(s, w.head.put(w.buf[:], s))
}

// judge writes s behind the headers, of n bytes, and notes what became of it.
func (w *Worker) judge(s *netio.Unsegmented, n int) bool {
	u := w.up
	errno, v := w.write(s, n)
	if errno == 0 && v == verdictSent {
		w.sent.Add(1)
		return true
	}
	w.refused[refusal(errno, v)].Add(1)
	shun := backoffBriefly
	switch {
	case errno == unix.EMSGSIZE:
		return false // longer than an outer packet: nothing was written, others may fit
	case errno == unix.EBADFD || errno == unix.EIO:
		// tun_get_user: the TAP was deleted, or is down.
		u.fail(fmt.Errorf("write to %s: %w: it was deleted or set down", u.name, errno))
	case errno == 0 && v == verdictOtherDevice:
		shun = backoffOneTick
		w.asked.Store(w.verdict[1])
	case errno == 0 && v == verdictNone:
		u.fail(fmt.Errorf("%s: the program was detached", u.name))
	}
	peer := s.To.Addr()
	w.backoff[backoffSlot(peer)] = backoff{peer: peer, until: time.Now().Add(shun)}
	return false
}

// write writes the headers, of n bytes, with the GSO packet; n is 0 when that is
// too long.
func (w *Worker) write(s *netio.Unsegmented, n int) (unix.Errno, verdict) {
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

// backoffSlot spreads peers over the slots; two in one slot only shorten the time
// that they are backed off.
func backoffSlot(a netip.Addr) int {
	b := a.As16()
	return int(b[15]^b[14]^b[13]) & 63
}

// Why a GSO packet was refused.
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
