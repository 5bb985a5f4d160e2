package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio/linux/rtnl"
)

// lookup is how the uplink's program asks for a route: the low half is the interface
// index, the high half the flags of bpf_fib_lookup. It must find the route that the
// sockets' packets take, which the kernel looks up as output: as if they came in by
// the loopback device, and with the device that the sockets are bound to.
// bpf_fib_lookup looks up for packets that come in by a device, and only where that
// device forwards (bpf_ipv4_fib_lookup).
type lookup uint64

const (
	loopbackIndex = 1 // LOOPBACK_IFINDEX, in every network namespace
	// fibLookupOutput is BPF_FIB_LOOKUP_OUTPUT.
	fibLookupOutput        = 2
	noLookup        lookup = 0
)

func lookupBy(index, flags uint32) lookup { return lookup(flags)<<32 | lookup(index) }

// routeWatch decides which look-up that is, and follows what it depends on: which
// devices forward, and the rules of policy routing.
type routeWatch struct {
	own    int           // index of the uplink
	only   string        // device that the sockets are bound to; "" = none
	index  func() uint32 // of that device
	v6     bool
	store  func(lookup)
	reason atomic.Pointer[error] // why no look-up is right; nil = one is
	*watch
}

// watchRoutes returns a watch that has store called with the look-up whenever it
// changes, from follow on.
func watchRoutes(u *Uplink, src netip.Addr, store func(lookup)) (*routeWatch, error) {
	groups := []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV4_NETCONF}
	if src.Is6() {
		groups = []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV6_NETCONF}
	}
	mask := uint32(0)
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	events, err := openWatch(unix.NETLINK_ROUTE, mask)
	if err != nil {
		return nil, fmt.Errorf("follow the rules of policy routing: %w", errors.Join(err, events.close()))
	}
	return &routeWatch{
		own: u.index, only: u.only, v6: src.Is6(), store: store, watch: events,
		index: func() uint32 { return u.devices.onlyIndex(u.only) },
	}, nil
}

// follow begins to follow.
func (w *routeWatch) follow() {
	w.look()
	w.start(w.look)
}

// look chooses the look-up.
func (w *routeWatch) look() {
	l, err := w.choose()
	if err != nil {
		l = noLookup
		w.reason.Store(&err)
	} else {
		w.reason.Store(nil)
	}
	w.store(l)
}

// choose returns the look-up that is the sockets' own where the host forwards, as
// one with containers mostly does, and else that of packets which come in by the
// Uplink, as long as no rule distinguishes the two.
func (w *routeWatch) choose() (lookup, error) {
	if w.only != "" {
		if index := w.index(); w.forwards(index) {
			return lookupBy(index, fibLookupOutput), nil
		}
	} else if w.forwards(loopbackIndex) {
		return lookupBy(loopbackIndex, 0), nil
	}
	rule, err := w.ruleBySource()
	if err != nil {
		return noLookup, fmt.Errorf("list the rules of policy routing: %w", err)
	}
	if rule != "" {
		dev := "lo"
		if w.only != "" {
			dev = w.only
		}
		family := "ipv4"
		if w.v6 {
			family = "ipv6"
		}
		return noLookup, fmt.Errorf("a rule of policy routing has %q, which the uplink can follow only where net.%s.conf.%s.forwarding is 1", rule, family, dev)
	}
	if on, err := w.netconf(uint32(w.own)); err == nil && !on { // an error: the TAP is gone, as the next write says
		return noLookup, errors.New("forwarding was switched off, and with it the uplink's device: it works again after a restart")
	}
	return lookupBy(uint32(w.own), 0), nil
}

// Of include/uapi/linux/netconf.h and fib_rules.h.
const (
	netconfaIfindex, netconfaForwarding = 1, 2
	fraIifname, fraOifname              = 3, 17
	fibRuleHdrLen                       = 12
)

func (w *routeWatch) family() byte {
	if w.v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// forwards reports whether the device is there and forwards.
func (w *routeWatch) forwards(index uint32) bool {
	on, err := w.netconf(index)
	return on && err == nil
}

// netconf asks whether packets that come in by the device may be forwarded.
func (w *routeWatch) netconf(index uint32) (on bool, err error) {
	body := []byte{w.family(), 0, 0, 0} // struct netconfmsg, padded
	body = binary.NativeEndian.AppendUint16(body, 8)
	body = binary.NativeEndian.AppendUint16(body, netconfaIfindex)
	body = binary.NativeEndian.AppendUint32(body, index)
	err = rtnl.Request(w.ask, unix.RTM_GETNETCONF, 0, body, func(b []byte) {
		rtnl.Attributes(b, 4, func(kind uint16, value []byte) {
			if kind == netconfaForwarding && len(value) >= 4 {
				on = binary.NativeEndian.Uint32(value) != 0
			}
		})
	})
	return on, err
}

// ruleBySource returns what of a rule distinguishes packets of the sockets from those that
// come in by the uplink; "" when no rule does.
func (w *routeWatch) ruleBySource() (rule string, err error) {
	body := make([]byte, fibRuleHdrLen)
	body[0] = w.family()
	err = rtnl.Request(w.ask, unix.RTM_GETRULE, unix.NLM_F_DUMP, body, func(b []byte) {
		rtnl.Attributes(b, fibRuleHdrLen, func(kind uint16, value []byte) {
			switch name := strings.TrimRight(string(value), "\x00"); {
			case kind == fraIifname && name == "lo":
				rule = "iif lo"
			case kind == fraOifname && name == w.only:
				rule = "oif " + name
			}
		})
	})
	return rule, err
}

// learned reports whether the host has routes of router advertisements. The kernel
// drops them all when a device is set to forward (rt6_purge_dflt_routers).
func (w *routeWatch) learned() (some bool, err error) {
	const protocolAt, rtprotRA = 5, 9
	body := make([]byte, rtnl.MsgLen)
	body[0] = w.family()
	err = rtnl.Request(w.ask, unix.RTM_GETROUTE, unix.NLM_F_DUMP, body, func(b []byte) {
		some = some || len(b) > protocolAt && b[protocolAt] == rtprotRA
	})
	return some, err
}
