// Package capture presents what is seen on the path: as a pcapng file for
// wireshark, as lines like tcpdump's, as JSON.
package capture

import (
	"fmt"
	"io"
	"strings"

	"overtap/cmd/internal/pcapng"
	"overtap/dataplane"
)

// File writes records as pcapng: an interface for each network and point, a
// comment on each packet with what the bytes do not say.
type File struct {
	out        counter
	w          *pcapng.Writer
	interfaces map[place]int
}

// place is what makes an interface.
type place struct {
	network   string
	kind      dataplane.Kind
	point     dataplane.Point
	direction dataplane.Direction
	outer     bool // its packets begin with outer headers
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// NewFile begins a capture. application is who writes it.
func NewFile(w io.Writer, application string) (*File, error) {
	f := &File{out: counter{w: w}, interfaces: make(map[place]int)}
	var err error
	f.w, err = pcapng.NewWriter(&f.out, application)
	return f, err
}

// Size returns how many bytes were written.
func (f *File) Size() int64 { return f.out.n }

// Write appends a record.
func (f *File) Write(r *dataplane.Record) error {
	at := place{r.Network, r.Kind, r.Point, r.Direction, r.Outer != nil}
	number, known := f.interfaces[at]
	if !known {
		var err error
		if number, err = f.w.AddInterface(at.describe()); err != nil {
			return err
		}
		f.interfaces[at] = number
	}
	p := pcapng.Packet{
		Interface: number, Time: r.Time, Data: [2][]byte{r.Outer, r.Frame}, Length: len(r.Outer) + r.Length,
		Direction: pcapng.Outbound, Comment: Comment(r),
	}
	if r.Direction == dataplane.Inbound {
		p.Direction = pcapng.Inbound
	}
	return f.w.WritePacket(&p)
}

// Finish ends the capture; missed frames are those that came too fast.
func (f *File) Finish(missed uint64) error {
	comment := ""
	if missed > 0 {
		comment = fmt.Sprintf("%d frames were missed, at all interfaces together: they came faster than they were read", missed)
	}
	return f.w.Finish(missed, comment)
}

// describe is the interface that stands for the place.
func (p place) describe() pcapng.Interface {
	i := pcapng.Interface{Name: name(p.network, p.point, p.direction), LinkType: pcapng.Ethernet}
	switch {
	case p.outer:
		i.LinkType = pcapng.Raw
		i.Description = "outer IP and UDP headers are reconstructed"
		if p.kind == dataplane.KindIPIP {
			i.Description = "outer IP headers are reconstructed"
		}
	case p.kind == dataplane.KindIPIP:
		i.LinkType = pcapng.Raw
	}
	return i
}

// name names a point of a network; "-" stands for none.
func name(network string, point dataplane.Point, direction dataplane.Direction) string {
	if network == "" {
		network = "-"
	}
	s := network + " " + point.String()
	if point == dataplane.PointDropped {
		s += " " + direction.String()
	}
	return s
}

// Comment says of a record what its bytes do not.
func Comment(r *dataplane.Record) string {
	var parts []string
	if r.Peer.IsValid() {
		parts = append(parts, "peer "+r.Peer.String())
	}
	if r.Point == dataplane.PointDropped {
		parts = append(parts, fmt.Sprintf("dropped: %s (%s)", r.Drop, r.Drop.Text()))
	}
	if s := gsoPacket(r); s != "" {
		parts = append(parts, s)
	}
	if r.Unfinished {
		parts = append(parts, "transport checksum left to a device")
	}
	if r.Answer {
		parts = append(parts, "answered by overtap")
	}
	if r.Outer != nil {
		parts = append(parts, "outer headers reconstructed")
	}
	return strings.Join(parts, ", ")
}

// gsoPacket says how many frames the record stands for; "" for one.
func gsoPacket(r *dataplane.Record) string {
	switch {
	case r.Segments == 0:
		return ""
	case r.SegmentSize == 0:
		return "GSO packet"
	}
	return fmt.Sprintf("GSO packet %d×%d B", r.Segments, r.SegmentSize)
}
