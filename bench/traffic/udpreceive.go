package traffic

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	receiveBatch = 64 // datagrams per system call
	// nap is how long a receiver that has emptied its queue lets it fill.
	// Waking for every datagram costs both ends more than the datagram does.
	nap = 200 * time.Microsecond
	// settle is how long a silence after the end of sending means that what is
	// missing is lost. When nothing is missing one tick is enough, for duplicates
	// to show.
	settle = 8 * beat
)

// listen opens a receiver for dst on the port, or on one of the kernel's choice
// when that is 0, which it then sets.
func (e End) listen(dst netip.Addr, port *uint16) (sock, error) {
	s, err := e.open(unix.SOCK_DGRAM)
	if err != nil {
		return -1, err
	}
	if err := e.bindReceiver(s, dst, port); err != nil {
		s.close()
		return -1, err
	}
	return s, nil
}

func (e End) bindReceiver(s sock, dst netip.Addr, port *uint16) error {
	if err := s.set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sockBuf); err != nil {
		return err
	}
	// A socket bound to a broadcast or multicast address gets what is sent
	// there, and nothing else.
	p, err := s.bind(dst, *port)
	if err != nil {
		return fmt.Errorf("host %s: %w", e.Host.Name(), err)
	}
	*port = p
	if dst.IsMulticast() {
		return e.joinDevice(s, dst, true)
	}
	return nil
}

// receive counts datagrams until all that were sent are in or nothing comes
// any more for the grace, 0 = settle. sent is negative as long as the sender is at
// it.
func (s sock) receive(ctx context.Context, r *record, sent *atomic.Int64, o UDPOptions) error {
	// One byte more than a datagram has, to see when it is too long.
	slot := r.size + 1
	buf := make([]byte, receiveBatch*slot)
	at := func(i int) []byte { return buf[i*slot:][:slot] }
	m := newMessages(receiveBatch, at)
	var first, last time.Time
	grace := cmp.Or(o.Grace, settle)
	for silent := time.Duration(0); ; {
		n, err := m.call(unix.SYS_RECVMMSG, s, receiveBatch, unix.MSG_WAITFORONE)
		if err := expired(ctx, "receive"); err != nil {
			return err
		}
		if err != nil {
			if !again(err) {
				return fmt.Errorf("receive: %w", err)
			}
			if total := sent.Load(); total >= 0 {
				silent += beat
				if silent >= grace || r.res.Received >= total {
					break
				}
			}
			continue
		}
		silent = 0
		last = time.Now()
		if first.IsZero() {
			first = last
		}
		before := r.res.Received
		for i := range n {
			r.take(at(i)[:m.vec[i].n])
		}
		if o.Arrived != nil {
			o.Arrived.Add(r.res.Received - before)
		}
		if n < receiveBatch {
			time.Sleep(nap)
		}
	}
	r.res.Receiving = last.Sub(first)
	overflowed, err := s.overflowed()
	r.res.Overflowed = overflowed
	return err
}

// overflowed returns how many datagrams found the socket's queue full.
func (s sock) overflowed() (int64, error) {
	const skMemInfoDrops, skMemInfoVars = 8, 9 // linux/sock_diag.h
	var info [skMemInfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("read a socket's drops: %w", errno)
	}
	return int64(info[skMemInfoDrops]), nil
}
