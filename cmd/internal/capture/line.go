package capture

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"overtap/dataplane"
)

// timeForm is that of tcpdump.
const timeForm = "15:04:05.000000"

// Line returns a record in one line, in tcpdump's way.
func Line(r *dataplane.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r.Time.Format(timeForm), name(r.Network, r.Point, r.Direction))
	if r.Peer.IsValid() {
		arrow := ">"
		if r.Direction == dataplane.Inbound {
			arrow = "<"
		}
		fmt.Fprintf(&b, " %s %s", arrow, r.Peer)
	}
	if r.Point == dataplane.PointDropped {
		fmt.Fprintf(&b, " (%s)", r.Drop)
	}
	b.WriteString(" " + Summary(r))
	if s := gsoPacket(r); s != "" {
		b.WriteString(" [" + s + "]")
	}
	if r.Answer {
		b.WriteString(" [answered by overtap]")
	}
	return b.String()
}

// JSON is a record as `overtap capture --json` prints it; its names are part of the
// command line's contract.
type JSON struct {
	Time        time.Time           `json:"time"`
	Network     string              `json:"network"` // "" = none
	Kind        dataplane.Kind      `json:"kind"`
	VNI         uint32              `json:"vni"`
	Point       dataplane.Point     `json:"point"`
	Direction   dataplane.Direction `json:"direction"`
	Peer        string              `json:"peer,omitempty"`
	Dropped     string              `json:"dropped,omitempty"` // the reason
	Segments    int                 `json:"segments,omitempty"`
	SegmentSize int                 `json:"segment_size,omitempty"`
	Unfinished  bool                `json:"checksum_unfinished,omitempty"`
	Answer      bool                `json:"answer,omitempty"`
	Length      int                 `json:"length"`  // of the inner frame
	Summary     string              `json:"summary"` // of it, as in a line
	Outer       []byte              `json:"outer,omitempty"`
	Frame       []byte              `json:"frame"` // as far as it was kept; base64
}

// NewJSON returns what is printed of r.
func NewJSON(r *dataplane.Record) JSON {
	j := JSON{
		Time: r.Time, Network: r.Network, Kind: r.Kind, VNI: uint32(r.VNI), Point: r.Point, Direction: r.Direction,
		Segments: r.Segments, SegmentSize: r.SegmentSize, Unfinished: r.Unfinished, Answer: r.Answer,
		Length: r.Length, Summary: Summary(r), Outer: r.Outer, Frame: r.Frame,
	}
	if r.Peer.IsValid() {
		j.Peer = r.Peer.String()
	}
	if r.Point == dataplane.PointDropped {
		j.Dropped = r.Drop.String()
	}
	return j
}

