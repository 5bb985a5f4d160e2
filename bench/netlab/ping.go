package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// PingOptions are those of a ping. The zero value sends one small packet and
// waits a second.
type PingOptions struct {
	Count    int           // echo requests; 0 = 1
	Size     int           // ICMP payload in bytes, at least 8; 0 = 56
	Interval time.Duration // between requests; 0 = on the reply
	Timeout  time.Duration // for each reply; 0 = 1 s
	DF       bool          // do not fragment (IP_PMTUDISC_DO)
}

// PingResult is what came of a ping.
type PingResult struct {
	Sent       int
	Received   int             // requests answered, each counted once
	Duplicates int             // further answers
	Corrupted  int             // answers whose payload is not what was sent
	Errors     int             // of the socket: unreachable, EMSGSIZE and the like
	Err        error           // the last of them
	PathMTU    int             // bytes, as the kernel knows it in the end
	RTTs       []time.Duration // of the answered requests, ascending
}

// Min returns the least round trip, or 0 without answers.
func (r PingResult) Min() time.Duration { return r.at(0) }

// Median returns the middle round trip, or 0 without answers.
func (r PingResult) Median() time.Duration { return r.at(len(r.RTTs) / 2) }

// Max returns the longest round trip, or 0 without answers.
func (r PingResult) Max() time.Duration { return r.at(len(r.RTTs) - 1) }

func (r PingResult) at(i int) time.Duration {
	if len(r.RTTs) == 0 {
		return 0
	}
	return r.RTTs[i]
}

// String summarises r as ping does.
func (r PingResult) String() string {
	s := fmt.Sprintf("%d sent, %d received", r.Sent, r.Received)
	if r.Duplicates > 0 {
		s += fmt.Sprintf(", %d duplicates", r.Duplicates)
	}
	if r.Corrupted > 0 {
		s += fmt.Sprintf(", %d corrupted", r.Corrupted)
	}
	if r.Errors > 0 {
		s += fmt.Sprintf(", %d errors (%v)", r.Errors, r.Err)
	}
	if r.Received > 0 {
		s += fmt.Sprintf(", rtt min/median/max %v/%v/%v", r.Min(), r.Median(), r.Max())
	}
	return s
}

