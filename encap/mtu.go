package encap

import "fmt"

// OverlayMTU is the largest inner IP packet in bytes that a network carries:
// what the containers' devices are set to. The inner Ethernet header does not
// count.
type OverlayMTU uint16

// UnderlayMTU is the largest outer IP packet in bytes that the path between two
// VTEPs carries.
type UnderlayMTU uint32

// Bytes that stand around an inner frame or packet.
const (
	EthernetHeaderLen = 14
	VLANTagLen        = 4
	IPv4HeaderLen     = 20
	IPv6HeaderLen     = 40
	UDPHeaderLen      = 8

	// VXLANOverhead4 and VXLANOverhead6 are what VXLAN adds to an inner IP
	// packet over IPv4 and IPv6: outer IP, UDP, VXLAN and inner Ethernet
	// headers. Every inner 802.1Q tag adds VLANTagLen.
	VXLANOverhead4 = IPv4HeaderLen + UDPHeaderLen + VXLANHeaderLen + EthernetHeaderLen
	VXLANOverhead6 = IPv6HeaderLen + UDPHeaderLen + VXLANHeaderLen + EthernetHeaderLen

	// IPIPOverhead is what IP-in-IP (RFC 2003) adds: the outer IPv4 header.
	IPIPOverhead = IPv4HeaderLen
)

// MinOverlayMTU4 and MinOverlayMTU6 are the least that IPv4 (RFC 791) and IPv6
// (RFC 8200 section 5) can live with.
const (
	MinOverlayMTU4 OverlayMTU = 68
	MinOverlayMTU6 OverlayMTU = 1280
)

// MinUnderlayMTU4 and MinUnderlayMTU6 are the least path MTUs that are believed:
// what Linux lets a router's word bring it down to over IPv4 (ip_rt_min_pmtu's
// default), and IPv6's least MTU (RFC 8201 section 4).
const (
	MinUnderlayMTU4 UnderlayMTU = 552
	MinUnderlayMTU6 UnderlayMTU = 1280
)

// VXLANOverlay returns the overlay MTU that fits an underlay of MTU u, over
// IPv6 when v6. It is an error when nothing useful is left.
func (u UnderlayMTU) VXLANOverlay(v6 bool) (OverlayMTU, error) {
	over := UnderlayMTU(VXLANOverhead4)
	if v6 {
		over = VXLANOverhead6
	}
	if u < over+UnderlayMTU(MinOverlayMTU4) {
		return 0, fmt.Errorf("underlay MTU %d: want at least %d, %d of which are VXLAN's overhead",
			u, over+UnderlayMTU(MinOverlayMTU4), over)
	}
	return OverlayMTU(min(u-over, 65535)), nil
}

// VXLANUnderlay returns the underlay MTU that carries overlay MTU o whole.
func (o OverlayMTU) VXLANUnderlay(v6 bool) UnderlayMTU {
	if v6 {
		return UnderlayMTU(o) + VXLANOverhead6
	}
	return UnderlayMTU(o) + VXLANOverhead4
}

// IPIPOverlay returns the overlay MTU that fits an underlay of MTU u through
// IP-in-IP. It is an error when nothing useful is left.
func (u UnderlayMTU) IPIPOverlay() (OverlayMTU, error) {
	if u < IPIPOverhead+UnderlayMTU(MinOverlayMTU4) {
		return 0, fmt.Errorf("underlay MTU %d: want at least %d, %d of which are IP-in-IP's overhead",
			u, IPIPOverhead+UnderlayMTU(MinOverlayMTU4), IPIPOverhead)
	}
	return OverlayMTU(min(u-IPIPOverhead, 65535)), nil
}

// IPIPUnderlay returns the underlay MTU that carries overlay MTU o whole
// through IP-in-IP.
func (o OverlayMTU) IPIPUnderlay() UnderlayMTU { return UnderlayMTU(o) + IPIPOverhead }

// FrameLen returns the length in bytes of the longest Ethernet frame that
// overlay MTU o allows with the given number of VLAN tags.
func (o OverlayMTU) FrameLen(tags int) int { return EthernetHeaderLen + tags*VLANTagLen + int(o) }
