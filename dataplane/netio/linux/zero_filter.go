package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"overtap/dataplane/netio"
	"overtap/encap"
)

// refusedLen is what zeroFilter leaves of a datagram that is not taken: the VXLAN
// header, which says whose it is, and a byte, since an empty packet may come by
// itself.
const refusedLen = encap.VXLANHeaderLen + 1

// Offsets in what a socket filter sees of UDP: the UDP header is its start
// (udpv6_queue_rcv_one_skb), and the IPv6 header lies at skfNet (SKF_NET_OFF).
const (
	udpChecksumAt = 6
	vniAt         = encap.UDPHeaderLen + 4
	ipv6SourceAt  = 8
	skfNet        = 0xfff00000
)

// AcceptZeroChecksums asks the kernel for datagrams without checksum, with a filter
// where not all are taken. It is for IPv6: over IPv4 the kernel takes them unasked.
// The filter stands before the first comes, and goes after the last.
func (w *udpConn) AcceptZeroChecksums(z netio.PortZeroChecksum) error {
	if !w.v6 {
		return nil
	}
	on := func(value int) error {
		const noCheck6RX = 102 // UDP_NO_CHECK6_RX of linux/udp.h
		if err := unix.SetsockoptInt(w.fd, unix.IPPROTO_UDP, noCheck6RX, value); err != nil {
			return fmt.Errorf("set UDP_NO_CHECK6_RX: %w", err)
		}
		return nil
	}
	if z.None() || z.Any {
		if err := on(map[bool]int{true: 1}[z.Any]); err != nil {
			return err
		}
		w.filters.Store(false)
		err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("detach the socket filter: %w", err)
		}
		return nil
	}
	filter := zeroFilter(z)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach a socket filter of %d instructions: %w", len(filter), err)
	}
	w.filters.Store(true)
	return on(1)
}

// zeroFilter takes all datagrams with a checksum, and those without that z does; of
// the others it keeps refusedLen bytes of payload. Those of an unknown VNI are among
// these, and dropped for that.
func zeroFilter(z netio.PortZeroChecksum) []unix.SockFilter {
	const (
		loadWord = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret      = unix.BPF_RET | unix.BPF_K
	)
	verdict := func(accept bool) unix.SockFilter {
		if accept {
			return unix.SockFilter{Code: ret, K: 0xffffffff}
		}
		return unix.SockFilter{Code: ret, K: encap.UDPHeaderLen + refusedLen}
	}
	f := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: encap.UDPHeaderLen + refusedLen, Jt: 1},
		verdict(true), // too short anyway
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: udpChecksumAt},
		{Code: equal, K: 0, Jt: 1},
		verdict(true),
		{Code: loadWord, K: vniAt},
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 8},
	}
	for _, n := range z.Networks {
		if len(n.Except) == 0 {
			f = append(f, unix.SockFilter{Code: equal, K: uint32(n.VNI), Jf: 1}, verdict(n.Accept))
			continue
		}
		// What does not fit the eight bits of a conditional jump takes two.
		f = append(f, unix.SockFilter{Code: equal, K: uint32(n.VNI), Jt: 1},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(netio.FilterExceptionCost*len(n.Except) + 1)})
		for _, peer := range n.Except {
			a := peer.As16()
			for i := range uint32(4) {
				f = append(f, unix.SockFilter{Code: loadWord, K: skfNet + ipv6SourceAt + 4*i},
					unix.SockFilter{Code: equal, K: binary.BigEndian.Uint32(a[4*i:]), Jf: uint8(7 - 2*i)})
			}
			f = append(f, verdict(!n.Accept))
		}
		f = append(f, verdict(n.Accept))
	}
	return append(f, verdict(false))
}

// checksumErrors are how many datagrams the kernel refused for their checksum, those
// to any UDP socket of the network namespace since it was made: of IPv6 they include
// those without one that no socket takes. 0 where the kernel does not say.
func checksumErrors(v6 bool) uint64 {
	if v6 {
		text, err := os.ReadFile("/proc/net/snmp6")
		if err != nil {
			return 0
		}
		return counterOf(string(text), "Udp6InCsumErrors")
	}
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0
	}
	return columnOf(string(text), "Udp:", "InCsumErrors")
}

// counterOf reads the counter of that name from lines of a name and a value.
func counterOf(text, name string) uint64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ := strconv.ParseUint(f[1], 10, 64) // 0 of what is none
			return n
		}
	}
	return 0
}

// columnOf reads the counter of that name from a group's line of names and the line
// of values behind it.
func columnOf(text, group, name string) uint64 {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != group {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		if i := slices.Index(names, name); i > 0 && i < len(f) {
			n, _ := strconv.ParseUint(f[i], 10, 64)
			return n
		}
		break
	}
	return 0
}

func (e *Backend) ChecksumErrors() uint64 { return checksumErrors(e.Underlay.Is6()) }
