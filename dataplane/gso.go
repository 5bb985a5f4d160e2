package dataplane

import (
	"encoding/binary"

	"overtap/dataplane/netio"
	"overtap/encap"
)

const (
	// maxHeaders is the longest run of inner headers of a segment: Ethernet,
	// two tags, IPv6 with extensions or IPv4 with options, TCP with options.
	maxHeaders = 256 - encap.VXLANHeaderLen
	headerSlot = encap.VXLANHeaderLen + maxHeaders

	tcpFlagsAt         = 13
	tcpSumAt, udpSumAt = 16, 6
)

// finishChecksum completes the partial checksum of a frame that leaves whole:
// the receiver's container would drop it otherwise. It returns false when the
// metadata point outside the frame. (Kernel skb_checksum_help.)
func finishChecksum(f *netio.Frame) bool {
	start := int(f.VNet.CsumStart)
	field := start + int(f.VNet.CsumOffset)
	if start < encap.EthernetHeaderLen || field+2 > len(f.Data) {
		return false
	}
	sum := ^encap.Fold(encap.Sum(f.Data[start:], 0))
	if sum == 0 && f.VNet.CsumOffset == udpSumAt {
		sum = 0xffff // zero says "no checksum" in UDP (RFC 768)
	}
	binary.BigEndian.PutUint16(f.Data[field:], sum)
	return true
}

// plan says how a GSO packet falls into segments.
type plan struct {
	t       encap.Transport
	headers int // bytes of headers that every segment repeats
	size    int // payload bytes a segment, the last possibly shorter
	count   int
}

// longest is the length of the longest frame that it makes.
func (p *plan) longest() int { return p.headers + min(p.size, p.t.End-p.headers) }

// planSegments checks the frame's metadata against its bytes. The vnet header's
// hdr_len is wrong on forwarded frames, so the headers' length is derived. Each
// segment gets a new IPv4 header checksum, here or in the kernel behind the uplink
// (inet_gso_segment), so that of the frame must be right.
func planSegments(f *netio.Frame, t encap.Transport, isIP bool) (plan, Drop) {
	p := plan{t: t, size: int(f.VNet.GSOSize)}
	if !isIP || t.Fragment || p.size == 0 || int(f.VNet.CsumStart) != t.L4 ||
		f.VNet.Flags&encap.VnetNeedsCsum == 0 {
		return p, DropBadOffload
	}
	switch gso := f.VNet.GSO(); {
	case gso == encap.VnetGSOTCPv4 && !t.V6, gso == encap.VnetGSOTCPv6 && t.V6:
		tcp, err := encap.ParseTCP(f.Data[t.L4:t.End])
		if err != nil || t.Proto != encap.ProtoTCP {
			return p, DropBadOffload
		}
		p.headers = t.L4 + tcp.DataOffset()
	case gso == encap.VnetGSOUDPL4:
		if t.Proto != encap.ProtoUDP || t.End-t.L4 < encap.UDPHeaderLen ||
			encap.UDP(f.Data[t.L4:]).Length() != t.End-t.L4 {
			return p, DropBadOffload
		}
		p.headers = t.L4 + encap.UDPHeaderLen
	default:
		return p, DropBadOffload
	}
	switch {
	case p.headers > maxHeaders || p.headers >= t.End:
		return p, DropBadOffload
	case !headerSumRight(f.Data, t):
		return p, DropBadChecksum
	}
	p.count = (t.End - p.headers + p.size - 1) / p.size
	return p, dropNone
}

// vnet is the vnet header of the GSO packet f, without what was wrong in it.
func (p *plan) vnet(f *netio.Frame) encap.VnetHdr {
	v := encap.VnetHdr{
		Flags: encap.VnetNeedsCsum, GSOType: f.VNet.GSOType,
		HdrLen: uint16(p.headers), GSOSize: f.VNet.GSOSize,
		CsumStart: uint16(p.t.L4), CsumOffset: tcpSumAt,
	}
	if p.t.Proto == encap.ProtoUDP {
		v.CsumOffset = udpSumAt
	}
	return v
}

// header writes the VXLAN header and the inner headers of the i-th segment of
// frame into slot and returns them with the payload that follows, which stays
// where it lies in the frame.
func (p *plan) header(slot, frame []byte, vni encap.VNI, i int) (header, payload []byte) {
	encap.PutVXLAN(slot, vni)
	inner, payload := p.segment(slot[encap.VXLANHeaderLen:], frame, i)
	return slot[:encap.VXLANHeaderLen+len(inner)], payload
}

// segment writes the headers of the i-th segment of frame into slot and returns
// them with the payload that follows, as header does. The checksum field of frame
// holds the pseudo-header's sum. It is corrected for the segment's length, not
// made again from the addresses, so that one which is wrong makes no right
// checksum. (Kernel skb_segment, tcp_gso_segment, __udp_gso_segment,
// inet_gso_segment.)
func (p *plan) segment(slot, frame []byte, i int) (inner, payload []byte) {
	from := p.headers + i*p.size
	payload = frame[from:min(from+p.size, p.t.End)]
	return p.headersOf(slot, frame, payload, i), payload
}