// Summary describes the inner frame in tcpdump's words.
func Summary(r *dataplane.Record) string {
	first := gopacket.LayerType(layers.LayerTypeEthernet)
	if r.Kind == dataplane.KindIPIP {
		first = layers.LayerTypeIPv4
	}
	s := summary{length: r.Length}
	p := gopacket.NewPacket(r.Frame, first, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	for _, l := range p.Layers() {
		if text := s.layer(l); text != "" {
			return s.vlan + text
		}
	}
	return s.vlan + s.rest()
}

// summary is what of a frame was read so far.
type summary struct {
	length   int // of the frame
	link     *layers.Ethernet
	vlan     string
	ip       string // "IP" or "IP6"; "" before it
	src, dst net.IP
	payload  int // bytes behind the IP header
	proto    string
}

// layer takes a layer in, and returns the line when there is no need for more.
func (s *summary) layer(l gopacket.Layer) string {
	switch l := l.(type) {
	case *layers.Ethernet:
		s.link = l
	case *layers.Dot1Q:
		s.vlan += fmt.Sprintf("vlan %d, ", l.VLANIdentifier)
	case *layers.ARP:
		return arp(l)
	case *layers.IPv4:
		s.ip, s.src, s.dst = "IP", l.SrcIP, l.DstIP
		s.payload, s.proto = int(l.Length)-4*int(l.IHL), l.Protocol.String()
		if l.FragOffset != 0 {
			return fmt.Sprintf("%s, fragment at %d, length %d", s.ends("", ""), 8*int(l.FragOffset), s.payload)
		}
	case *layers.IPv6:
		s.ip, s.src, s.dst = "IP6", l.SrcIP, l.DstIP
		s.payload, s.proto = int(l.Length), l.NextHeader.String()
	case *layers.TCP:
		return s.tcp(l)
	case *layers.UDP:
		return fmt.Sprintf("%s: UDP, length %d", s.ends(fmt.Sprint(uint16(l.SrcPort)), fmt.Sprint(uint16(l.DstPort))), int(l.Length)-8)
	case *layers.ICMPv4:
		text := fmt.Sprintf("%s: ICMP %s", s.ends("", ""), l.TypeCode)
		if t := l.TypeCode.Type(); t == layers.ICMPv4TypeEchoRequest || t == layers.ICMPv4TypeEchoReply {
			text += fmt.Sprintf(", id %d, seq %d", l.Id, l.Seq)
		}
		return fmt.Sprintf("%s, length %d", text, s.payload)
	case *layers.ICMPv6:
		return s.icmp6(l)
	}
	return ""
}

// ends are the addresses, with ports where there are some.
func (s *summary) ends(from, to string) string {
	if from != "" {
		from, to = "."+from, "."+to
	}
	return fmt.Sprintf("%s %s%s > %s%s", s.ip, s.src, from, s.dst, to)
}

func (s *summary) tcp(l *layers.TCP) string {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{l.FIN, "F"}, {l.SYN, "S"}, {l.RST, "R"}, {l.PSH, "P"}, {l.ACK, "."}, {l.URG, "U"}, {l.ECE, "E"}, {l.CWR, "W"}} {
		if f.set {
			flags += f.name
		}
	}
	if flags == "" {
		flags = "none"
	}
	length := max(s.payload-4*int(l.DataOffset), 0)
	text := fmt.Sprintf("%s: Flags [%s], seq %d", s.ends(fmt.Sprint(uint16(l.SrcPort)), fmt.Sprint(uint16(l.DstPort))), flags, l.Seq)
	if length > 0 {
		text += fmt.Sprintf(":%d", l.Seq+uint32(length))
	}
	if l.ACK {
		text += fmt.Sprintf(", ack %d", l.Ack)
	}
	return fmt.Sprintf("%s, win %d, length %d", text, l.Window, length)
}

func (s *summary) icmp6(l *layers.ICMPv6) string {
	text := fmt.Sprintf("%s: ICMP6, %s", s.ends("", ""), l.TypeCode)
	b := l.LayerPayload()
	switch l.TypeCode.Type() {
	case layers.ICMPv6TypeNeighborSolicitation, layers.ICMPv6TypeNeighborAdvertisement:
		if len(b) >= 20 { // behind the flags
			text += ", target " + net.IP(b[4:20]).String()
		}
	case layers.ICMPv6TypeEchoRequest, layers.ICMPv6TypeEchoReply:
		if len(b) >= 4 {
			text += fmt.Sprintf(", id %d, seq %d", int(b[0])<<8|int(b[1]), int(b[2])<<8|int(b[3]))
		}
	}
	return fmt.Sprintf("%s, length %d", text, s.payload)
}

// rest describes a frame of which nothing more is known.
func (s *summary) rest() string {
	switch {
	case s.ip != "":
		return fmt.Sprintf("%s: %s, length %d", s.ends("", ""), s.proto, s.payload)
	case s.link != nil:
		return fmt.Sprintf("%s > %s, ethertype %#04x, length %d", s.link.SrcMAC, s.link.DstMAC, uint16(s.link.EthernetType), s.length)
	}
	return fmt.Sprintf("cut off or malformed, length %d", s.length)
}

func arp(l *layers.ARP) string {
	sender, target := net.IP(l.SourceProtAddress), net.IP(l.DstProtAddress)
	if l.Operation == layers.ARPReply {
		return fmt.Sprintf("ARP, reply %s is-at %s", sender, net.HardwareAddr(l.SourceHwAddress))
	}
	return fmt.Sprintf("ARP, request who-has %s tell %s", target, sender)
}
