package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio/linux/rtnl"
)

// errIPsec says why the uplink rests: it passes by the transforms that the
// socket's packets would take, and what has to be encrypted must not leave in
// the clear.
var errIPsec = errors.New("the host has IPsec policies")

// ipsecWatch knows whether the host has IPsec policies for what leaves it.
type ipsecWatch struct {
	*watch
	active atomic.Bool
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
	events, err := openWatch(unix.NETLINK_XFRM, 1<<(xfrmGroupPolicy-1))
	w := &ipsecWatch{watch: events}
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return w, nil // a kernel without IPsec
	}
	if err == nil {
		err = w.look()
	}
	if err != nil {
		return nil, fmt.Errorf("watch IPsec policies: %w", errors.Join(err, w.close()))
	}
	w.start(func() {
		if w.look() != nil {
			w.active.Store(true) // what cannot be known must not leave in the clear
		}
	})
	return w, nil
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
func (w *ipsecWatch) request(kind uint16) (body []byte, err error) {
	err = rtnl.Request(w.ask, kind, 0, make([]byte, 4), func(b []byte) { body = b })
	return body, err
}
