package netlab

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// SpanningTree switches the kernel's spanning tree of a bridge on, with a forward
// delay of 2 to 30 seconds, or off.
func (h *Host) SpanningTree(bridge string, on bool, delay time.Duration) error {
	return h.Do(func() error { return SpanningTree(bridge, on, delay) })
}

// SpanningTree is Host.SpanningTree for the calling thread's namespace.
func SpanningTree(bridge string, on bool, delay time.Duration) error {
	l, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("spanning tree of %s: %w", bridge, err)
	}
	state := uint32(0)
	if on {
		state = 1
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(uint32(delay/(10*time.Millisecond)))) // in USER_HZ
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(state))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("spanning tree of %s: %w", bridge, err)
	}
	return nil
}
