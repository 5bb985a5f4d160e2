package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/encap"
)

// etherTest is an EtherType for local experiments (IEEE 802 clause 9.2.4): no
// stack answers it.
const etherTest = 0x88b5

// raw is a packet socket on a device: it sends frames as they are and keeps
// those that pass, both ways, until they are read.
type raw struct {
	t  testing.TB
	fd int
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
	r := &raw{t: t, fd: -1}
	err := h.Do(func() (err error) {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		// Of no protocol until it is bound: nothing of other devices gets in.
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		for opt, v := range map[int]int{unix.SO_RCVBUFFORCE: 64 << 20, unix.SO_SNDBUFFORCE: 4 << 20} {
			if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, opt, v); err != nil {
				return err
			}
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in network byte order
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	t.Cleanup(r.close)
	if err != nil {
		t.Fatalf("packet socket on %s of host %s: %v", dev, h.Name(), err)
	}
	return r
}

func (r *raw) close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
		r.fd = -1
	}
}

// send sends frames as they are.
func (r *raw) send(frames ...[]byte) {
	r.t.Helper()
	for _, f := range frames {
		for {
			_, err := unix.Write(r.fd, f)
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
	buf, oob := make([]byte, 1<<17), make([]byte, 128)
	for {
		n, oobn, _, from, err := unix.Recvmsg(r.fd, buf, oob, 0)
		if errors.Is(err, unix.EAGAIN) {
			return all
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			r.t.Fatalf("read from a packet socket: %v", err)
		}
		s := seen{data: bytes.Clone(buf[:n])}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			s.outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		}
		s.auxiliary(oob[:oobn])
		all = append(all, s)
	}
}

// auxiliary takes in what the kernel says beside the frame: struct
// tpacket_auxdata (linux/if_packet.h). A tag that the stack took off goes back
// to its place.
func (s *seen) auxiliary(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		s.unfinished = status&unix.TP_STATUS_CSUMNOTREADY != 0
		if status&unix.TP_STATUS_VLAN_VALID == 0 || len(s.data) < 2*encap.MACLen {
			continue
		}
		tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
		tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
		s.data = append(append(bytes.Clone(s.data[:2*encap.MACLen]), tag...), s.data[2*encap.MACLen:]...)
	}
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
