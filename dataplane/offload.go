package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// OffloadState says whether an offload is at work.
type OffloadState string

// The states.
const (
	OffloadOn          OffloadState = "on"
	OffloadOff         OffloadState = "off"         // switched off by the configuration
	OffloadUnsupported OffloadState = "unsupported" // this host has it not, or not for all devices
	OffloadSuspended   OffloadState = "suspended"   // it failed, and is tried again later
)

// OffloadInfo describes one offload. Its JSON names are part of the command line's
// contract; Name is that of the configuration's key.
type OffloadInfo struct {
	Name   string       `json:"name"`
	State  OffloadState `json:"state"`
	Reason string       `json:"reason,omitempty"` // why it is not on
	Until  time.Time    `json:"until,omitzero"`   // of suspended: when it is tried again everywhere
}

// gsoTaken is what a device takes of GSO packets, and what is joined for it.
type gsoTaken struct {
	tcp, udp bool
	joinUDP  bool
}

// takenBy is what a device that was granted these offloads takes.
func takenBy(o netio.Offloads, granted []string) gsoTaken {
	t := gsoTaken{tcp: slices.Contains(granted, "tso4"), udp: slices.Contains(granted, "uso")}
	t.joinUDP = t.udp && !o.NoJoinUDP
	return t
}

// takes reports whether the device takes GSO packets of the type.
func (t gsoTaken) takes(gso uint8) bool {
	switch gso {
	case encap.VnetGSOTCPv4, encap.VnetGSOTCPv6:
		return t.tcp
	case encap.VnetGSOUDPL4:
		return t.udp
	}
	return true
}

// joins reports whether packets of the transport protocol are joined for the
// device.
func (t gsoTaken) joins(proto uint8) bool {
	if proto == encap.ProtoUDP {
		return t.joinUDP
	}
	return t.tcp
}

const byConfiguration = "by configuration"

// offloads says of each offload whether it is at work.
func (e *Engine) offloads() []OffloadInfo {
	o := e.options.Offloads
	gso := e.refusing(e.tapOffload("tap_gso", o.NoTAPGSO, "tso4"))
	uso := e.tapOffload("tap_uso", o.NoTAPUSO, "uso")
	if o.NoTAPGSO {
		uso = OffloadInfo{Name: uso.Name, State: OffloadOff, Reason: "tap_gso is off"}
	}
	segment, gro := e.backend.SupportsUDP()
	join := switched("join_udp", o.NoJoinUDP, true)
	if join.State == OffloadOn && uso.State != OffloadOn {
		join.State, join.Reason = uso.State, "the devices take no GSO packets of UDP (tap_uso)"
	}
	return []OffloadInfo{
		gso, uso,
		suspended(switched("udp_segment", o.NoUDPSegment, segment), e.backend.RunsRefused()),
		switched("udp_gro", o.NoUDPGRO, gro),
		join,
	}
}

// switched is an offload that the kernel supports or not.
func switched(name string, off, supported bool) OffloadInfo {
	switch {
	case off:
		return OffloadInfo{Name: name, State: OffloadOff, Reason: byConfiguration}
	case !supported:
		return OffloadInfo{Name: name, State: OffloadUnsupported, Reason: "the kernel does not have it"}
	}
	return OffloadInfo{Name: name, State: OffloadOn}
}

// refusing is the offload of GSO packets at TAPs and TUNs where some refuse them.
func (e *Engine) refusing(i OffloadInfo) OffloadInfo {
	var devices []string
	now := time.Now()
	for _, m := range e.snapshot.Load().members {
		o := m.base()
		if !o.singly.Load() {
			continue
		}
		r := o.refusal
		if !r.noted {
			r.note(now)
		}
		if r.until.After(i.Until) {
			i.Until = r.until
		}
		_, device := m.device()
		devices = append(devices, device)
	}
	if len(devices) > 0 {
		i.State = OffloadSuspended
		i.Reason = fmt.Sprintf("refused by %s: %v; packets are written to it one by one", some(devices), unix.EINVAL)
	}
	return i
}

// some lists at most three names.
func some(names []string) string {
	text := strings.Join(names[:min(len(names), 3)], ", ")
	if more := len(names) - 3; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// suspended is UDP_SEGMENT where routes refuse it.
func suspended(i OffloadInfo, refused []netio.RunsRefused) OffloadInfo {
	if i.State != OffloadOn || len(refused) == 0 {
		return i
	}
	i.State = OffloadSuspended
	i.Reason = fmt.Sprintf("the route to %s refused it: %v", refused[0].Peer, refused[0].Errno)
	if more := len(refused) - 1; more > 0 {
		i.Reason += fmt.Sprintf("; those to %d more peers refused it too", more)
	}
	for _, r := range refused {
		if r.Until.After(i.Until) {
			i.Until = r.Until
		}
	}
	return i
}

// tapOffload is an offload of the TAPs and TUNs.
func (e *Engine) tapOffload(name string, off bool, granted string) OffloadInfo {
	var without []string
	for _, m := range e.snapshot.Load().members {
		plain, device := m.device()
		switch {
		case plain:
			off = true
		case !slices.Contains(m.base().devices[0].Offloads(), granted):
			without = append(without, device)
		}
	}
	i := switched(name, off, len(without) == 0)
	if i.State == OffloadUnsupported {
		i.Reason = "the kernel does not grant it to " + some(without)
	}
	return i
}