// headersOf writes the headers of the i-th segment, whose payload that is, into
// slot and returns them. headers are those of the GSO packet, whatever follows.
func (p *plan) headersOf(slot, headers, payload []byte, i int) []byte {
	inner := slot[:p.headers]
	copy(inner, headers)

	l3, l4 := inner[p.t.L3:], inner[p.t.L4:]
	length := p.headers - p.t.L4 + len(payload) // of transport header and payload
	if p.t.V6 {
		binary.BigEndian.PutUint16(l3[4:], uint16(p.t.L4-p.t.L3-encap.IPv6HeaderLen+length))
	} else {
		ip := encap.IPv4(l3)
		binary.BigEndian.PutUint16(l3[2:], uint16(p.t.L4-p.t.L3+length))
		binary.BigEndian.PutUint16(l3[4:], ip.ID()+uint16(i))
		binary.BigEndian.PutUint16(l3[10:], 0)
		binary.BigEndian.PutUint16(l3[10:], ^encap.Fold(encap.Sum(l3[:p.t.L4-p.t.L3], 0)))
	}
	field := udpSumAt
	if p.t.Proto == encap.ProtoTCP {
		field = tcpSumAt
		binary.BigEndian.PutUint32(l4[4:], encap.TCP(l4).Seq()+uint32(i*p.size))
		if i > 0 {
			l4[tcpFlagsAt] &^= encap.TCPCWR
		}
		if i < p.count-1 {
			l4[tcpFlagsAt] &^= encap.TCPFIN | encap.TCPPSH
		}
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(length))
	}
	pseudo := binary.BigEndian.Uint16(l4[field:])
	pseudo = ^encap.UpdateChecksum(^pseudo, uint16(p.t.End-p.t.L4), uint16(length))
	binary.BigEndian.PutUint16(l4[field:], pseudo)
	checksum := ^encap.Fold(encap.Sum(payload, encap.Sum(l4, 0)))
	if checksum == 0 && field == udpSumAt {
		checksum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[field:], checksum)
	return inner
}

// describe works out the vnet header of a frame that came from the wire. A
// kernel peer on the same machine leaves checksums unfinished, holding the
// pseudo-header's sum only, and sends TCP GSO packets whole: the TAP's kernel
// must finish and cut them. A complete checksum that looks unfinished, one in
// 65536, is merely summed again. segSize is that of an inner UDP GSO packet, 0
// when none was announced. It returns false for a frame larger than the
// network's MTU that cannot be cut. headers is where the payload begins, 0 for
// what is neither TCP nor UDP.
func describe(frame []byte, t encap.Transport, isIP bool, mtu encap.OverlayMTU, segSize int) (v encap.VnetHdr, headers int, ok bool) {
	if !isIP {
		return v, 0, len(frame)-payloadAt(frame) <= int(mtu)
	}
	big := len(frame)-t.L3 > int(mtu) // padding that the TAP would not take counts
	headers, field, ok := transportHeader(frame, t)
	if !ok {
		return v, 0, !big
	}
	if !unfinished(frame, t, field) {
		return v, headers, !big
	}
	v.Flags = encap.VnetNeedsCsum
	v.CsumStart, v.CsumOffset = uint16(t.L4), uint16(field)
	if !big && segSize == 0 {
		return v, headers, true
	}
	v.HdrLen = uint16(headers)
	switch {
	case t.Proto == encap.ProtoUDP:
		v.GSOType, v.GSOSize = encap.VnetGSOUDPL4, uint16(segSize)
	case t.V6:
		v.GSOType, v.GSOSize = encap.VnetGSOTCPv6, mss(mtu, headers-t.L3)
	default:
		v.GSOType, v.GSOSize = encap.VnetGSOTCPv4, mss(mtu, headers-t.L3)
	}
	if t.Proto == encap.ProtoTCP && frame[t.L4+tcpFlagsAt]&encap.TCPCWR != 0 {
		v.GSOType |= encap.VnetGSOECN
	}
	return v, headers, v.GSOSize != 0 && headers-t.L3+int(v.GSOSize) <= int(mtu) && t.End == len(frame)
}

// payloadAt is where the packet begins in a frame in which no whole IP header was
// found. The tags of what is not IP at all may be of a kind that is not known here.
func payloadAt(frame []byte) int {
	if eth, err := encap.ParseEthernet(frame); err == nil {
		if t := eth.EtherType(); t == encap.EtherTypeIPv4 || t == encap.EtherTypeIPv6 {
			return eth.L3Offset()
		}
	}
	return encap.EthernetHeaderLen + 2*encap.VLANTagLen
}

// mss is the payload that fits an MTU behind headers of IP and TCP.
func mss(mtu encap.OverlayMTU, headers int) uint16 {
	return uint16(max(int(mtu)-headers, 0))
}

// transportHeader returns where the TCP or UDP header ends in the frame and
// where its checksum field stands from t.L4.
func transportHeader(frame []byte, t encap.Transport) (end, field int, ok bool) {
	if t.Fragment {
		return 0, 0, false
	}
	switch t.Proto {
	case encap.ProtoTCP:
		tcp, err := encap.ParseTCP(frame[t.L4:t.End])
		if err != nil {
			return 0, 0, false
		}
		return t.L4 + tcp.DataOffset(), tcpSumAt, true
	case encap.ProtoUDP:
		return t.L4 + encap.UDPHeaderLen, udpSumAt, t.End-t.L4 >= encap.UDPHeaderLen
	}
	return 0, 0, false
}

// unfinished reports whether the checksum field holds the pseudo-header's sum.
func unfinished(frame []byte, t encap.Transport, field int) bool {
	stored := binary.BigEndian.Uint16(frame[t.L4+field:])
	if stored == 0 {
		return false // UDP without a checksum; a sum of addresses is never zero
	}
	length := uint32(t.End - t.L4)
	if t.V6 {
		ip := encap.IPv6(frame[t.L3:])
		return stored == encap.Fold(encap.PseudoSum6(ip.SrcBytes(), ip.DstBytes(), t.Proto, length))
	}
	ip := encap.IPv4(frame[t.L3:])
	return stored == encap.Fold(encap.PseudoSum4(ip.SrcBytes(), ip.DstBytes(), t.Proto, length))
}
