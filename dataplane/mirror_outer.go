package dataplane

import (
	"encoding/binary"
	"net/netip"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// outerHeaders puts together what stands before the frame on the wire. data are
// the bytes that were kept, with the VXLAN header where s has it. A socket hands
// over payloads only, so IP and UDP are made of what is known beside them; the
// result lies in the memory of this Read.
func (m *Mirror) outerHeaders(s *sighting, data []byte, r *Record) []byte {
	self := m.engine.options.Underlay
	src, dst := self, s.peer
	if s.way == Inbound {
		src, dst = dst, src
	}
	first := len(m.outer)
	length := r.Length // of what is behind the IP header
	if r.Kind == KindIPIP {
		m.putIP(s, src, dst, self.Is6(), encap.ProtoIPIP, length)
		return m.outer[first:]
	}
	if s.has&hasHeader != 0 || s.of != nil {
		length += encap.VXLANHeaderLen
	}
	length += encap.UDPHeaderLen
	m.putIP(s, src, dst, self.Is6(), encap.ProtoUDP, length)
	udp := len(m.outer)
	port, source := s.port, s.source
	if s.of != nil {
		port = s.of.udpPort
	}
	if s.way == Outbound {
		source = m.engine.backend.SourcePort(s.flow, s.has&hasDF != 0)
	}
	m.outer = binary.BigEndian.AppendUint16(m.outer, source)
	m.outer = binary.BigEndian.AppendUint16(m.outer, port)
	m.outer = binary.BigEndian.AppendUint16(m.outer, uint16(min(length, 0xffff)))
	m.outer = append(m.outer, 0, 0)
	switch {
	case s.has&hasHeader != 0:
		m.outer = append(m.outer, data[:encap.VXLANHeaderLen]...)
	case s.of != nil: // the header was taken off, or the uplink puts it on
		m.outer = append(m.outer, make([]byte, encap.VXLANHeaderLen)...)
		encap.PutVXLAN(m.outer[len(m.outer)-encap.VXLANHeaderLen:], s.of.vni)
	}
	if self.Is6() && len(r.Frame) == r.Length {
		// Over IPv4 zero says "none"; over IPv6 it must not be (RFC 8200 section 8.1).
		finishOuter6(m.outer[udp:], r.Frame, src, dst)
	}
	return m.outer[first:len(m.outer):len(m.outer)]
}

// putIP appends an outer IP header before length bytes of the protocol.
func (m *Mirror) putIP(s *sighting, src, dst netip.Addr, v6 bool, protocol uint8, length int) {
	ttl := s.ttl
	if ttl == 0 {
		ttl = netio.DefaultTTL // of what came in it is not known
	}
	if v6 {
		m.outer = binary.BigEndian.AppendUint32(m.outer, 6<<28|uint32(s.tos)<<20)
		m.outer = binary.BigEndian.AppendUint16(m.outer, uint16(min(length, 0xffff)))
		m.outer = append(m.outer, protocol, ttl)
		a, b := outer6(src), outer6(dst)
		m.outer = append(append(m.outer, a[:]...), b[:]...)
		return
	}
	first := len(m.outer)
	m.outer = append(m.outer, 0x45, s.tos)
	m.outer = binary.BigEndian.AppendUint16(m.outer, uint16(min(encap.IPv4HeaderLen+length, 0xffff)))
	df := byte(0)
	if s.has&hasDF != 0 {
		df = ipv4DF
	}
	m.outer = append(m.outer, 0, 0, df, 0, ttl, protocol, 0, 0)
	a, b := outer4(src), outer4(dst)
	m.outer = append(append(m.outer, a[:]...), b[:]...)
	ip := m.outer[first:]
	binary.BigEndian.PutUint16(ip[10:], ^encap.Fold(encap.Sum(ip, 0)))
}

// finishOuter6 sums the UDP datagram whose headers head are, with the frame behind
// them.
func finishOuter6(head, frame []byte, src, dst netip.Addr) {
	sum := encap.PseudoSum6(outer6(src), outer6(dst), encap.ProtoUDP, uint32(len(head)+len(frame)))
	checksum := ^encap.Fold(encap.Sum(frame, encap.Sum(head, sum)))
	if checksum == 0 {
		checksum = 0xffff
	}
	binary.BigEndian.PutUint16(head[6:], checksum)
}

// outer4 is the address, or 0.0.0.0 for one that is not known.
func outer4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		b = a.As4()
	}
	return b
}

// outer6 is the address, or :: for one that is not known.
func outer6(a netip.Addr) (b [16]byte) {
	if a.Is6() {
		b = a.As16()
	}
	return b
}
