package netiotest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"overtap/dataplane/netio"
	"overtap/encap"
)

const (
	// maxPayloads is what one UDP_SEGMENT takes: UDP_MAX_SEGMENTS, before
	// kernel 6.9.
	maxPayloads = 64
	// maxParts is UIO_MAXIOV.
	maxParts = 1024
	// maxUDP4 and maxUDP6 are the longest UDP payload by the outer family, of a
	// run as of a single one (__ip_append_data).
	maxUDP4 = 65535 - encap.IPv4HeaderLen - encap.UDPHeaderLen
	maxUDP6 = 65535 - encap.UDPHeaderLen
)

// Payloads returns copies of the UDP payloads that s sends, cut as the kernel
// cuts them, or the inner packets when its port is 0 (IP-in-IP). It is an error
// when s breaks the contract of netio.Send or no socket would take it.
func Payloads(s *netio.Send) ([][]byte, error) {
	addr := s.To.Addr()
	tunnel := s.To.Port() == 0
	most := maxUDP4
	if addr.Is6() {
		most = maxUDP6
	}
	switch {
	case !addr.IsValid() || addr.Is4In6() || tunnel && addr.Is6():
		return nil, fmt.Errorf("destination %s", s.To)
	case s.TTL == 0:
		return nil, errors.New("TTL 0")
	case s.SegSize < 0 || s.SegSize > 0xffff:
		return nil, fmt.Errorf("SegSize %d does not fit UDP_SEGMENT", s.SegSize)
	case len(s.Parts) == 0 || len(s.Parts) > maxParts:
		return nil, fmt.Errorf("%d parts: want 1 to %d", len(s.Parts), maxParts)
	}
	var (
		payloads [][]byte
		at       []byte
		total    int
	)
	for i, p := range s.Parts {
		if len(p) == 0 {
			return nil, fmt.Errorf("part %d is empty", i)
		}
		if s.SegSize != 0 && len(at)+len(p) > s.SegSize {
			return nil, fmt.Errorf("part %d crosses the cut at %d bytes", i, s.SegSize)
		}
		at = append(at, p...)
		total += len(p)
		if len(at) == s.SegSize || i == len(s.Parts)-1 {
			payloads = append(payloads, at)
			at = nil
		}
	}
	if tunnel {
		return payloads, checkPackets(payloads)
	}
	if total > most {
		return nil, fmt.Errorf("%d bytes: the longest datagram or run has %d", total, most)
	}
	if len(payloads) > maxPayloads {
		return nil, fmt.Errorf("%d payloads: UDP_SEGMENT takes %d", len(payloads), maxPayloads)
	}
	for i, p := range payloads {
		if err := checkVXLAN(p); err != nil {
			return nil, fmt.Errorf("payload %d: %w", i, err)
		}
	}
	return payloads, nil
}

// checkPackets wants IPv4 packets that fit into another.
func checkPackets(payloads [][]byte) error {
	for i, b := range payloads {
		p, err := encap.ParseIPv4(b)
		switch {
		case err != nil:
			return fmt.Errorf("packet %d: %w", i, err)
		case len(p) != len(b):
			return fmt.Errorf("packet %d: %d bytes, of which it counts %d", i, len(b), len(p))
		case len(b) > 65535-encap.IPIPOverhead:
			return fmt.Errorf("packet %d: %d bytes do not fit into a packet", i, len(b))
		}
	}
	return nil
}

// checkVXLAN wants the I flag, no other bit but the VNI's, and a whole Ethernet
// header (RFC 7348 section 5).
func checkVXLAN(p []byte) error {
	if len(p) < encap.VXLANHeaderLen+encap.EthernetHeaderLen {
		return fmt.Errorf("%d bytes hold no VXLAN packet", len(p))
	}
	if h := binary.BigEndian.Uint64(p); h&^(uint64(encap.MaxVNI)<<8) != 0x08<<56 {
		return fmt.Errorf("VXLAN header %016x", h)
	}
	return nil
}

