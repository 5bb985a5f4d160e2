package filter

import (
	"net/netip"

	"overtap/dataplane"
	"overtap/encap"
)

// Flow names what a frame belongs to; frames of one flow keep their order. The
// fields are comparable, and zero where the frame has no such thing.
type Flow struct {
	Src, Dst         encap.MAC
	EtherType        uint16
	SrcAddr, DstAddr netip.Addr
	Proto            uint8
	SrcPort, DstPort uint16
}

// FlowOf returns the flow of what was seen.
func FlowOf(r *dataplane.Record) Flow {
	var p packet
	p.decode(r.Frame, r.Kind == dataplane.KindVXLAN)
	return Flow{p.srcMAC, p.dstMAC, p.etherType, p.src, p.dst, p.proto, p.srcPort, p.dstPort}
}
