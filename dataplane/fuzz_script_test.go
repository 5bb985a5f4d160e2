package dataplane_test

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/dataplane/netio/netiotest"
	"overtap/encap"
)

// A fuzzed journey is a script: two bytes choose what the network is like, the rest
// is one deed after another, each a byte and what it needs. Whatever the bytes are,
// they are some script.

// deeds are the kinds of them.
const (
	deedOut      = iota // a frame with any vnet header, some times over
	deedIn              // a datagram from a sender, some times over
	deedRefuse          // what the TAP and the wire refuse from now on
	deedPath            // the path MTU to a sender
	deedEdges           // whether the wire takes GSO packets whole
	deedTick            // a second goes by
	deedCount           // how many kinds there are
	maxDeeds     = 48   // of one script
	maxCopies    = 5    // of one frame or datagram
	scriptHeader = 2    // bytes of what the network is like
)

// Bits of a datagram's flags in a script.
const (
	_ = 1 << iota // means nothing any more
	flagTruncated
	flagQuoted
	flagUnreachable
	flagVXLAN // the right VXLAN header goes before the bytes
)

// refusals are what an edge may say to a frame.
var refusals = []unix.Errno{0, unix.EAGAIN, unix.EIO, unix.EINVAL, unix.ENOBUFS, unix.EMSGSIZE, unix.EPERM, unix.ENETUNREACH, unix.EIDRM}

// deed is one step of a script.
type deed struct {
	kind   byte
	times  int
	frame  netiotest.Frame // of deedOut
	d      netio.Datagram  // of deedIn; From is the sender's
	sender int
	value  uint16 // of the others
}

// reader takes a script apart. What is not there is zero.
type reader []byte

func (r *reader) take(n int) []byte {
	b := make([]byte, n)
	*r = (*r)[copy(b, *r):]
	return b
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }

// rest takes as many bytes as a length says, or all there are.
func (r *reader) rest() []byte {
	n := min(int(r.uint16()), len(*r))
	return r.take(n)
}

// next takes the next deed; senders are who may send a datagram.
func (r *reader) next(senders []netip.Addr) deed {
	d := deed{kind: r.byte() % deedCount}
	switch d.kind {
	case deedOut:
		d.times = 1 + int(r.byte())%maxCopies
		d.frame.VNet = encap.ParseVnetHdr(r.take(encap.VnetHdrLen))
		d.frame.Data = r.rest()
	case deedIn:
		d.times = 1 + int(r.byte())%maxCopies
		d.sender = int(r.byte()) % len(senders)
		flags := r.byte()
		d.d = netio.Datagram{
			From: senders[d.sender], TOS: r.byte(), SegSize: int(r.uint16()),
			Truncated: flags&flagTruncated != 0,
			Quoted:    flags&flagQuoted != 0, Unreachable: flags&flagUnreachable != 0,
		}
		d.d.Data = r.rest()
		if flags&flagVXLAN != 0 {
			d.d.Data = vxlan(testVNI, d.d.Data)
		}
		if len(d.d.Data) > netio.MaxDatagram {
			d.d.Data = d.d.Data[:netio.MaxDatagram]
		}
	default:
		d.sender = int(r.byte()) % len(senders)
		d.value = r.uint16()
	}
	return d
}

// script is a seed in the making.
type script []byte

func newScript(network uint16) script { return binary.BigEndian.AppendUint16(nil, network) }

func (s script) bytes(b []byte) script {
	return append(binary.BigEndian.AppendUint16(s, uint16(len(b))), b...)
}

func (s script) out(times int, f netiotest.Frame) script {
	var vnet [encap.VnetHdrLen]byte
	f.VNet.Put(vnet[:])
	s = append(s, deedOut, byte(times-1))
	return append(s, vnet[:]...).bytes(f.Data)
}

func (s script) in(sender int, flags, tos byte, segSize int, data []byte) script {
	s = append(s, deedIn, 0, byte(sender), flags, tos)
	return script(binary.BigEndian.AppendUint16(s, uint16(segSize))).bytes(data)
}

func (s script) set(kind byte, sender int, value uint16) script {
	return binary.BigEndian.AppendUint16(append(s, kind, byte(sender)), value)
}
