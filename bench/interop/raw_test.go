package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/bench/netlab/wiretest"
	"overtap/encap"
)

// etherTest is an EtherType for local experiments (IEEE 802 clause 9.2.4): no
// stack answers it.
const etherTest = 0x88b5

// raw is a packet socket on a device: it sends frames as they are and keeps
// those that pass, both ways, until they are read.
type raw struct {
	t testing.TB
	*wiretest.Capture
}

// seen is a frame that passed a device.
type seen struct {
	data       []byte // with its 802.1Q tag, where the kernel has taken it off
	outgoing   bool   // sent by the device's own host
	unfinished bool   // its checksum is left to a device that comes later
}

// src is the frame's source address.
func (s seen) src() encap.MAC { return encap.MACFrom(s.data[encap.MACLen:]) }

// etherType is the type behind the addresses: that of a tag, where there is one.
func (s seen) etherType() uint16 { return binary.BigEndian.Uint16(s.data[2*encap.MACLen:]) }

// openRaw opens the socket. It is closed at the end of the test.
func openRaw(t testing.TB, h *netlab.Host, dev string) *raw {
	t.Helper()
	r := &raw{t, wiretest.Open(t, h, dev)}
	check(t, unix.SetsockoptInt(r.FD(), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20))
	return r
}

func (r *raw) close() { r.Close() }

// send sends frames as they are.
func (r *raw) send(frames ...[]byte) {
	r.t.Helper()
	for _, f := range frames {
		for {
			_, err := unix.Write(r.FD(), f)
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				r.t.Fatalf("send a frame of %d bytes: %v", len(f), err)
			}
			break
		}
	}
}

// read returns the frames that passed since the last call.
func (r *raw) read() (all []seen) {
	r.t.Helper()
	for _, f := range r.Read() {
		all = append(all, seen{f.Data, f.Outgoing, f.Unfinished})
	}
	return all
}

// arrivals reads until want frames match that came in from outside, and what
// follows within a moment. It returns those that match.
func (r *raw) arrivals(want int, match func(seen) bool) (got []seen) {
	r.t.Helper()
	take := func() {
		for _, s := range r.read() {
			if !s.outgoing && match(s) {
				got = append(got, s)
			}
		}
	}
	for deadline := time.Now().Add(patience); len(got) < want && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		take()
	}
	time.Sleep(50 * time.Millisecond) // for copies too many to show
	take()
	return got
}

// same matches the frame byte for byte.
func same(frame []byte) func(seen) bool {
	return func(s seen) bool { return bytes.Equal(s.data, frame) }
}

// ethernet makes a frame; each tag is the TPID and the TCI of an 802.1Q tag.
func ethernet(dst, src encap.MAC, tags []uint32, etherType uint16, payload []byte) []byte {
	b := make([]byte, 2*encap.MACLen, 2*encap.MACLen+4*len(tags)+2+len(payload))
	dst.Put(b)
	src.Put(b[encap.MACLen:])
	for _, t := range tags {
		b = binary.BigEndian.AppendUint32(b, t)
	}
	b = binary.BigEndian.AppendUint16(b, etherType)
	return append(b, payload...)
}

// marked makes a payload of the given size that says which one it is.
func marked(size int, format string, args ...any) []byte {
	b := make([]byte, max(size, 46)) // the least that Ethernet carries
	copy(b, fmt.Sprintf(format, args...))
	for i := len(fmt.Sprintf(format, args...)); i < len(b); i++ {
		b[i] = byte(i)
	}
	return b
}
