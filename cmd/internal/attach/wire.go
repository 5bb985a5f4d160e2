package attach

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"overtap/encap"
)

// Rounds of frames and the time after each. RFC 5227 section 1.1 waits up to
// seven seconds in all, for links of any age; a bridge and an overlay answer
// within milliseconds.
const (
	probeRounds    = 3
	announceRounds = 2
	roundTime      = 100 * time.Millisecond
)

// wire sends and receives whole frames on a device of another namespace.
type wire struct {
	fd    int
	index int // of the device
}

// openWire opens a packet socket on the device of the given index in ns, nil being
// the namespace of the calling thread. It receives ARP, neighbour solicitations
// and advertisements.
func openWire(ns *os.File, index int) (*wire, error) {
	filter, err := neighborFilter()
	if err != nil {
		return nil, err
	}
	w := &wire{index: index}
	open := func() (err error) {
		// Of protocol 0 it receives nothing until it is bound.
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	}
	if ns == nil {
		err = open()
	} else {
		err = inside(ns, open)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		w.close()
		return nil, fmt.Errorf("setting a packet socket's filter: %w", err)
	}
	if err := unix.Bind(w.fd, w.address()); err != nil {
		w.close()
		return nil, fmt.Errorf("binding a packet socket: %w", err)
	}
	return w, nil
}

func (w *wire) close() { unix.Close(w.fd) }

func (w *wire) address() *unix.SockaddrLinklayer {
	// In network byte order, unlike every other number of this call.
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	return &unix.SockaddrLinklayer{Protocol: all, Ifindex: w.index}
}

// neighborFilter passes ARP, and ICMPv6's neighbour messages where they follow
// the IPv6 header at once, without a VLAN tag.
func neighborFilter() ([]unix.SockFilter, error) {
	const (
		etherType  = 2 * encap.MACLen
		nextHeader = encap.EthernetHeaderLen + 6
		icmpType   = encap.EthernetHeaderLen + encap.IPv6HeaderLen
	)
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 8},
		bpf.LoadAbsolute{Off: etherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: encap.EtherTypeARP, SkipTrue: 7},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: encap.EtherTypeIPv6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: nextHeader, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: encap.ProtoICMPv6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: icmpType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: encap.ICMPv6NeighborSolicit, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: encap.ICMPv6NeighborAdvert, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	})
	if err != nil {
		return nil, fmt.Errorf("assembling a packet socket's filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// takenError says that another host has an address.
type takenError struct {
	address netip.Addr
	holder  encap.MAC
}

func (e takenError) Error() string {
	return fmt.Sprintf("the address %s is taken, by %s: choose another, or detach that one", e.address, e.holder)
}

// probe asks whether another host has one of the addresses, and takes silence for a
// no. One that answers is a takenError.
func (w *wire) probe(ctx context.Context, addresses []netip.Addr, prober encap.MAC) error {
	frames := make([][]byte, len(addresses))
	for i, a := range addresses {
		frames[i] = probe(a, prober)
	}
	for range probeRounds {
		if err := w.send(frames); err != nil {
			return err
		}
		err := w.receive(ctx, time.Now().Add(roundTime), func(frame []byte) error {
			a, holder, ok := claim(frame)
			// Our own probe, come back by a loop, is no other host's claim.
			if ok && holder != prober && slices.Contains(addresses, a) {
				return takenError{a, holder}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// announce announces to all hosts that the addresses are at mac, more than once,
// as it is not confirmed.
func (w *wire) announce(ctx context.Context, addresses []netip.Addr, mac encap.MAC) error {
	frames := make([][]byte, len(addresses))
	for i, a := range addresses {
		frames[i] = announcement(a, mac)
	}
	for round := range announceRounds {
		if round > 0 {
			if err := sleep(ctx, roundTime); err != nil {
				return err
			}
		}
		if err := w.send(frames); err != nil {
			return err
		}
	}
	return nil
}

func (w *wire) send(frames [][]byte) error {
	for _, f := range frames {
		if err := unix.Sendto(w.fd, f, 0, w.address()); err != nil {
			return fmt.Errorf("sending a frame: %w", err)
		}
	}
	return nil
}

// receive hands over the frames that others send until the deadline, until ctx
// ends, or until f returns an error, and returns the error.
func (w *wire) receive(ctx context.Context, deadline time.Time, f func(frame []byte) error) error {
	buf := make([]byte, 1<<16)
	for {
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
			// Rounded up: a wait of nothing would spin.
			if _, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("waiting for frames: %w", err)
			}
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receiving frames: %w", err)
		}
		// What the container itself sends is seen here too.
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if err := f(buf[:n]); err != nil {
			return err
		}
	}
}

// sleep waits for t, or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}
