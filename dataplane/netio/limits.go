package netio

import (
	"time"
)

// Sizes that the engine and its backend share.
const (
	// MaxRun is how many payloads one Send may have: UDP_MAX_SEGMENTS, 64 before
	// kernel 6.9.
	MaxRun = 64
	// ReceiveBatch is how many datagrams one ReadBatch is asked for at most. Their
	// buffers hold 64 KiB each, of which small datagrams touch only the first page.
	ReceiveBatch = 256
	// SocketBuffer, in bytes, is asked for on every socket that carries traffic: at
	// 10 Gbit/s it holds some milliseconds, the time that a busy CPU may take to
	// read it.
	SocketBuffer = 8 << 20
	// DefaultTTL is that of every sending socket. Another one takes a control
	// message.
	DefaultTTL = 64
)

// A device or a route may refuse an offload for a while only: until it is set up as it
// should be, an IPsec policy is gone, or the path is wider. So the offload is tried
// again after FirstBackoff, and after each further refusal twice as late, up to
// LongestBackoff.
const (
	FirstBackoff   = time.Minute
	LongestBackoff = time.Hour
)

// Offloads switches off, one by one, what the kernel and its devices do for the
// engine, for hosts where one of them is broken. The zero value uses each where
// the kernel has it.
type Offloads struct {
	// NoTAPGSO: no GSO packet crosses a TAP or TUN, in either direction; a packet
	// has the size of the MTU at most. Checksums are still left to the kernel.
	NoTAPGSO bool
	// NoTAPUSO: no GSO packet of UDP crosses a TAP or TUN.
	NoTAPUSO bool
	// NoUDPSegment: no datagram is sent by UDP_SEGMENT. The uplink, which is no
	// socket, is switched off by itself.
	NoUDPSegment bool
	// NoUDPGRO: the sockets that receive do not ask for UDP_GRO: each datagram
	// comes by itself.
	NoUDPGRO bool
	// NoJoinUDP: received UDP packets are not joined to a GSO packet on their way
	// to a TAP or TUN.
	NoJoinUDP bool
}

// AppendPayloads appends the payloads of m to out as sends of one payload each. They
// share the bytes and the fields of m.
func AppendPayloads(out []Send, m *Send) []Send {
	first, size := 0, 0
	for i, p := range m.Parts {
		if m.SegSize != 0 && size == m.SegSize {
			out = append(out, payload(m, first, i))
			first, size = i, 0
		}
		size += len(p)
	}
	return append(out, payload(m, first, len(m.Parts)))
}

func payload(m *Send, first, end int) Send {
	one := *m
	one.Parts, one.SegSize, one.Count = m.Parts[first:end], 0, 1
	return one
}
