// Package wiretest shows tests what passes a device, and has tshark judge it.
package wiretest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/encap"
)

// Capture is a packet socket on a device. It keeps the frames that pass, both
// ways, until they are read.
type Capture struct {
	tb testing.TB
	fd int
}

// Frame is one that passed a device.
type Frame struct {
	Data       []byte // with its 802.1Q tag, where the kernel has taken it off
	Outgoing   bool   // sent by the device's own host
	Unfinished bool   // its checksum is left to a device that comes later
}

// captureBuffer is what a socket keeps at most, in bytes of the kernel's
// accounting.
const captureBuffer = 64 << 20

// Open begins to capture on a device of the host. The socket is closed at the
// end of the test.
func Open(tb testing.TB, h *netlab.Host, dev string) *Capture {
	tb.Helper()
	c := &Capture{tb: tb, fd: -1}
	err := h.Do(func() (err error) {
		link, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		// Of no protocol until it is bound: nothing of other devices gets in.
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in network byte order
		return unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	tb.Cleanup(c.Close)
	if err != nil {
		tb.Fatalf("packet socket on %s of host %s: %v", dev, h.Name(), err)
	}
	return c
}

// FD is the socket, non-blocking: what is written to it leaves by the device as
// it is.
func (c *Capture) FD() int { return c.fd }

// Close ends the capture; a second time does nothing.
func (c *Capture) Close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

// Read returns the frames that passed since the last call.
func (c *Capture) Read() (all []Frame) {
	c.tb.Helper()
	buf, oob := make([]byte, 1<<17), make([]byte, 128)
	for {
		n, oobn, _, from, err := unix.Recvmsg(c.fd, buf, oob, 0)
		if errors.Is(err, unix.EAGAIN) {
			return all
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			c.tb.Fatalf("read from a packet socket: %v", err)
		}
		f := Frame{Data: bytes.Clone(buf[:n])}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			f.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
		}
		f.auxiliary(oob[:oobn])
		all = append(all, f)
	}
}

// Lost is how many frames the capture had no room for since the last call.
func (c *Capture) Lost() (int, error) {
	s, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read a packet socket's drops: %w", err)
	}
	return int(s.Drops), nil
}

// auxiliary takes in what the kernel says beside the frame: struct
// tpacket_auxdata (linux/if_packet.h). A tag that the stack took off goes back
// to its place.
func (f *Frame) auxiliary(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		f.Unfinished = status&unix.TP_STATUS_CSUMNOTREADY != 0
		if status&unix.TP_STATUS_VLAN_VALID == 0 || len(f.Data) < 2*encap.MACLen {
			continue
		}
		tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
		tag = binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
		f.Data = append(append(bytes.Clone(f.Data[:2*encap.MACLen]), tag...), f.Data[2*encap.MACLen:]...)
	}
}
