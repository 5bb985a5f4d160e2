package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockBuf is how much the sockets of a UDP run queue, in bytes of the kernel's
// accounting: enough that a receiver that waits its turn for a CPU loses nothing.
const sockBuf = 32 << 20

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// messages is a vector of them, each with one buffer.
type messages struct {
	vec []mmsghdr
	iov []unix.Iovec
}

// newMessages has message i use the bytes that at(i) returns.
func newMessages(n int, at func(int) []byte) *messages {
	m := &messages{make([]mmsghdr, n), make([]unix.Iovec, n)}
	for i := range n {
		b := at(i)
		m.iov[i].Base = &b[0]
		m.iov[i].SetLen(len(b))
		m.vec[i].hdr.Iov = &m.iov[i]
		m.vec[i].hdr.SetIovlen(1)
	}
	return m
}

// call runs sendmmsg or recvmmsg on the first count messages and returns how
// many went.
func (m *messages) call(trap uintptr, s sock, count, flags int) (int, error) {
	n, _, errno := unix.Syscall6(trap, uintptr(s), uintptr(unsafe.Pointer(&m.vec[0])),
		uintptr(count), uintptr(flags), 0, 0)
	runtime.KeepAlive(m)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// flood sends the run's datagrams and returns how many the kernel took and how
// long that lasted.
func (e End) flood(ctx context.Context, dst netip.AddrPort, run uint32, o UDPOptions) (int64, time.Duration, error) {
	s, err := e.open(unix.SOCK_DGRAM)
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	if err := e.aim(s, dst, o); err != nil {
		return 0, 0, err
	}
	p := newPackets(run, o.Batch, o.Size)
	m := newMessages(o.Batch, p.at)
	var sent int64
	start := time.Now()
	for {
		if err := expired(ctx, "send"); err != nil {
			return sent, time.Since(start), err
		}
		elapsed := time.Since(start)
		if o.Duration > 0 && elapsed >= o.Duration {
			break
		}
		n := int64(o.Batch)
		if o.Rate > 0 {
			n = min(n, int64(o.Rate*elapsed.Seconds())+1-sent)
		}
		if o.Count > 0 {
			n = min(n, o.Count-sent)
			if sent == o.Count {
				break
			}
		}
		if n <= 0 {
			// Until the next is due, but no shorter than a timer is good for.
			due := time.Duration(float64(sent) / o.Rate * float64(time.Second))
			time.Sleep(max(due-elapsed, 100*time.Microsecond))
			continue
		}
		if sent+n > maxPackets {
			return sent, elapsed, fmt.Errorf("more than %d datagrams: want a shorter run", int64(maxPackets))
		}
		for i := range int(n) {
			p.number(i, uint64(sent)+uint64(i))
		}
		took, err := s.sendBatch(p, m, int(n), o.Segment)
		sent += int64(took)
		if err != nil {
			return sent, elapsed, fmt.Errorf("send: %w", err)
		}
	}
	return sent, time.Since(start), nil
}

// aim binds the socket to the end and connects it to dst.
func (e End) aim(s sock, dst netip.AddrPort, o UDPOptions) error {
	if err := s.set(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sockBuf); err != nil {
		return err
	}
	if err := s.set(unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		return err
	}
	if o.Segment {
		if err := s.set(unix.IPPROTO_UDP, unix.UDP_SEGMENT, o.Size); err != nil {
			return err
		}
	}
	if _, err := s.bind(e.Addr, 0); err != nil {
		return err
	}
	if dst.Addr().IsMulticast() {
		if err := e.joinDevice(s, dst.Addr(), false); err != nil {
			return err
		}
	}
	if err := unix.Connect(int(s), sockaddr(dst)); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// SendBatch sends the first n datagrams and returns how many the kernel took:
// fewer when it has no room now.
func (s sock) sendBatch(p *packets, m *messages, n int, segment bool) (took int, err error) {
	if segment {
		took = n
		_, err = unix.Write(int(s), p.buf[:n*p.size])
	} else {
		took, err = m.call(unix.SYS_SENDMMSG, s, n, 0)
	}
	switch {
	case err == nil:
		return took, nil
	case errors.Is(err, unix.ENOBUFS):
		time.Sleep(nap)
		return 0, nil
	case again(err), unreachable(err):
		return 0, nil
	}
	return 0, err
}
