package linux

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
)

const (
	// defaultSourcePorts is the size of the pool when nothing else is asked for.
	defaultSourcePorts = 32
	// RFC 7348 section 5 recommends source ports from the dynamic range.
	firstSourcePort, lastSourcePort = 49152, 65535
)

// sourcePool holds the sockets that send: one socket has one source port, and
// the underlay's routers spread flows by it. Any thread may send on any of
// them. Those that may be fragmented stand apart, since DF is a socket's.
type sourcePool struct {
	df    []int
	frag  []int
	ports []atomic.Uint32 // of df, then of frag
	// refused holds the peers whose route refused UDP_SEGMENT; nil while there is
	// none.
	refused atomic.Pointer[map[netip.Addr]runRefusal]
	noRuns  bool             // UDP_SEGMENT is never used
	now     func() time.Time // time.Now, but for tests
}

func openSources(e *Backend, n int) (*sourcePool, error) {
	if p := e.handover.sources(n); p != nil {
		if err := p.vacateReserved(e); err != nil {
			return nil, errors.Join(err, p.close())
		}
		return p, nil
	}
	reserved, err := reservedPorts()
	if err != nil {
		return nil, err
	}
	p := &sourcePool{ports: make([]atomic.Uint32, 2*n), now: time.Now}
	for _, df := range []bool{true, false} {
		for range n {
			fd, port, err := e.openSource(df, reserved)
			if err != nil {
				p.close()
				return nil, fmt.Errorf("open a source port on %s: %w", e.Underlay, err)
			}
			p.ports[len(p.df)+len(p.frag)].Store(uint32(port))
			if df {
				p.df = append(p.df, fd)
			} else {
				p.frag = append(p.frag, fd)
			}
		}
	}
	return p, nil
}

// vacate gives up a port that a network is to listen on: its socket moves to
// another, behind the same file descriptor, so that no thread notices.
func (p *sourcePool) vacate(e *Backend, port uint16) error {
	return p.move(e, func(own uint16, _ *portSet) bool { return own == port })
}

// vacateReserved gives up the ports that were reserved after another process
// opened their sockets.
func (p *sourcePool) vacateReserved(e *Backend) error {
	return p.move(e, func(own uint16, reserved *portSet) bool { return reserved.has(own) })
}

// move has the sockets whose port is given up send from other ports.
func (p *sourcePool) move(e *Backend, givesUp func(own uint16, reserved *portSet) bool) error {
	reserved, err := reservedPorts()
	if err != nil {
		return err
	}
	for i, fd := range slices.Concat(p.df, p.frag) {
		port := uint16(p.ports[i].Load())
		if !givesUp(port, reserved) {
			continue
		}
		other, another, err := e.openSource(i < len(p.df), reserved)
		if err != nil {
			return fmt.Errorf("move our source port %d: %w", port, err)
		}
		err = unix.Dup3(other, fd, unix.O_CLOEXEC)
		unix.Close(other)
		if err != nil {
			return fmt.Errorf("move our source port %d: %w", port, err)
		}
		p.ports[i].Store(uint32(another))
	}
	return nil
}

// openSource binds to a random free port of the dynamic range that is not
// reserved.
func (e *Backend) openSource(df bool, reserved *portSet) (int, uint16, error) {
	var lastErr error
	for tries := 0; tries < 64; {
		port := uint16(firstSourcePort + rand.IntN(lastSourcePort-firstSourcePort+1))
		if reserved.has(port) {
			continue
		}
		tries++
		fd, err := e.socket(e.Underlay, port, false)
		if err != nil {
			if lastErr = err; errors.Is(err, unix.EADDRINUSE) {
				continue
			}
			return -1, 0, err
		}
		if err := e.prepareSource(fd, df); err != nil {
			unix.Close(fd)
			return -1, 0, err
		}
		return fd, port, nil
	}
	return -1, 0, lastErr
}

// prepareSource sets what only sending sockets need.
func (e *Backend) prepareSource(fd int, df bool) error {
	// They are never read: what is sent to these ports takes no memory.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0)
	level, opt, value, multicast := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT, unix.IP_MULTICAST_IF
	if df {
		// VTEPs must not fragment (RFC 7348 section 4.3): the path's answer
		// comes back as EMSGSIZE.
		value = unix.IP_PMTUDISC_DO
	}
	if e.Underlay.Is6() {
		// A flow label of zero, as the kernel's vxlan has: the kernel's own
		// would differ from that of the uplink, and so perhaps the path.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, ipv6AutoFlowLabel, 0)
		level, opt, value, multicast = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT, unix.IPV6_MULTICAST_IF
		if df {
			value = unix.IPV6_PMTUDISC_DO
		}
	}
	if err := unix.SetsockoptInt(fd, level, opt, value); err != nil {
		return fmt.Errorf("set path MTU discovery: %w", err)
	}
	if err := setTTL(fd, e.Underlay.Is6(), netio.DefaultTTL); err != nil {
		return err
	}
	index, err := e.interfaceIndex()
	if err != nil {
		return err
	}
	if e.Underlay.Is6() {
		err = unix.SetsockoptInt(fd, level, multicast, index)
	} else {
		err = unix.SetsockoptIPMreqn(fd, level, multicast, &unix.IPMreqn{Ifindex: int32(index)})
	}
	if err != nil {
		return fmt.Errorf("set the multicast interface: %w", err)
	}
	return nil
}

// setTTL sets the TTL or hop limit of unicast and multicast.
func setTTL(fd int, v6 bool, ttl int) error {
	level, unicast, multicast := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MULTICAST_TTL
	if v6 {
		level, unicast, multicast = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MULTICAST_HOPS
	}
	for _, opt := range []int{unicast, multicast} {
		if err := unix.SetsockoptInt(fd, level, opt, ttl); err != nil {
			return fmt.Errorf("set the TTL: %w", err)
		}
	}
	return nil
}

// socket returns the one that sends the flow.
func (p *sourcePool) socket(flow uint32, df bool) int {
	if df {
		return p.df[p.pick(flow)]
	}
	return p.frag[p.pick(flow)]
}

// port returns the source port of the socket that sends the flow.
func (p *sourcePool) port(flow uint32, df bool) uint16 {
	i := p.pick(flow)
	if !df {
		i += len(p.df)
	}
	return uint16(p.ports[i].Load())
}

// pick spreads the hash evenly over a pool of any size, by multiply and shift.
func (p *sourcePool) pick(flow uint32) int {
	return int(uint64(flow) * uint64(len(p.df)) >> 32)
}

func (p *sourcePool) close() error {
	var errs []error
	for _, fd := range append(p.df, p.frag...) {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}
