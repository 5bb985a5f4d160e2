package host

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Which of the sixteen addresses of bridge control a bridge forwards is said by two
// masks of a bit each, one of the bridge and one of the port that a frame comes in
// by; either will do (br_handle_frame). The kernel refuses some bits of both.
const (
	// bridgeForwards leaves out STP, PAUSE and LACP (BR_GROUPFWD_RESTRICTED). STP's
	// frames pass while the bridge itself does no STP.
	bridgeForwards = 0xfff8
	// portForwards leaves out PAUSE (BR_GROUPFWD_MACPAUSE). Kernel 4.15.
	portForwards = 0xfffd
)

// bridgeControl has n's bridge forward bridge control frames where a network on it
// passes them: one that was made here from all of its ports, one that was found from
// the TAP. What others set there is theirs.
func (h *Host) bridgeControl(n Network, tap, bridge netlink.Link, p *pass) error {
	if n.Bridge == "" {
		return nil
	}
	passes := n.BridgeControl
	for _, o := range h.networks {
		passes = passes || o.Name != n.Name && o.Bridge == n.Bridge && o.BridgeControl
	}
	if br, ok := bridge.(*netlink.Bridge); ok && h.ours(bridgeMark, bridge) {
		return h.forwardAll(br, passes, p)
	}
	if n.BridgeControl || p.was.BridgeControl || p.first() && tap.Attrs().MasterIndex != 0 {
		return h.forwardFrom(tap.Attrs(), n.BridgeControl)
	}
	return nil
}

// forwardAll has a bridge that was made here forward from all ports, or not.
func (h *Host) forwardAll(br *netlink.Bridge, passes bool, p *pass) error {
	is, want := uint16(0), uint16(0)
	if br.GroupFwdMask != nil {
		is = *br.GroupFwdMask
	}
	if passes {
		want = bridgeForwards
	}
	if is == 0 && want == 0 {
		return nil // and no port of it forwards
	}
	links, err := h.links()
	if err != nil {
		return fmt.Errorf("listing the ports of %s: %w", br.Name, err)
	}
	for _, l := range links {
		if l.Attrs().MasterIndex != br.Index {
			continue
		}
		if err := h.forwardFrom(l.Attrs(), passes); err != nil {
			return err
		}
	}
	if is == want {
		return nil
	}
	if err := h.setBridge(br, unix.IFLA_BR_GROUP_FWD_MASK, nl.Uint16Attr(want)); err != nil {
		return fmt.Errorf("setting group_fwd_mask of the bridge %s to %#x: %w", br.Name, want, err)
	}
	p.did("group_fwd_mask of %s", br.Name)
	return nil
}

// forwardFrom has what comes in by a port be forwarded, or not. A port that has
// left meanwhile needs nothing.
func (h *Host) forwardFrom(port *netlink.LinkAttrs, passes bool) error {
	want := uint16(0)
	if passes {
		want = portForwards
	}
	is, err := h.portForwards(port.Index)
	if err == nil && is != want {
		err = h.nl.LinkSetBRSlaveGroupFwdMask(&netlink.GenericLink{LinkAttrs: *port}, want)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("setting group_fwd_mask of the port %s to %#x: %w", port.Name, want, err)
	}
	return nil
}

// portForwards reads the mask of a port, for which netlink.Link has no field.
func (h *Host) portForwards(index int) (uint16, error) {
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: unix.RTM_GETLINK, Flags: unix.NLM_F_REQUEST},
		Sockets:  h.raw,
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil || len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg {
		return 0, err
	}
	in := answers[0][unix.SizeofIfInfomsg:]
	for _, inner := range []uint16{unix.IFLA_LINKINFO, unix.IFLA_INFO_SLAVE_DATA, unix.IFLA_BRPORT_GROUP_FWD_MASK} {
		attrs, err := nl.ParseRouteAttrAsMap(in)
		if err != nil {
			return 0, fmt.Errorf("reading a port's attributes: %w", err)
		}
		in = attrs[inner].Value
	}
	if len(in) < 2 {
		return 0, nil // of a kernel that has none
	}
	return nl.NativeEndian().Uint16(in), nil
}
