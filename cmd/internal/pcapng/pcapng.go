// Package pcapng writes captures in the form of
// draft-ietf-opsawg-pcapng: one section, whose interfaces are described as they
// are first needed, with nanosecond timestamps and a comment on each packet.
// gopacket's writer of that form has no comments on packets.
package pcapng

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// LinkType says what a packet begins with (https://www.tcpdump.org/linktypes.html).
type LinkType uint16

// The link types that overlays have.
const (
	Ethernet LinkType = 1
	Raw      LinkType = 101 // an IPv4 or IPv6 header
)

// Interface is where packets were seen.
type Interface struct {
	Name        string
	Description string
	LinkType    LinkType
	SnapLen     uint32 // the most that is kept of a packet; 0 = all
}

// Direction is the way of a packet as its host sees it.
type Direction uint32

// The directions, as bits of epb_flags.
const (
	Unknown  Direction = 0
	Inbound  Direction = 1
	Outbound Direction = 2
)

// Packet is one to write; its Data is the concatenation of the parts.
type Packet struct {
	Interface int // its number, from AddInterface
	Time      time.Time
	Data      [2][]byte
	Length    int // of the whole packet, of which Data may be the start
	Direction Direction
	Comment   string // "" = none
}

// Block types and options of the draft's sections 4.1 to 4.6 and 3.5.
const (
	sectionHeader       = 0x0a0d0d0a
	interfaceBlock      = 1
	interfaceStatistics = 5
	enhancedPacket      = 6
	byteOrderMagic      = 0x1a2b3c4d

	optEnd        = 0
	optComment    = 1
	shbUserAppl   = 4
	ifName        = 2
	ifDescription = 3
	ifTSResol     = 9
	epbFlags      = 2
	isbStart      = 2
	isbEnd        = 3
	isbIfRecv     = 4
	isbIfDrop     = 5

	nanoseconds = 9 // negative power of ten
)

// Writer writes one section. It does not buffer: each block is one Write.
type Writer struct {
	w          io.Writer
	b          []byte // of the current block
	interfaces int
	received   []uint64
	start      time.Time
}

// NewWriter begins the section. application is who wrote it.
func NewWriter(w io.Writer, application string) (*Writer, error) {
	n := &Writer{w: w, start: time.Now()}
	n.begin(sectionHeader)
	n.u32(byteOrderMagic)
	n.u16(1) // version 1.0
	n.u16(0)
	n.b = binary.LittleEndian.AppendUint64(n.b, 1<<64-1) // length not known
	n.option(shbUserAppl, application)
	return n, n.end()
}

// AddInterface describes an interface and returns its number.
func (n *Writer) AddInterface(i Interface) (int, error) {
	n.begin(interfaceBlock)
	n.u16(uint16(i.LinkType))
	n.u16(0)
	n.u32(i.SnapLen)
	n.option(ifName, i.Name)
	if i.Description != "" {
		n.option(ifDescription, i.Description)
	}
	n.option(ifTSResol, string([]byte{nanoseconds}))
	n.interfaces++
	n.received = append(n.received, 0)
	return n.interfaces - 1, n.end()
}

// WritePacket writes one on an interface that was added.
func (n *Writer) WritePacket(p *Packet) error {
	if p.Interface < 0 || p.Interface >= n.interfaces {
		return fmt.Errorf("write a packet: there is no interface %d", p.Interface)
	}
	n.received[p.Interface]++
	n.begin(enhancedPacket)
	n.u32(uint32(p.Interface))
	n.time(p.Time)
	size := len(p.Data[0]) + len(p.Data[1])
	n.u32(uint32(size))
	n.u32(uint32(max(p.Length, size)))
	n.b = append(append(n.b, p.Data[0]...), p.Data[1]...)
	n.pad()
	if p.Direction != Unknown {
		n.option(epbFlags, string(binary.LittleEndian.AppendUint32(nil, uint32(p.Direction))))
	}
	if p.Comment != "" {
		n.option(optComment, p.Comment)
	}
	return n.end()
}

// Finish writes the statistics of each interface, and on the first, with the
// comment, how many packets were dropped at any of them.
func (n *Writer) Finish(dropped uint64, comment string) error {
	for i := range n.interfaces {
		n.begin(interfaceStatistics)
		n.u32(uint32(i))
		n.time(time.Now())
		if i == 0 && comment != "" {
			n.option(optComment, comment)
		}
		n.option(isbStart, string(n.stamp(nil, n.start)))
		n.option(isbEnd, string(n.stamp(nil, time.Now())))
		n.option(isbIfRecv, string(binary.LittleEndian.AppendUint64(nil, n.received[i])))
		if i == 0 {
			n.option(isbIfDrop, string(binary.LittleEndian.AppendUint64(nil, dropped)))
		}
		if err := n.end(); err != nil {
			return err
		}
	}
	return nil
}

func (n *Writer) begin(block uint32) {
	n.b = n.b[:0]
	n.u32(block)
	n.u32(0) // its length, once known
}

func (n *Writer) u16(v uint16) { n.b = binary.LittleEndian.AppendUint16(n.b, v) }
func (n *Writer) u32(v uint32) { n.b = binary.LittleEndian.AppendUint32(n.b, v) }

func (n *Writer) time(t time.Time) { n.b = n.stamp(n.b, t) }

// stamp appends a timestamp: its high word, then its low.
func (n *Writer) stamp(b []byte, t time.Time) []byte {
	ns := uint64(t.UnixNano())
	b = binary.LittleEndian.AppendUint32(b, uint32(ns>>32))
	return binary.LittleEndian.AppendUint32(b, uint32(ns))
}

func (n *Writer) pad() {
	for len(n.b)%4 != 0 {
		n.b = append(n.b, 0)
	}
}

// option appends one; what is longer than its length can say is cut.
func (n *Writer) option(code uint16, value string) {
	value = value[:min(len(value), 0xffff)]
	n.u16(code)
	n.u16(uint16(len(value)))
	n.b = append(n.b, value...)
	n.pad()
}

// end closes the options and writes the block.
func (n *Writer) end() error {
	n.u16(optEnd)
	n.u16(0)
	length := uint32(len(n.b) + 4)
	binary.LittleEndian.PutUint32(n.b[4:], length)
	n.u32(length)
	if _, err := n.w.Write(n.b); err != nil {
		return fmt.Errorf("write a pcapng block: %w", err)
	}
	return nil
}