// Ping sends ICMP or ICMPv6 echo requests from the host to dst. An error means
// that it could not be tried; what the network did is in the result.
func Ping(h *Host, dst netip.Addr, o PingOptions) (PingResult, error) {
	if o.Count == 0 {
		o.Count = 1
	}
	if o.Size == 0 {
		o.Size = 56
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	p, err := newPinger(h, dst, o)
	if err != nil {
		return PingResult{}, fmt.Errorf("host %s: ping %v: %w", h.name, dst, err)
	}
	defer unix.Close(p.fd)
	for i := range o.Count {
		start := time.Now()
		p.send(uint16(i))
		p.await(start.Add(o.Timeout), func() bool { return p.answered[i] || p.refused[i] })
		if i < o.Count-1 {
			p.await(start.Add(o.Interval), func() bool { return false })
		}
	}
	slices.Sort(p.res.RTTs)
	p.res.PathMTU = p.pathMTU()
	return p.res, nil
}

// echoLen is the length of an echo's header, the same in ICMP (RFC 792) and
// ICMPv6 (RFC 4443): type, code, checksum, identifier, sequence.
const echoLen = 8

// pinger holds one run. The socket is a datagram ICMP socket: the kernel fills
// identifier and checksum and hands it the answers to its own requests only.
type pinger struct {
	fd       int
	v6       bool
	to       unix.Sockaddr
	reply    byte   // the ICMP type of an answer
	out, in  []byte // one message each
	sentAt   []time.Time
	answered []bool
	refused  []bool // could not be sent
	res      PingResult
}

func newPinger(h *Host, dst netip.Addr, o PingOptions) (*pinger, error) {
	if o.Count < 0 || o.Count > 1<<16 {
		return nil, fmt.Errorf("count %d: want 1 to 65536, the sequence numbers there are", o.Count)
	}
	if o.Size < 8 || o.Size > 65507-echoLen {
		return nil, fmt.Errorf("size %d: want 8 to %d", o.Size, 65507-echoLen)
	}
	p := &pinger{
		v6:       dst.Is6(),
		out:      make([]byte, echoLen+o.Size),
		in:       make([]byte, 1<<16),
		sentAt:   make([]time.Time, o.Count),
		answered: make([]bool, o.Count),
		refused:  make([]bool, o.Count),
	}
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	p.out[0], p.reply = 8, 0
	if p.v6 {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		p.out[0], p.reply = 128, 129
		p.to = &unix.SockaddrInet6{Addr: dst.As16()}
	} else {
		p.to = &unix.SockaddrInet4{Addr: dst.As4()}
	}
	for i := echoLen + 2; i < len(p.out); i++ {
		p.out[i] = byte(rand.Uint32())
	}
	err := h.Do(func() (err error) {
		p.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open an ICMP socket: %w", err)
	}
	if err := p.setDF(o.DF); err != nil {
		unix.Close(p.fd)
		return nil, fmt.Errorf("set the don't-fragment mode: %w", err)
	}
	// Connected, for only then errors from the path reach the socket
	// (kernel ping_err) and the path MTU can be asked for.
	if err := unix.Connect(p.fd, p.to); err != nil {
		unix.Close(p.fd)
		return nil, fmt.Errorf("connect: %w", err)
	}
	return p, nil
}

func (p *pinger) setDF(df bool) error {
	if p.v6 {
		mode := unix.IPV6_PMTUDISC_WANT
		if df {
			mode = unix.IPV6_PMTUDISC_DO
		}
		return unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
	mode := unix.IP_PMTUDISC_DONT
	if df {
		mode = unix.IP_PMTUDISC_DO
	}
	return unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
}

func (p *pinger) pathMTU() int {
	level, opt := unix.IPPROTO_IP, unix.IP_MTU
	if p.v6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	mtu, err := unix.GetsockoptInt(p.fd, level, opt)
	if err != nil && unix.Connect(p.fd, p.to) == nil {
		// The socket had lost its cached route, as after any change of routes.
		mtu, err = unix.GetsockoptInt(p.fd, level, opt)
	}
	if err != nil {
		return 0
	}
	return mtu
}

func (p *pinger) send(seq uint16) {
	binary.BigEndian.PutUint16(p.out[6:], seq)
	// In the payload too, so that one answer can not pass for another.
	binary.BigEndian.PutUint16(p.out[echoLen:], seq)
	p.sentAt[seq] = time.Now()
	p.res.Sent++
	if _, err := unix.Write(p.fd, p.out); err != nil {
		p.failed(err)
		// That may have been the answer to an earlier request, which the
		// socket reports with its next call: the second try tells.
		_, err = unix.Write(p.fd, p.out)
		p.refused[seq] = err != nil
	}
}

func (p *pinger) failed(err error) {
	p.res.Errors++
	p.res.Err = err
}

// await takes answers until done or the deadline.
func (p *pinger) await(deadline time.Time, done func() bool) {
	for !done() {
		left := time.Until(deadline)
		if left <= 0 {
			return
		}
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		ts := unix.NsecToTimespec(left.Nanoseconds())
		if n, err := unix.Ppoll(fds, &ts, nil); n == 0 || err != nil {
			continue
		}
		n, err := unix.Read(p.fd, p.in)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				p.failed(err)
			}
			continue
		}
		p.receive(p.in[:n], time.Now())
	}
}

func (p *pinger) receive(b []byte, now time.Time) {
	if len(b) < echoLen || b[0] != p.reply {
		return
	}
	seq := binary.BigEndian.Uint16(b[6:])
	switch {
	case int(seq) >= p.res.Sent:
	case len(b) != len(p.out) || binary.BigEndian.Uint16(b[echoLen:]) != seq ||
		!slices.Equal(b[echoLen+2:], p.out[echoLen+2:]):
		p.res.Corrupted++
	case p.answered[seq]:
		p.res.Duplicates++
	default:
		p.answered[seq] = true
		p.res.Received++
		p.res.RTTs = append(p.res.RTTs, now.Sub(p.sentAt[seq]))
	}
}
