package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// errIPsec says why the uplink rests: it passes by the transforms that the
// socket's packets would take, and what has to be encrypted must not leave in
// the clear.
var errIPsec = errors.New("the host has IPsec policies")

// ipsecWatch knows whether the host has IPsec policies for what leaves it. It
// listens for changes, so that the time in which a first policy is not yet
// known is that of a thread's wake-up.
type ipsecWatch struct {
	active atomic.Bool
	events int // netlink, subscribed to XFRMNLGRP_POLICY
	ask    int // netlink, for questions
	stop   int // eventfd
	done   sync.WaitGroup
}

// Of include/uapi/linux/xfrm.h.
const (
	xfrmMsgGetSPDInfo = 0x25 // XFRM_MSG_GETSPDINFO
	xfrmMsgGetDefault = 0x28 // XFRM_MSG_GETDEFAULT
	xfrmaSPDInfo      = 1    // XFRMA_SPD_INFO of XFRM_MSG_NEWSPDINFO
	xfrmGroupPolicy   = 4    // XFRMNLGRP_POLICY
	xfrmDefaultBlock  = 1    // XFRM_USERPOLICY_BLOCK
	xfrmDefaultOut    = 2    // offset of .out in struct xfrm_userpolicy_default
	spdInfoOut        = 4    // offset of .outcnt in struct xfrmu_spdinfo
)

func watchIPsec() (*ipsecWatch, error) {
	w := &ipsecWatch{events: -1, ask: -1, stop: -1}
	fail := func(err error) (*ipsecWatch, error) {
		return nil, fmt.Errorf("watch IPsec policies: %w", errors.Join(err, w.close()))
	}
	var err error
	w.events, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_XFRM)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return w, nil // a kernel without IPsec
	}
	if err != nil {
		return fail(err)
	}
	if err := unix.Bind(w.events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (xfrmGroupPolicy - 1)}); err != nil {
		return fail(err)
	}
	if w.ask, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM); err != nil {
		return fail(err)
	}
	if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fail(err)
	}
	if err := w.look(); err != nil {
		return fail(err)
	}
	w.done.Go(w.listen)
	return w, nil
}

// listen looks again whenever anything about policies changed. It sleeps in a
// thread of its own, so that the runtime's poller stays off.
func (w *ipsecWatch) listen() {
	news := make([]byte, 1<<16)
	fds := []unix.PollFd{{Fd: int32(w.stop), Events: unix.POLLIN}, {Fd: int32(w.events), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil {
			continue // EINTR
		}
		if fds[0].Revents != 0 {
			return
		}
		for { // what it says does not matter, nor whether some was lost (ENOBUFS)
			if _, _, err := unix.Recvfrom(w.events, news, 0); errors.Is(err, unix.EAGAIN) {
				break
			}
		}
		if w.look() != nil {
			w.active.Store(true) // who cannot know must not send in the clear
		}
	}
}

// look asks for the number of policies and for the default.
func (w *ipsecWatch) look() error {
	info, err := w.request(xfrmMsgGetSPDInfo)
	if err != nil {
		return fmt.Errorf("count them: %w", err)
	}
	// Behind four bytes of flags comes struct xfrmu_spdinfo as the first
	// attribute (kernel build_spdinfo).
	if len(info) < 4+unix.SizeofRtAttr+spdInfoOut+4 || binary.NativeEndian.Uint16(info[6:]) != xfrmaSPDInfo {
		return fmt.Errorf("count them: an answer of %d bytes", len(info))
	}
	active := binary.NativeEndian.Uint32(info[4+unix.SizeofRtAttr+spdInfoOut:]) != 0
	if standard, err := w.request(xfrmMsgGetDefault); err == nil && len(standard) > xfrmDefaultOut {
		active = active || standard[xfrmDefaultOut] == xfrmDefaultBlock
	}
	w.active.Store(active)
	return nil
}

// request sends a message of four zero bytes and returns the body of the answer.
func (w *ipsecWatch) request(kind uint16) ([]byte, error) {
	q := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(q, uint32(len(q)))
	binary.NativeEndian.PutUint16(q[4:], kind)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(w.ask, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(w.ask, b, 0)
	if err != nil {
		return nil, err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return nil, fmt.Errorf("an answer of %d bytes", n)
	}
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return nil, unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])))
	}
	return b[unix.SizeofNlMsghdr:n], nil
}

func (w *ipsecWatch) close() error {
	if w.stop >= 0 {
		_, _ = unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 1})
	}
	w.done.Wait()
	var errs []error
	for _, fd := range []int{w.stop, w.events, w.ask} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
