package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"overtap/bench/netlab"
	"overtap/encap"
)

// Where things stand in a frame of this generator, in bytes.
const (
	frameIP      = encap.EthernetHeaderLen
	frameUDP     = frameIP + 20
	framePayload = frameUDP + 8
	// minPacket is the smallest IPv4 packet that has room for the run's number.
	minPacket = framePayload - frameIP + 4
	// snapLen is how much of a frame the receiver looks at.
	snapLen = encap.VnetHdrLen + framePayload + 4
)

// FrameOptions are those of a run of raw frames. The zero value of every field
// but From means something.
type FrameOptions struct {
	From Stations // that frames come from, in turn
	To   Stations // that they go to, scattered over all; none = broadcast
	// Sizes are those of the IPv4 packets in bytes, at least 32, in turn; nil =
	// 92, which is a datagram of 64.
	Sizes    []int
	Rate     float64       // frames per second; 0 = as many as go
	Duration time.Duration // of sending; 0 = 1 s, unless Count is set
	Count    int64         // frames; 0 = as many as go in Duration
	Grace    time.Duration // silence after which what is missing is lost; 0 = 400 ms
}

// Frames sends UDP datagrams as raw frames from stations behind one host's device
// to stations behind the other's, and counts what arrives at that device. It is
// what UDP is not: many MACs, many flows and many sizes in one stream. The
// frames leave as a socket's do, with the checksum left to the device
// (CHECKSUM_PARTIAL), and a GSO packet that arrives counts as the datagrams in
// it. Copies are not told from originals: Received may exceed Offered.
func Frames(ctx context.Context, from, to *netlab.Host, o FrameOptions) (UDPResult, error) {
	if o.Sizes == nil {
		o.Sizes = []int{92}
	}
	if o.Duration == 0 && o.Count == 0 {
		o.Duration = time.Second
	}
	r, err := frames(ctx, from, to, o)
	if err != nil {
		return r, fmt.Errorf("frames from %s to %s: %w", from.Name(), to.Name(), err)
	}
	return r, nil
}

func frames(ctx context.Context, from, to *netlab.Host, o FrameOptions) (r UDPResult, err error) {
	if o.From.Count < 1 || o.From.Count > MaxStations || o.To.Count < 0 || o.To.Count > MaxStations {
		return r, fmt.Errorf("%d and %d stations: want 1 to %d senders and up to as many receivers",
			o.From.Count, o.To.Count, MaxStations)
	}
	mtu, err := from.MTU(netlab.ContainerDev)
	if err != nil {
		return r, err
	}
	for _, size := range o.Sizes {
		if size < minPacket || size > mtu {
			return r, fmt.Errorf("packet of %d bytes: want %d to %d", size, minPacket, mtu)
		}
	}
	in, err := openPacket(to, unix.ETH_P_IP)
	if err != nil {
		return r, err
	}
	defer in.close()
	if err := in.set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sockBuf); err != nil {
		return r, err
	}
	// Of no protocol: what arrives at the sender is not its business.
	out, err := openPacket(from, 0)
	if err != nil {
		return r, err
	}
	defer out.close()

	run := rand.Uint32()
	var sent atomic.Int64
	sent.Store(-1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return in.receiveFrames(ctx, run, &r, &sent, o.Grace) })
	var offered int64
	g.Go(func() error {
		n, d, err := out.sendFrames(ctx, run, o)
		offered, r.Sending = n, d
		sent.Store(n)
		return err
	})
	if err := g.Wait(); err != nil {
		return r, err
	}
	r.Offered, r.Lost = offered, offered-r.Received
	return r, nil
}

// openPacket opens a packet socket on the host's container device that puts a
// virtio_net_hdr before every frame.
func openPacket(h *netlab.Host, protocol uint16) (sock, error) {
	protocol = binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, protocol))
	fd, index := -1, 0
	err := h.Do(func() error {
		dev, err := net.InterfaceByName(netlab.ContainerDev)
		if err != nil {
			return err
		}
		index = dev.Index
		// Without a protocol until it is bound, it takes nothing from other
		// devices.
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("host %s: open a packet socket: %w", h.Name(), err)
	}
	s := sock(fd)
	err = errors.Join(
		s.setTimeouts(),
		s.set(unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index}),
	)
	if err != nil {
		s.close()
		return -1, fmt.Errorf("host %s: ready a packet socket: %w", h.Name(), err)
	}
	return s, nil
}

// receiveFrames counts the run's frames until all that were sent are in or
// nothing comes any more. sent is negative as long as the sender is at it.
func (s sock) receiveFrames(ctx context.Context, run uint32, r *UDPResult, sent *atomic.Int64, grace time.Duration) error {
	if grace == 0 {
		grace = settle
	}
	buf := make([]byte, receiveBatch*snapLen)
	at := func(i int) []byte { return buf[i*snapLen:][:snapLen] }
	m := newMessages(receiveBatch, at)
	var first, last time.Time
	heard := time.Now() // what is not of the run breaks no silence
	for {
		// MSG_TRUNC: a message's length is the frame's, not the snapshot's.
		n, err := m.call(unix.SYS_RECVMMSG, s, receiveBatch, unix.MSG_WAITFORONE|unix.MSG_TRUNC)
		if err := expired(ctx, "receive"); err != nil {
			return err
		}
		if err != nil && !again(err) {
			return fmt.Errorf("receive: %w", err)
		}
		took := int64(0)
		for i := range n {
			took += r.takeFrame(at(i), int(m.vec[i].n), run)
		}
		if took > 0 {
			last = time.Now()
			heard = last
			if first.IsZero() {
				first = last
			}
		} else if total := sent.Load(); total < 0 {
			heard = time.Now()
		} else if r.Received >= total || time.Since(heard) >= grace {
			break
		}
		if n > 0 && n < receiveBatch {
			time.Sleep(nap)
		}
	}
	r.Receiving = last.Sub(first)
	stats, err := unix.GetsockoptTpacketStats(int(s), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("read a packet socket's drops: %w", err)
	}
	r.Overflowed = int64(stats.Drops)
	return nil
}

// takeFrame counts the datagrams of one frame of n bytes, of which b is the
// start, when it is of the run, and returns how many they are.
func (r *UDPResult) takeFrame(b []byte, n int, run uint32) int64 {
	payload := n - encap.VnetHdrLen - framePayload
	frame := b[encap.VnetHdrLen:]
	if payload < 4 || frame[frameIP+9] != unix.IPPROTO_UDP || binary.BigEndian.Uint32(frame[framePayload:]) != run {
		return 0
	}
	count := 1
	if h := encap.ParseVnetHdr(b); h.GSO() == encap.VnetGSOUDPL4 && h.GSOSize > 0 {
		count = (payload + int(h.GSOSize) - 1) / int(h.GSOSize)
	}
	r.Received += int64(count)
	r.Bytes += int64(payload)
	return int64(count)
}
