package dataplane

import (
	"encoding/binary"
	"net/netip"

	"overtap/dataplane/netio"
	"overtap/encap"
	"overtap/fdb"
)

// The flags and the offset of an IPv4 header's fragment field (RFC 791 section 3.1).
const (
	ipv4FragAt    = 6
	ipv4DontFrag  = 0x4000
	ipv4MoreFrags = 0x2000
	ipv4FragOff   = 0x1fff
)

// fragmentable reports whether the IPv4 packet that b begins with may be fragmented.
func fragmentable(b []byte) bool {
	return len(b) >= encap.IPv4HeaderLen && b[0]>>4 == 4 && binary.BigEndian.Uint16(b[ipv4FragAt:])&ipv4DontFrag == 0
}

// remedied handles a packet that the path to the peer does not take, and reports
// whether it is to be sent on, without DF.
func (o *sender) remedied(u *txPacket, f *netio.Frame, to netip.Addr, id fdb.PeerID, w netio.Conn) bool {
	path := o.at.peers.PathMTU(id)
	if path == fdb.NoRoute {
		o.unrouted(u, f.Data, to)
		return false
	}
	if !u.df {
		return true
	}
	r, l3, mtu := o.at.remedy(f.Data, path, to)
	switch {
	case r == fragmentOuter:
		u.df = false
		o.counters.clearedDF.Add(uint64(u.segs))
		return true
	case r == fragmentInner && o.fragment(u, f, l3, mtu, to, id, w):
	default:
		o.tooLong(u, f.Data, to, id)
	}
	return false
}

// unrouted drops a packet for a peer that the underlay has no route to.
func (o *sender) unrouted(u *txPacket, frame []byte, to netip.Addr) {
	o.counters.drop(DropNoRoute, u.segs, to)
	if o.mirror.on() {
		o.showUndeliverable(DropNoRoute, u, frame, to)
	}
	if o.at.packets {
		o.sendUnreachable(frame, encap.HostUnreachable)
	}
}

// fragment queues what a txPacket stands for, each packet longer than mtu in fragments
// (RFC 791 section 3.2, ip_do_fragment): a header in a slot, and the payload where
// it lies, as for the segments of a GSO packet. One packet of 65535 bytes comes to
// 135 at most. It returns false when the packet's length is not that of its header.
func (o *sender) fragment(u *txPacket, f *netio.Frame, l3, mtu int, to netip.Addr, id fdb.PeerID, w netio.Conn) bool {
	defer func() { u.parts = 0 }() // those it had may be gone to make room
	if !u.super {
		ip := f.Data[l3:]
		headers, length := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if headers < encap.IPv4HeaderLen || length <= headers || length > len(ip) {
			return false
		}
		o.fragmentOne(u, f.Data[:l3+headers], nil, ip[headers:length], l3, mtu, to, id, w)
		return true
	}
	for i := range o.plan.count {
		inner, payload := o.plan.segment(o.cut[:], f.Data, i)
		headers := l3 + int(inner[l3]&0xf)*4
		o.fragmentOne(u, inner[:headers], inner[headers:], payload, l3, mtu, to, id, w)
	}
	return true
}

// fragmentOne queues one packet: header is the run of headers down to IPv4's, l4
// the transport's, which goes with the first fragment, and payload the rest.
func (o *sender) fragmentOne(u *txPacket, header, l4, payload []byte, l3, mtu int, to netip.Addr, id fdb.PeerID, w netio.Conn) {
	ipLen := len(header) - l3
	most := (mtu - ipLen) &^ 7 // of a fragment that is not the last
	total := len(l4) + len(payload)
	count := 1
	if ipLen+total > mtu {
		count = (total + most - 1) / most
		o.counters.offered.Add(uint64(count - 1))
		o.counters.fragmented.Add(1)
	} else {
		most = total
	}
	vxlan := encap.VXLANHeaderLen
	if o.at.packets {
		vxlan = 0
	}
	o.reserve(2*count, count, w)
	for at := 0; at < total; at += most {
		size := min(most, total-at)
		slot := o.header[:headerSlot]
		o.header = o.header[headerSlot:]
		if vxlan != 0 {
			encap.PutVXLAN(slot, o.at.vni)
		}
		n := vxlan + copy(slot[vxlan:], header)
		if count > 1 {
			putFragment(slot[vxlan+l3:n], header[l3:], at, size, at+size < total)
		}
		rest := size
		if at == 0 {
			n += copy(slot[n:], l4)
			rest -= len(l4)
		}
		one := txPacket{
			flow: u.flow, tos: u.tos, df: u.df, copies: u.copies,
			segs: 1, bytes: n - vxlan + rest, first: len(o.parts), parts: 2,
		}
		o.parts = append(o.parts, slot[:n], payload[:rest])
		payload = payload[rest:]
		o.append(one, to, id, w)
	}
}

// putFragment makes ip, a copy of the packet's header was, that of the fragment of
// size bytes at the given one of its payload. A wrong checksum stays wrong.
func putFragment(ip, was []byte, at, size int, more bool) {
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+size))
	field := binary.BigEndian.Uint16(was[ipv4FragAt:])
	frag := field&ipv4MoreFrags | field&ipv4FragOff + uint16(at/8)
	if more {
		frag |= ipv4MoreFrags
	}
	binary.BigEndian.PutUint16(ip[ipv4FragAt:], frag)
	if at != 0 {
		dropOptions(ip[encap.IPv4HeaderLen:])
	}
	// As right or wrong as it was (RFC 1624).
	binary.BigEndian.PutUint16(ip[10:], 0)
	sum := uint32(encap.Fold(encap.Sum(was, 0))) + uint32(^encap.Fold(encap.Sum(ip, 0)))
	binary.BigEndian.PutUint16(ip[10:], uint16(sum>>16)+uint16(sum))
}

// dropOptions overwrites the options that do not go with every fragment by "no
// operation" (RFC 791 section 3.1, ip_options_fragment).
func dropOptions(options []byte) {
	const end, noOperation, copied = 0, 1, 0x80
	for len(options) > 0 {
		n := 1
		switch kind := options[0]; {
		case kind == end:
			return
		case kind != noOperation:
			if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
				return
			}
			n = int(options[1])
			if kind&copied == 0 {
				for i := range n {
					options[i] = noOperation
				}
			}
		}
		options = options[n:]
	}
}
