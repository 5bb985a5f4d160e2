package host

import (
	"errors"
	"log/slog"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The TAP's port learns like any other, so that a bridge does not flood what is
// bound for remote containers to all local ones. The price is that a container
// that moves here without speaking would be sent to its old host until the
// bridge's entry ages (300 s). So when a port joins the bridge, or its link
// comes up, the entries learned on the TAP's port are flushed: the next frame to
// the container is flooded and finds it. For the move away nothing is needed:
// the kernel flushes a leaving port's entries itself (br_del_if).

// port is what Watch knows of a link.
type port struct {
	master  int
	parent  int // what it stands on, in this namespace; 0 = nothing
	running bool
}

// event follows one link event, marks what it touches, and flushes when it is a
// port that joined.
func (h *Host) event(ports map[int]port, u netlink.LinkUpdate) {
	index, gone := int(u.Index), u.Header.Type == unix.RTM_DELLINK
	was, known := ports[index]
	is := portOf(u.Link)
	if h.ofHealth(index, was.master, is.master) {
		h.marks.mark()
	}
	// The bridge reports its ports in messages of its own (AF_BRIDGE), beside
	// the link's: of their spanning tree's state by these alone.
	if u.IfInfomsg.Family != unix.AF_UNSPEC {
		return
	}
	if !known || gone || was.master != is.master || was.parent != is.parent {
		h.restacked(u.Attrs().Name, index, was, is)
	}
	h.linkChanged(u)
	if gone {
		delete(ports, index)
		return
	}
	ports[index] = is
	joined := is.master != 0 && (is.master != was.master || is.running && !was.running)
	if !joined {
		return
	}
	if is.master != was.master {
		h.checkMTU(u.Link)
	}
	for _, n := range h.on(is.master) {
		if n.Device != u.Attrs().Name {
			h.flush(n, h.log.With("joined", u.Attrs().Name))
			if n.BridgeControl {
				h.marks.mark(n.Name) // the port is to forward too
			}
		}
	}
}

func portOf(l netlink.Link) port {
	a := l.Attrs()
	p := port{master: a.MasterIndex, running: a.RawFlags&unix.IFF_RUNNING != 0}
	if a.NetNsID < 0 {
		p.parent = a.ParentIndex
	}
	return p
}

// on returns the networks set up on a bridge.
func (h *Host) on(bridge int) []Network {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Network
	for _, n := range h.networks {
		if n.bridge != 0 && n.bridge == bridge {
			all = append(all, n.Network)
		}
	}
	return all
}

// flushAll flushes the TAPs' ports of every bridge.
func (h *Host) flushAll() {
	h.mu.Lock()
	var all []Network
	for _, n := range h.networks {
		if n.bridge != 0 {
			all = append(all, n.Network)
		}
	}
	h.mu.Unlock()
	for _, n := range all {
		h.flush(n, h.log)
	}
}

// flush flushes the port of n's TAP.
func (h *Host) flush(n Network, log *slog.Logger) {
	log = log.With("network", n.Name, "device", n.Device)
	l, err := h.nl.LinkByName(n.Device)
	if err == nil {
		err = h.flushPort(l.Attrs().Index)
	}
	switch {
	case err == nil:
		log.Debug("bridge entries of the TAP's port flushed")
	case gone(err), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		// The TAP is gone or no port any more (br_setlink): nothing to flush.
		log.Debug("no bridge port to flush", "err", err)
	default:
		h.limit.Warn("flush "+n.Name, log, "cannot flush the bridge entries of the TAP's port: a container that moved here may be unreachable until they age", "err", err)
	}
}

// checkMTU names a port that sends frames larger than its network carries: the
// TAP's MTU does not set the containers'.
func (h *Host) checkMTU(l netlink.Link) {
	for _, n := range h.on(l.Attrs().MasterIndex) {
		if l.Attrs().Name != n.Device && l.Attrs().MTU > int(n.MTU) {
			h.limit.Warn("mtu "+n.Name, h.log, "a bridge port's MTU is above the network's: its larger frames will be dropped; set the MTU of both its ends",
				"network", n.Name, "port", l.Attrs().Name, "mtu", l.Attrs().MTU, "want", n.MTU)
		}
	}
}

// flushPort forgets the MACs that the bridge learned on the port of this index,
// and none that was set by hand (IFLA_BRPORT_FLUSH, br_fdb_delete_by_port).
// Netlink and not sysfs' brport/flush, because sysfs shows the network
// namespace of its mount.
func (h *Host) flushPort(index int) error {
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{
			Len:   unix.SizeofNlMsghdr,
			Type:  unix.RTM_SETLINK,
			Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK,
		},
		Sockets: h.raw,
	}
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_FLUSH, nil)
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
