package traffic

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// TCPOptions are those of a bulk transfer. The zero value is one flow for a
// second.
type TCPOptions struct {
	Flows    int           // at once; 0 = 1
	Duration time.Duration // of sending; 0 = 1 s, unless Bytes is set
	Bytes    int64         // per flow; 0 = as many as go in Duration
	Checked  bool          // compare what arrives with what was sent
	Port     uint16        // of the receiver; 0 = any
	// Arrived, if any, grows by the bytes that arrive as they do.
	Arrived *atomic.Int64
}

// TCPResult is what a bulk transfer came to.
type TCPResult struct {
	Bytes       int64         // that arrived, of all flows
	Elapsed     time.Duration // from the start of sending to the last arrival
	Retransmits int64         // segments, of all flows (tcpi_total_retrans)
	FlowBytes   []int64       // that arrived, by flow
}

// BitsPerSecond returns the goodput.
func (r TCPResult) BitsPerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Bytes) * 8 / r.Elapsed.Seconds()
}

// String summarises r.
func (r TCPResult) String() string {
	return fmt.Sprintf("%.2f Gbit/s, %d bytes in %v, %d retransmits",
		r.BitsPerSecond()/1e9, r.Bytes, r.Elapsed.Round(time.Millisecond), r.Retransmits)
}

// ErrCorrupt is what a checked transfer returns when other bytes arrived than
// were sent.
var ErrCorrupt = errors.New("what arrived is not what was sent")

// chunk is how much one call writes or reads, in bytes.
const chunk = 256 << 10

var crcTable = crc64.MakeTable(crc64.ECMA)

// TCP sends streams of random bytes from one end to the other and waits for
// the last to arrive. It gives up with the context's error when ctx ends.
func TCP(ctx context.Context, from, to End, o TCPOptions) (TCPResult, error) {
	if o.Flows == 0 {
		o.Flows = 1
	}
	if o.Duration == 0 && o.Bytes == 0 {
		o.Duration = time.Second
	}
	r, err := tcp(ctx, from, to, o)
	if err != nil {
		return r, fmt.Errorf("TCP from %v to %v: %w", from.Addr, to.Addr, err)
	}
	return r, nil
}

func tcp(ctx context.Context, from, to End, o TCPOptions) (TCPResult, error) {
	var r TCPResult
	listener, err := to.open(unix.SOCK_STREAM)
	if err != nil {
		return r, err
	}
	defer listener.close()
	if err := listener.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return r, err
	}
	port, err := listener.bind(to.Addr, o.Port)
	if err != nil {
		return r, err
	}
	if err := unix.Listen(int(listener), o.Flows); err != nil {
		return r, fmt.Errorf("listen: %w", err)
	}

	flows := make([]flow, o.Flows)
	defer func() {
		for _, f := range flows {
			f.close()
		}
	}()
	for i := range flows {
		if err := flows[i].connect(ctx, listener, from, netip.AddrPortFrom(to.Addr, port)); err != nil {
			return r, err
		}
	}
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range flows {
		g.Go(func() error { return flows[i].send(ctx, start, o) })
		g.Go(func() error { return flows[i].receive(ctx, o) })
	}
	if err := g.Wait(); err != nil {
		return r, err
	}
	for i, f := range flows {
		if err := f.compare(); err != nil {
			return r, fmt.Errorf("flow %d: %w", i, err)
		}
		r.Bytes += f.received
		r.FlowBytes = append(r.FlowBytes, f.received)
		r.Retransmits += f.retransmits
		r.Elapsed = max(r.Elapsed, f.ended.Sub(start))
	}
	return r, nil
}

// flow is one connection: both its ends, and what went through each.
type flow struct {
	out, in        sock
	sent, received int64
	sumOut, sumIn  uint64 // CRC-64 in checked mode
	retransmits    int64
	ended          time.Time // of receiving
	opened         int       // how many of out and in
}

