package uplink

import (
	"encoding/binary"

	"overtap/dataplane/netio"
	"overtap/encap"
)

const (
	// uplinkVnetLen is the length of struct virtio_net_hdr_v1_hash_tunnel
	// (include/uapi/linux/virtio_net.h).
	uplinkVnetLen = 24
	// maxHeader is the longest run of headers before a GSO packet.
	maxHeader = uplinkVnetLen + encap.EthernetHeaderLen + encap.IPv6HeaderLen +
		encap.UDPHeaderLen + encap.VXLANHeaderLen

	// Of that struct: a flag and two gso_types beside the usual ones, and where
	// the offsets of the tunnel stand.
	vnetUDPTunnelCsum              = 8 // VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM
	vnetGSOTunnel4, vnetGSOTunnel6 = 0x20, 0x40
	outerL4At, innerL3At           = 20, 22
)

// header says what stands in the headers before an unsegmented GSO packet. The
// Ethernet header has what the uplink's program (program.go)
// cannot see: which worker asks, and how long the packets of the underlay will
// be. The program puts the next hop's addresses in their place.
type header struct {
	src    []byte // outer source address, of 4 or 16 bytes
	port   uint16 // outer source port
	worker uint16
}

// put writes the headers before the GSO packet w into b, which has
// maxHeader bytes, and returns their length. It is 0 when the GSO packet
// is too long for an outer IP packet.
func (h *header) put(b []byte, w *netio.Unsegmented) int {
	v6 := len(h.src) == 16
	ipLen := encap.IPv4HeaderLen
	if v6 {
		ipLen = encap.IPv6HeaderLen
	}
	l4 := encap.EthernetHeaderLen + ipLen
	outer := l4 + encap.UDPHeaderLen + encap.VXLANHeaderLen
	udpLen := encap.UDPHeaderLen + encap.VXLANHeaderLen + len(w.Data)
	if udpLen > 0xffff || !v6 && ipLen+udpLen > 0xffff {
		return 0
	}
	vnet, eth := b[:uplinkVnetLen], b[uplinkVnetLen:]
	clear(vnet)
	v := w.VNet
	v.Flags = encap.VnetNeedsCsum | vnetUDPTunnelCsum
	v.GSOType |= vnetGSOTunnel4
	if v6 {
		v.GSOType ^= vnetGSOTunnel4 | vnetGSOTunnel6
	}
	packet := ipLen + encap.UDPHeaderLen + encap.VXLANHeaderLen + int(v.HdrLen) + int(v.GSOSize)
	v.HdrLen += uint16(outer)
	v.CsumStart += uint16(outer)
	v.Put(vnet)
	binary.LittleEndian.PutUint16(vnet[outerL4At:], uint16(l4))
	binary.LittleEndian.PutUint16(vnet[innerL3At:], uint16(outer+w.L3))

	clear(eth[:encap.EthernetHeaderLen])
	binary.NativeEndian.PutUint16(eth[6:], h.worker)
	binary.NativeEndian.PutUint16(eth[8:], uint16(min(packet, 0xffff)))
	ip := eth[encap.EthernetHeaderLen:]
	var sum uint64
	if v6 {
		binary.BigEndian.PutUint16(eth[12:], encap.EtherTypeIPv6)
		dst := w.To.Addr().As16()
		binary.BigEndian.PutUint32(ip, 6<<28|uint32(w.TOS)<<20)
		binary.BigEndian.PutUint16(ip[4:], uint16(udpLen))
		ip[6], ip[7] = encap.ProtoUDP, w.TTL
		copy(ip[8:24], h.src)
		copy(ip[24:40], dst[:])
		sum = encap.PseudoSum6([16]byte(ip[8:24]), dst, encap.ProtoUDP, uint32(udpLen))
	} else {
		binary.BigEndian.PutUint16(eth[12:], encap.EtherTypeIPv4)
		dst := w.To.Addr().As4()
		ip[0], ip[1] = 0x45, w.TOS
		binary.BigEndian.PutUint16(ip[2:], uint16(ipLen+udpLen))
		// Identification 0, don't fragment: only such sends leave whole.
		binary.BigEndian.PutUint32(ip[4:], 0x4000)
		ip[8], ip[9] = w.TTL, encap.ProtoUDP
		binary.BigEndian.PutUint16(ip[10:], 0)
		copy(ip[12:16], h.src)
		copy(ip[16:20], dst[:])
		binary.BigEndian.PutUint16(ip[10:], ^encap.Fold(encap.Sum(ip[:ipLen], 0)))
		sum = encap.PseudoSum4([4]byte(ip[12:16]), dst, encap.ProtoUDP, uint32(udpLen))
	}
	udp := ip[ipLen:]
	binary.BigEndian.PutUint16(udp, h.port)
	binary.BigEndian.PutUint16(udp[2:], w.To.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen))
	// The sum of the pseudo-header, not complemented: the stack or the NIC does
	// the rest per packet (kernel udp_set_csum, __skb_udp_tunnel_segment).
	binary.BigEndian.PutUint16(udp[6:], encap.Fold(sum))
	encap.PutVXLAN(udp[encap.UDPHeaderLen:], w.VNI)
	return uplinkVnetLen + outer
}
