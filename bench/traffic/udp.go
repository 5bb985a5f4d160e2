package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// UDPOptions are those of a UDP run. The zero value floods 64-byte datagrams
// for a second.
type UDPOptions struct {
	Size     int           // payload of a datagram in bytes, at least 16; 0 = 64
	Rate     float64       // datagrams per second; 0 = as many as go
	Duration time.Duration // of sending; 0 = 1 s, unless Count is set
	Count    int64         // datagrams; 0 = as many as go in Duration
	Batch    int           // datagrams per system call; 0 = 32
	Segment  bool          // send a batch as one UDP_SEGMENT GSO packet
	Port     uint16        // of the receivers; 0 = any
	Grace    time.Duration // silence after which what is missing is lost; 0 = 400 ms
	// Arrived, if any, grows by the datagrams that arrive whole as they do.
	Arrived *atomic.Int64
}

// UDPResult is what became of a run's datagrams at one receiver. A rate without
// its loss is no figure: read them together.
type UDPResult struct {
	Offered    int64 // that the sender's kernel took
	Received   int64 // each counted once
	Lost       int64 // Offered - Received
	Duplicated int64 // further copies of one that was received
	Reordered  int64 // received after a later one
	Corrupted  int64 // with another length or content than was sent
	Overflowed int64 // lost at the receiver's own socket: the generator was too slow
	Bytes      int64 // payload of Received
	Sending    time.Duration
	Receiving  time.Duration // from the first to the last arrival
}

// PacketsPerSecond returns the rate of what arrived.
func (r UDPResult) PacketsPerSecond() float64 {
	d := max(r.Sending, r.Receiving)
	if d <= 0 {
		return 0
	}
	return float64(r.Received) / d.Seconds()
}

// OfferedPerSecond returns the rate of what was sent.
func (r UDPResult) OfferedPerSecond() float64 {
	if r.Sending <= 0 {
		return 0
	}
	return float64(r.Offered) / r.Sending.Seconds()
}

// String summarises r.
func (r UDPResult) String() string {
	share := 0.0
	if r.Offered > 0 {
		share = 100 * float64(r.Lost) / float64(r.Offered)
	}
	return fmt.Sprintf("%d offered (%.0f/s), %d received (%.0f/s), %d lost (%.2f %%, %d of them at the receiver's socket), "+
		"%d duplicated, %d reordered, %d corrupted",
		r.Offered, r.OfferedPerSecond(), r.Received, r.PacketsPerSecond(), r.Lost, share, r.Overflowed,
		r.Duplicated, r.Reordered, r.Corrupted)
}

// UDP sends numbered datagrams from one end to the other and waits until no
// more arrive. It gives up with the context's error when ctx ends.
func UDP(ctx context.Context, from, to End, o UDPOptions) (UDPResult, error) {
	rs, err := UDPTo(ctx, from, to.Addr, []End{to}, o)
	if err != nil {
		return UDPResult{}, err
	}
	return rs[0], nil
}

// UDPTo is UDP to an address that several ends listen on, a broadcast or
// multicast address. It returns a result for each, in their order. The address
// of an end chooses the device on which it joins a multicast group. Link-local
// IPv6 addresses can not be used.
func UDPTo(ctx context.Context, from End, dst netip.Addr, to []End, o UDPOptions) ([]UDPResult, error) {
	if o.Size == 0 {
		o.Size = 64
	}
	if o.Batch == 0 {
		o.Batch = 32
	}
	if o.Duration == 0 && o.Count == 0 {
		o.Duration = time.Second
	}
	rs, err := udp(ctx, from, dst, to, o)
	if err != nil {
		return nil, fmt.Errorf("UDP from %v to %v: %w", from.Addr, dst, err)
	}
	return rs, nil
}

func udp(ctx context.Context, from End, dst netip.Addr, to []End, o UDPOptions) ([]UDPResult, error) {
	if o.Size < headerLen || o.Size > maxDatagram {
		return nil, fmt.Errorf("size %d: want %d to %d", o.Size, headerLen, maxDatagram)
	}
	if o.Batch < 1 || o.Batch > 1024 || o.Segment && (o.Batch > 64 || o.Batch*o.Size > maxDatagram) {
		return nil, fmt.Errorf("batch of %d: want 1 to 1024, or with segmentation at most 64 and %d bytes in all",
			o.Batch, maxDatagram)
	}
	if o.Count > maxPackets {
		return nil, fmt.Errorf("count %d: want at most %d", o.Count, int64(maxPackets))
	}
	rs := make([]UDPResult, len(to))
	run := rand.Uint32()
	port := o.Port
	var sent atomic.Int64 // how many in all, once that is known
	sent.Store(-1)
	g, ctx := errgroup.WithContext(ctx)
	for i, end := range to {
		s, err := end.listen(dst, &port)
		if err != nil {
			// The receivers that run already must not wait for a sender.
			sent.Store(0)
			return nil, errors.Join(err, g.Wait())
		}
		g.Go(func() error {
			defer s.close()
			r := record{run: run, size: o.Size, res: &rs[i]}
			return s.receive(ctx, &r, &sent, o)
		})
	}
	var took time.Duration
	g.Go(func() error {
		n, d, err := from.flood(ctx, netip.AddrPortFrom(dst, port), run, o)
		took = d
		sent.Store(n)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range rs {
		rs[i].Offered, rs[i].Sending = sent.Load(), took
		rs[i].Lost = rs[i].Offered - rs[i].Received
	}
	return rs, nil
}

// joinDevice readies the socket for multicast through the end's device.
func (e End) joinDevice(s sock, group netip.Addr, receive bool) error {
	index, err := e.device()
	if err != nil {
		return err
	}
	switch {
	case group.Is4() && receive:
		err = unix.SetsockoptIPMreqn(int(s), unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	case group.Is4():
		err = unix.SetsockoptIPMreqn(int(s), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
	case receive:
		err = unix.SetsockoptIPv6Mreq(int(s), unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
	default:
		err = unix.SetsockoptInt(int(s), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	}
	if err != nil {
		return fmt.Errorf("host %s: use multicast group %v: %w", e.Host.Name(), group, err)
	}
	return nil
}