// connect opens the flow's two ends by way of the listener.
func (f *flow) connect(ctx context.Context, listener sock, from End, to netip.AddrPort) (err error) {
	if f.out, err = from.open(unix.SOCK_STREAM); err != nil {
		return err
	}
	f.opened = 1
	if _, err := f.out.bind(from.Addr, 0); err != nil {
		return err
	}
	for {
		// With a send timeout connect gives up each tick and goes on with the
		// next call (kernel __inet_stream_connect).
		err := unix.Connect(int(f.out), sockaddr(to))
		if err == nil || errors.Is(err, unix.EISCONN) {
			break
		}
		if !again(err) && !errors.Is(err, unix.EALREADY) {
			return fmt.Errorf("connect: %w", err)
		}
		if err := expired(ctx, "connect"); err != nil {
			return err
		}
	}
	for {
		fd, _, err := unix.Accept4(int(listener), unix.SOCK_CLOEXEC)
		if err == nil {
			f.in, f.opened = sock(fd), 2
			return f.in.setTimeouts()
		}
		if !again(err) {
			return fmt.Errorf("accept: %w", err)
		}
		if err := expired(ctx, "accept"); err != nil {
			return err
		}
	}
}

// compare holds what arrived against what was sent.
func (f *flow) compare() error {
	if f.received != f.sent || f.sumIn != f.sumOut {
		return fmt.Errorf("%d bytes sent with sum %#x, %d received with sum %#x: %w",
			f.sent, f.sumOut, f.received, f.sumIn, ErrCorrupt)
	}
	return nil
}

func (f *flow) close() {
	if f.opened > 0 {
		f.out.close()
	}
	if f.opened > 1 {
		f.in.close()
	}
}

// send writes until the time or the bytes are up, then closes its direction.
func (f *flow) send(ctx context.Context, start time.Time, o TCPOptions) error {
	random := rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())})
	buf := make([]byte, chunk)
	random.Read(buf)
	deadline := start.Add(o.Duration)
	for b := []byte(nil); ; {
		if len(b) == 0 {
			b = buf
			if o.Checked {
				random.Read(b)
			}
		}
		if o.Bytes > 0 {
			b = b[:min(int64(len(b)), o.Bytes-f.sent)]
		}
		if len(b) == 0 || o.Duration > 0 && !time.Now().Before(deadline) {
			break
		}
		n, err := unix.Write(int(f.out), b)
		if err != nil && !again(err) {
			return fmt.Errorf("send: %w", err)
		}
		if err := expired(ctx, "send"); err != nil {
			return err
		}
		if n = max(n, 0); o.Checked {
			f.sumOut = crc64.Update(f.sumOut, crcTable, b[:n])
		}
		f.sent += int64(n)
		b = b[n:]
	}
	if err := unix.Shutdown(int(f.out), unix.SHUT_WR); err != nil {
		return fmt.Errorf("end sending: %w", err)
	}
	return nil
}

// receive reads to the end of the stream, then asks the sender's socket what
// it had to send twice: all is acknowledged by then.
func (f *flow) receive(ctx context.Context, o TCPOptions) error {
	buf := make([]byte, chunk)
	for {
		n, err := unix.Read(int(f.in), buf)
		if err != nil && !again(err) {
			return fmt.Errorf("receive: %w", err)
		}
		if err == nil && n == 0 {
			break
		}
		if err := expired(ctx, "receive"); err != nil {
			return err
		}
		if n = max(n, 0); o.Checked {
			f.sumIn = crc64.Update(f.sumIn, crcTable, buf[:n])
		}
		f.received += int64(n)
		if o.Arrived != nil {
			o.Arrived.Add(int64(n))
		}
	}
	f.ended = time.Now()
	info, err := unix.GetsockoptTCPInfo(int(f.out), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("read TCP_INFO: %w", err)
	}
	f.retransmits = int64(info.Total_retrans)
	return nil
}
