package echo

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// listen opens a service's two sockets on the loopback.
func listen(t *testing.T) (*net.TCPListener, *net.UDPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	return l, p
}

func dial[C net.Conn](t *testing.T, to net.Addr) C {
	t.Helper()
	c, err := net.Dial(to.Network(), to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(C)
}

func TestEcho(t *testing.T) {
	l, p := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, p) }()

	for _, size := range []int64{0, 1, 5 << 20} {
		if err := Stream(limit(t), dial[*net.TCPConn](t, l.Addr()), size); err != nil {
			t.Error(err)
		}
	}
	for _, o := range []DatagramOptions{
		{Size: 8, Count: 1}, {Size: 1400, Count: 100}, {Size: 20000, Count: 20}, {Size: 1400, Count: 40, Segment: true},
	} {
		if err := Datagrams(limit(t), dial[*net.UDPConn](t, p.LocalAddr()), o); err != nil {
			t.Error(err)
		}
	}
	for _, o := range []DatagramOptions{{Size: 7, Count: 1}, {Size: 65508, Count: 1}} {
		if err := Datagrams(limit(t), dial[*net.UDPConn](t, p.LocalAddr()), o); err == nil {
			t.Errorf("taken: %+v", o)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the service ended with %v", err)
	}
}

// A service that flips, drops or repeats a byte or datagram is found out.
func TestEchoFindsDamage(t *testing.T) {
	for name, damage := range map[string]func([]byte) [][]byte{
		"flipped":  func(b []byte) [][]byte { b[len(b)-1] ^= 1; return [][]byte{b} },
		"short":    func(b []byte) [][]byte { return [][]byte{b[1:]} },
		"repeated": func(b []byte) [][]byte { return [][]byte{b, b} },
		"other":    func(b []byte) [][]byte { b[0] ^= 1; return [][]byte{b} },
	} {
		l, p := listen(t)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			b, damaged := make([]byte, 1000), false
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				all := [][]byte{b[:n]}
				if !damaged {
					all, damaged = damage(b[:n]), true
				}
				for _, b := range all {
					c.Write(b)
				}
			}
		}()
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				for _, b := range damage(b[:n]) {
					p.WriteTo(b, from)
				}
			}
		}()
		if err := Stream(limit(t), dial[*net.TCPConn](t, l.Addr()), 5000); !errors.Is(err, ErrCorrupt) {
			t.Errorf("stream, %s: %v", name, err)
		}
		if err := Datagrams(limit(t), dial[*net.UDPConn](t, p.LocalAddr()), DatagramOptions{Size: 100, Count: 1}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("datagram, %s: %v", name, err)
		}
	}
}

// What never comes back is given up when the context ends.
func TestEchoGivesUp(t *testing.T) {
	l, p := listen(t)
	for name, f := range map[string]func(context.Context) error{
		"stream": func(ctx context.Context) error { return Stream(ctx, dial[*net.TCPConn](t, l.Addr()), 64<<20) },
		"datagrams": func(ctx context.Context) error {
			return Datagrams(ctx, dial[*net.UDPConn](t, p.LocalAddr()), DatagramOptions{Size: 100, Count: 1})
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// One datagram that comes back twice does not stand for another that never does.
func TestEchoTellsDatagramsApart(t *testing.T) {
	_, p := listen(t)
	go func() {
		b := make([]byte, 2000)
		for first := true; ; first = false {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			if first {
				p.WriteTo(b[:n], from)
				p.WriteTo(b[:n], from)
			}
		}
	}()
	err := Datagrams(limit(t), dial[*net.UDPConn](t, p.LocalAddr()), DatagramOptions{Size: 100, Count: 2})
	if !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}
