// Package bridgeport reads the state in which the kernel's bridge, or a spanning
// tree protocol, keeps the ports of bridges.
package bridgeport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// State is the state of a bridge's port: BR_STATE_… of Linux
// include/uapi/linux/if_bridge.h. Only a forwarding port passes frames
// (should_deliver in net/bridge/br_forward.c).
type State uint8

// The states.
const (
	Disabled State = iota
	Listening
	Learning
	Forwarding
	Blocking
)

var names = [...]string{"disabled", "listening", "learning", "forwarding", "blocking"}

// String returns the word that `bridge link` has for the state.
func (s State) String() string {
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Starting reports whether a spanning tree protocol is about to let the port
// forward, within twice the bridge's forward delay (15 s by default).
func (s State) Starting() bool { return s == Listening || s == Learning }

// Port is a port of a bridge.
type Port struct {
	Bridge int // its interface index
	State  State
}

// List returns every bridge port of the network namespace that the sockets belong
// to, by interface index.
func List(sockets map[int]*nl.SocketHandle) (map[int]Port, error) {
	var all map[int]Port
	var err error
	for range 4 { // until no change tears the dump (NLM_F_DUMP_INTR)
		if all, err = list(sockets); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing the ports of bridges: %w", err)
	}
	return all, nil
}

// list asks once (br_getlink, which br_fill_ifinfo answers).
func list(sockets map[int]*nl.SocketHandle) (map[int]Port, error) {
	req := &nl.NetlinkRequest{
		NlMsghdr: unix.NlMsghdr{Len: unix.SizeofNlMsghdr, Type: unix.RTM_GETLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP},
		Sockets:  sockets,
	}
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	all := make(map[int]Port)
	for _, m := range msgs {
		if index, p, ok := read(m); ok {
			all[index] = p
		}
	}
	return all, nil
}

// read reads a message, if it is one of a port.
func read(m []byte) (index int, p Port, ok bool) {
	if len(m) < unix.SizeofIfInfomsg {
		return 0, Port{}, false
	}
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return 0, Port{}, false
	}
	for _, a := range attrs {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case unix.IFLA_MASTER:
			if len(a.Value) == 4 {
				p.Bridge = int(binary.NativeEndian.Uint32(a.Value))
			}
		case unix.IFLA_PROTINFO:
			info, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return 0, Port{}, false
			}
			for _, i := range info {
				if i.Attr.Type == nl.IFLA_BRPORT_STATE && len(i.Value) == 1 {
					p.State, ok = State(i.Value[0]), true
				}
			}
		}
	}
	return int(nl.DeserializeIfInfomsg(m).Index), p, ok
}
