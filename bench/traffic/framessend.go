package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"overtap/encap"
)

const (
	frameBatch = 32 // frames per system call
	// scatter is a prime: taken in such steps, stations that follow each other
	// lie far apart, and all of them have their turn.
	scatter = 7919
	// framePort is the discard service's (RFC 863).
	framePort = 9
)

// sendFrames sends the run's frames and returns how many and how long that
// lasted.
func (s sock) sendFrames(ctx context.Context, run uint32, o FrameOptions) (int64, time.Duration, error) {
	const slot = encap.VnetHdrLen + encap.EthernetHeaderLen + 1<<16
	buf := make([]byte, frameBatch*slot)
	for i := range buf {
		buf[i] = byte(rand.Uint32())
	}
	at := func(i int) []byte { return buf[i*slot:][:slot] }
	m := newMessages(frameBatch, at)
	var sent int64
	start := time.Now()
	for {
		if err := expired(ctx, "send"); err != nil {
			return sent, time.Since(start), err
		}
		elapsed := time.Since(start)
		if o.Duration > 0 && elapsed >= o.Duration || o.Count > 0 && sent >= o.Count {
			return sent, elapsed, nil
		}
		n := int64(frameBatch)
		if o.Rate > 0 {
			n = min(n, int64(o.Rate*elapsed.Seconds())+1-sent)
		}
		if o.Count > 0 {
			n = min(n, o.Count-sent)
		}
		if n <= 0 {
			due := time.Duration(float64(sent) / o.Rate * float64(time.Second))
			time.Sleep(max(due-elapsed, 100*time.Microsecond))
			continue
		}
		for i := range int(n) {
			m.iov[i].SetLen(o.putFrame(at(i), sent+int64(i), run))
		}
		took, err := m.call(unix.SYS_SENDMMSG, s, int(n), 0)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// A queue on the path dropped the first frame (kernel
			// packet_snd). A UDP socket does not tell (udp_send_skb): here
			// as there it was offered, and is lost.
			took = 1
		case err != nil && !again(err):
			return sent, elapsed, fmt.Errorf("send: %w", err)
		}
		sent += int64(took)
	}
}

// putFrame writes the kth frame of the run to b, behind its virtio_net_hdr, and
// returns how many bytes both have. Only headers are written.
func (o *FrameOptions) putFrame(b []byte, k int64, run uint32) int {
	src := int(k % int64(o.From.Count))
	size := o.Sizes[k%int64(len(o.Sizes))]
	encap.VnetHdr{
		Flags: encap.VnetNeedsCsum, CsumStart: frameUDP, CsumOffset: 6,
	}.Put(b)
	frame := b[encap.VnetHdrLen:]
	to, toIP := encap.BroadcastMAC, [4]byte{255, 255, 255, 255}
	if o.To.Count > 0 {
		dst := int(k * scatter % int64(o.To.Count))
		to, toIP = o.To.MAC(dst), o.To.ipv4(dst)
	}
	to.Put(frame)
	o.From.MAC(src).Put(frame[encap.MACLen:])
	binary.BigEndian.PutUint16(frame[2*encap.MACLen:], encap.EtherTypeIPv4)

	fromIP := o.From.ipv4(src)
	ip := frame[frameIP:frameUDP]
	copy(ip, []byte{0x45, 0, byte(size >> 8), byte(size), byte(k >> 8), byte(k), 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0})
	copy(ip[12:], fromIP[:])
	copy(ip[16:], toIP[:])
	binary.BigEndian.PutUint16(ip[10:], ^encap.Fold(encap.Sum(ip, 0)))

	udp := frame[frameUDP:]
	length := size - (frameUDP - frameIP)
	binary.BigEndian.PutUint16(udp, uint16(1024+src%4096))
	binary.BigEndian.PutUint16(udp[2:], framePort)
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	binary.BigEndian.PutUint16(udp[6:], encap.Fold(encap.PseudoSum4(fromIP, toIP, unix.IPPROTO_UDP, uint32(length))))
	binary.BigEndian.PutUint32(udp[8:], run)
	return encap.VnetHdrLen + encap.EthernetHeaderLen + size
}
