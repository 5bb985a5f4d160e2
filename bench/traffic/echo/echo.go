// Package echo sends data to who sends it back (RFC 862) and compares: for peers
// whose sockets are not this process's own, as those of another kernel. Both
// ends are here.
package echo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Port is the echo service's, TCP and UDP.
const Port = 7

// ErrCorrupt is what comes of data that came back other than it was sent.
var ErrCorrupt = errors.New("what came back is not what was sent")

// Serve answers on the two sockets, either of which may be nil, until the
// context ends; then it closes them and returns nil.
func Serve(ctx context.Context, streams net.Listener, datagrams net.PacketConn) error {
	g, ctx := errgroup.WithContext(ctx)
	if streams != nil {
		defer context.AfterFunc(ctx, func() { streams.Close() })()
		g.Go(func() error { return serveStreams(ctx, streams) })
	}
	if datagrams != nil {
		defer context.AfterFunc(ctx, func() { datagrams.Close() })()
		g.Go(func() error { return serveDatagrams(ctx, datagrams) })
	}
	return g.Wait()
}

func serveStreams(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		open.Go(func() {
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			// Without splice(2): what is read passes through here.
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		})
	}
}

func serveDatagrams(ctx context.Context, p net.PacketConn) error {
	b := make([]byte, 1<<16)
	for {
		n, from, err := p.ReadFrom(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		// What can not be sent is lost, as datagrams may be.
		p.WriteTo(b[:n], from)
	}
}

// Stream sends that many random bytes on a TCP connection, closes its direction,
// and compares what comes back.
func Stream(ctx context.Context, c *net.TCPConn, size int64) error {
	seed := [32]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())}
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	var g errgroup.Group
	g.Go(func() error {
		_, err := io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(rand.NewChaCha8(seed), size), make([]byte, 256<<10))
		return errors.Join(err, c.CloseWrite())
	})
	err := compare(c, io.LimitReader(rand.NewChaCha8(seed), size), size)
	if err != nil {
		c.Close() // what sends may wait for ever
	}
	if err := errors.Join(err, g.Wait(), ctx.Err()); err != nil {
		return fmt.Errorf("send a stream of %d bytes to %v and back: %w", size, c.RemoteAddr(), err)
	}
	return nil
}

// compare reads a stream to its end.
func compare(got, want io.Reader, size int64) error {
	a, b := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); ; {
		n, err := got.Read(a)
		if errors.Is(err, io.EOF) {
			if at != size {
				return fmt.Errorf("%d bytes came back: %w", at, ErrCorrupt)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", at, err)
		}
		if m, _ := io.ReadFull(want, b[:n]); !bytes.Equal(a[:n], b[:m]) {
			return fmt.Errorf("within %d bytes after the first %d: %w", n, at, ErrCorrupt)
		}
		at += int64(n)
	}
}

// DatagramOptions are those of a run of datagrams.
type DatagramOptions struct {
	Size  int // payload in bytes, at least 8
	Count int
	// Segment sends the datagrams of a window as one GSO packet (UDP_SEGMENT).
	Segment bool
}

// Datagrams on the way at once are no more than any queue between the ends
// holds, nor than one GSO packet does.
const (
	most       = 65507 // bytes of a UDP payload over IPv4
	mostAtOnce = 16
)

// Datagrams sends numbered datagrams of random content on a UDP connection, a
// window at a time, and wants each of them back once and whole.
func Datagrams(ctx context.Context, c *net.UDPConn, o DatagramOptions) error {
	if err := datagrams(ctx, c, o); err != nil {
		return fmt.Errorf("send datagrams to %v and back, %+v: %w", c.RemoteAddr(), o, errors.Join(err, ctx.Err()))
	}
	return nil
}

func datagrams(ctx context.Context, c *net.UDPConn, o DatagramOptions) error {
	const numberLen = 8
	if o.Size < numberLen || o.Size > most {
		return fmt.Errorf("size %d: want %d to %d", o.Size, numberLen, most)
	}
	window := min(mostAtOnce, most/o.Size)
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if o.Segment {
		if err := set(c, unix.IPPROTO_UDP, unix.UDP_SEGMENT, o.Size); err != nil {
			return err
		}
	}
	random := rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())})
	got := make([]byte, most+1)
	for first := 0; first < o.Count; first += window {
		n := min(window, o.Count-first)
		all := make([]byte, n*o.Size)
		random.Read(all)
		at := func(i int) []byte { return all[i*o.Size:][:o.Size] }
		for i := range n {
			binary.BigEndian.PutUint64(at(i), uint64(first+i))
		}
		if o.Segment {
			if _, err := c.Write(all); err != nil {
				return err
			}
		} else {
			for i := range n {
				if _, err := c.Write(at(i)); err != nil {
					return err
				}
			}
		}
		back := make([]bool, n)
		for left := n; left > 0; left-- {
			m, err := c.Read(got)
			if err != nil {
				return fmt.Errorf("%d of %d came back: %w", first+n-left, o.Count, err)
			}
			i := -1
			if m == o.Size {
				i = int(binary.BigEndian.Uint64(got)) - first
			}
			if i < 0 || i >= n || back[i] || !bytes.Equal(got[:m], at(i)) {
				return fmt.Errorf("of the window of %d, a datagram of %d bytes for place %d: %w", first, m, i, ErrCorrupt)
			}
			back[i] = true
		}
	}
	return none(c)
}

// none waits a moment for what came back twice.
func none(c *net.UDPConn) error {
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("more came back than was sent: %w", ErrCorrupt))
}

func set(c syscall.Conn, level, opt, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, opt, value) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("set socket option %d of level %d to %d: %w", opt, level, value, failed)
	}
	return nil
}