// CheckOutFrame is an error when f breaks the contract of dataplane.OutFrame or
// the TAP that s describes would not take it, or would pass it on wrongly.
func CheckOutFrame(s *netio.DeviceSpec, f *netio.OutFrame) error {
	var data []byte
	for i, p := range f.Parts {
		if len(p) == 0 {
			return fmt.Errorf("part %d is empty", i)
		}
		data = append(data, p...)
	}
	if len(data) > netio.MaxFrame {
		return fmt.Errorf("%d bytes: the longest frame has %d", len(data), netio.MaxFrame)
	}
	l3, most, err := network(s, data)
	if err != nil {
		return err
	}
	if s.Plain && f.VNet != (encap.VnetHdr{}) {
		return fmt.Errorf("%+v on a TAP without vnet header", f.VNet)
	}
	gso := f.VNet.GSO()
	if s.NoGSO && gso != encap.VnetGSONone || s.NoUSO && gso == encap.VnetGSOUDPL4 {
		return fmt.Errorf("%+v on a TAP that takes no such GSO packets", f.VNet)
	}
	if err := checkVnet(f.VNet, len(data)); err != nil {
		return fmt.Errorf("%+v of a frame of %d bytes: %w", f.VNet, len(data), err)
	}
	packet := len(data) - l3
	if f.VNet.GSO() != encap.VnetGSONone {
		packet = int(f.VNet.HdrLen) + int(f.VNet.GSOSize) - l3
	}
	if packet > most {
		return fmt.Errorf("packets of %d bytes on a TAP of MTU %d", packet, most)
	}
	return nil
}

// network is where the network header of a frame for the device stands, and the
// longest packet that the device takes.
func network(s *netio.DeviceSpec, data []byte) (l3, most int, err error) {
	if s.TUN {
		if _, err := encap.ParseIPv4(data); err != nil {
			return 0, 0, fmt.Errorf("its IPv4 header: %w", err)
		}
		return 0, int(s.MTU), nil
	}
	eth, err := encap.ParseEthernet(data)
	if err != nil {
		return 0, 0, fmt.Errorf("its Ethernet header: %w", err)
	}
	if t := eth.EtherType(); t != encap.EtherTypeIPv4 && t != encap.EtherTypeIPv6 {
		// A frame that is not IP may be of a kind whose tags are not known.
		return encap.EthernetHeaderLen + 2*encap.VLANTagLen, int(s.MTU), nil
	}
	return eth.L3Offset(), int(s.MTU), nil
}

// checkVnet wants of v what virtio_net_hdr_to_skb of the kernel wants, and the
// headers' length to be right.
func checkVnet(v encap.VnetHdr, size int) error {
	if v.Flags&^(encap.VnetNeedsCsum|encap.VnetDataValid) != 0 {
		return errors.New("unknown flags")
	}
	needs := v.Flags&encap.VnetNeedsCsum != 0
	if needs && (v.CsumStart < encap.EthernetHeaderLen || int(v.CsumStart)+int(v.CsumOffset)+2 > size) {
		return errors.New("the checksum field is outside the frame")
	}
	switch v.GSO() {
	case encap.VnetGSONone:
		if v.GSOType != 0 || v.GSOSize != 0 {
			return errors.New("remains of segmentation")
		}
		return nil
	case encap.VnetGSOTCPv4, encap.VnetGSOTCPv6:
	case encap.VnetGSOUDPL4:
		if v.GSOType&encap.VnetGSOECN != 0 {
			return errors.New("UDP with the flag of TCP's ECN")
		}
	default:
		return errors.New("unknown kind of segmentation")
	}
	switch {
	case !needs:
		return errors.New("segmentation without NEEDS_CSUM")
	case v.GSOSize == 0:
		return errors.New("segments of no size")
	case v.HdrLen <= v.CsumStart+v.CsumOffset || int(v.HdrLen) > size:
		return errors.New("the headers end elsewhere")
	}
	return nil
}
