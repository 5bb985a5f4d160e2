package interop

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"overtap/bench/netlab"
)

// stream is a TCP connection that sends a little, again and again, and compares
// what arrives byte for byte. It can pause, so that neither end speaks.
type stream struct {
	out, in        net.Conn
	sent, received atomic.Int64
	paused         atomic.Bool
	ended          atomic.Bool
	busy           sync.WaitGroup
	sendErr        error
	receiveErr     error
}

// streamBeat is how often a stream that is not paused sends, and streamPiece how
// much, in bytes.
const (
	streamBeat  = time.Millisecond
	streamPiece = 4096
)

// openStream connects the two, and starts.
func openStream(t testing.TB, from, to *netlab.Host, dst netip.Addr) *stream {
	t.Helper()
	s := &stream{}
	var l *net.TCPListener
	check(t, to.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		return err
	}))
	defer l.Close()
	check(t, l.SetDeadline(time.Now().Add(patience)))
	// Connecting ends once the listener has it, so no accept is needed meanwhile.
	check(t, from.Do(func() (err error) {
		s.out, err = net.DialTimeout("tcp", l.Addr().String(), patience)
		return err
	}))
	in, err := l.Accept()
	if err != nil {
		s.out.Close()
		t.Fatal(err)
	}
	s.in = in
	t.Cleanup(func() {
		s.ended.Store(true)
		s.out.Close()
		s.in.Close()
		s.busy.Wait()
	})
	seed := [32]byte{byte(rand.Uint32()), byte(rand.Uint32())}
	s.busy.Go(func() { s.sendErr = s.send(rand.NewChaCha8(seed)) })
	s.busy.Go(func() { s.receiveErr = s.receive(rand.NewChaCha8(seed)) })
	return s
}

func (s *stream) send(random *rand.ChaCha8) error {
	b := make([]byte, streamPiece)
	for ; !s.ended.Load(); time.Sleep(streamBeat) {
		if s.paused.Load() {
			continue
		}
		random.Read(b)
		if _, err := s.out.Write(b); err != nil {
			return err
		}
		s.sent.Add(streamPiece)
	}
	return s.out.(*net.TCPConn).CloseWrite()
}

func (s *stream) receive(random *rand.ChaCha8) error {
	got, want := make([]byte, streamPiece), make([]byte, streamPiece)
	for {
		if _, err := io.ReadFull(s.in, got); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if random.Read(want); !bytes.Equal(got, want) {
			return fmt.Errorf("other bytes arrived than were sent, after %d", s.received.Load())
		}
		s.received.Add(streamPiece)
	}
}

// goesOn waits until what is sent from now on arrives, and says how long it took.
func (s *stream) goesOn(t testing.TB) time.Duration {
	t.Helper()
	start, mark := time.Now(), s.sent.Load()
	s.paused.Store(false)
	for s.received.Load() <= mark {
		if time.Since(start) > patience {
			t.Fatalf("the stream stands still: %d bytes sent, %d received", s.sent.Load(), s.received.Load())
		}
		time.Sleep(streamBeat)
	}
	return time.Since(start)
}

// pause has the stream send nothing more, and waits until all is acknowledged
// and no end has anything left to say.
func (s *stream) pause(t testing.TB) {
	t.Helper()
	s.paused.Store(true)
	eventually(t, "the stream at rest", func() error {
		sent := s.sent.Load()
		time.Sleep(300 * time.Millisecond) // longer than an acknowledgement is put off
		if now := s.sent.Load(); now != sent || s.received.Load() != now {
			return fmt.Errorf("%d bytes sent, %d received", now, s.received.Load())
		}
		return nil
	})
}

// finish ends the stream and wants all of it to have arrived.
func (s *stream) finish(t testing.TB) {
	t.Helper()
	s.ended.Store(true)
	check(t, s.in.SetReadDeadline(time.Now().Add(patience)))
	s.busy.Wait()
	if s.sendErr != nil || s.receiveErr != nil || s.sent.Load() != s.received.Load() {
		t.Errorf("%d bytes sent (%v), %d received (%v)", s.sent.Load(), s.sendErr, s.received.Load(), s.receiveErr)
	}
}
