package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"overtap/encap"
)

// VXLANOptions are those of a run of small frames in VXLAN, sent by a
// plain host of the underlay: whatever a peer, or a host that is none, may put on the
// wire.
type VXLANOptions struct {
	VNI      encap.VNI
	Dst, Src encap.MAC     // of the frames inside
	Sources  int           // frames are from so many MACs, from Src up, in turn; 0 = 1
	Batch    int           // datagrams per system call, and per turn of a sender; 0 = 32
	Rate     float64       // datagrams per second; 0 = as many as go
	Duration time.Duration // of sending; 0 = 1 s, unless Count is set
	Count    int64         // datagrams; 0 = as many as go in Duration
}

const (
	// vxlanFrame is the least that Ethernet carries, without its checksum.
	vxlanFrame = 60
	// etherTest is an EtherType for local experiments (IEEE 802 clause 9.2.4): no
	// stack answers it.
	etherTest = 0x88b5
)

// VXLAN sends frames in VXLAN from the ends, a batch each in turn, to a UDP port
// of the underlay, and returns how many the kernel took and how long that lasted.
func VXLAN(ctx context.Context, from []End, to netip.AddrPort, o VXLANOptions) (sent int64, took time.Duration, err error) {
	if o.Duration == 0 && o.Count == 0 {
		o.Duration = time.Second
	}
	o.Sources, o.Batch = max(o.Sources, 1), max(o.Batch, 0)
	if o.Batch == 0 {
		o.Batch = 32
	}
	if sent, took, err = vxlan(ctx, from, to, o); err != nil {
		return sent, took, fmt.Errorf("VXLAN to %v: %w", to, err)
	}
	return sent, took, nil
}

func vxlan(ctx context.Context, from []End, to netip.AddrPort, o VXLANOptions) (int64, time.Duration, error) {
	var socks []sock
	defer func() {
		for _, s := range socks {
			s.close()
		}
	}()
	for _, end := range from {
		s, err := end.open(unix.SOCK_DGRAM)
		if err != nil {
			return 0, 0, err
		}
		socks = append(socks, s)
		if err := end.aim(s, to, UDPOptions{}); err != nil {
			return 0, 0, err
		}
	}
	if len(socks) == 0 {
		return 0, 0, errors.New("from nowhere: want an end at least")
	}

	const size = encap.VXLANHeaderLen + vxlanFrame
	buf := make([]byte, o.Batch*size)
	frame := func(i int) []byte { return buf[i*size+encap.VXLANHeaderLen:][:vxlanFrame] }
	for i := range o.Batch {
		encap.PutVXLAN(buf[i*size:], o.VNI)
		o.Dst.Put(frame(i))
		binary.BigEndian.PutUint16(frame(i)[2*encap.MACLen:], etherTest)
	}
	m := newMessages(o.Batch, func(i int) []byte { return buf[i*size:][:size] })
	var sent int64
	start := time.Now()
	for {
		elapsed := time.Since(start)
		if err := expired(ctx, "send"); err != nil {
			return sent, elapsed, err
		}
		if o.Duration > 0 && elapsed >= o.Duration || o.Count > 0 && sent >= o.Count {
			return sent, elapsed, nil
		}
		turn, n := sent/int64(o.Batch), int64(o.Batch)-sent%int64(o.Batch)
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
			(o.Src + encap.MAC((sent+int64(i))%int64(o.Sources))).Put(frame(i)[encap.MACLen:])
		}
		got, err := m.call(unix.SYS_SENDMMSG, socks[turn%int64(len(socks))], int(n), 0)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			got = 1 // offered, and lost in a queue on the path
		case err != nil && !again(err) && !unreachable(err):
			return sent, elapsed, fmt.Errorf("send: %w", err)
		}
		sent += int64(got)
	}
}
