package encap

import (
	"encoding/binary"
	"math/bits"
)

// Odd constants with as many ones as zeros, unrelated to each other: the
// secret of wyhash (Wang Yi, public domain).
const (
	flowKey0 = 0xa076_1d64_78bd_642f
	flowKey1 = 0xe703_7ed1_a0b4_28db
	flowKey2 = 0x8ebc_6af0_9c88_c6e3
	flowKey3 = 0x5899_65cc_7537_4cc3
)

// FlowHash returns a number that is the same for all frames of one inner flow
// and well spread over flows in all its bits: the outer source port is chosen
// by it (RFC 7348 section 5, "Source Port"). The two directions of a flow differ.
//
// What makes a flow: for TCP, UDP and SCTP addresses, protocol and ports; for
// other IP packets, ICMP among them, and for all fragments addresses and
// protocol, since only a first fragment has ports. VLAN tags are looked
// through. Everything else, malformed IP included, goes by MAC addresses and
// EtherType. The hash is not seeded: it survives a restart.
func FlowHash(frame []byte) uint32 {
	if t, ok := FindTransport(frame); ok {
		return t.FlowHash(frame)
	}
	eth, err := ParseEthernet(frame)
	if err != nil {
		return 0
	}
	return mixFlow(mix(uint64(eth.Dst())^flowKey0, uint64(eth.Src())^flowKey1), uint64(eth.EtherType()))
}

// FlowHash is the package's FlowHash for the frame in which t was found.
//
// IPv6's flow label is left out although it is meant for this (RFC 6438): Linux
// gives a TCP connection a new one when it suspects the path, and a flow that
// changes its port changes queues and is reordered. The ports distinguish flows
// as well.
func (t Transport) FlowHash(frame []byte) uint32 {
	last := uint64(t.Proto) << 32
	switch t.Proto {
	case ProtoTCP, ProtoUDP, ProtoSCTP:
		if !t.Fragment && t.End-t.L4 >= 4 {
			last |= uint64(binary.LittleEndian.Uint32(frame[t.L4:]))
		}
	}
	if !t.V6 {
		a := (*[8]byte)(frame[t.L3+12:])
		return mixFlow(binary.LittleEndian.Uint64(a[:]), last)
	}
	a := (*[32]byte)(frame[t.L3+8:])
	src := mix(binary.LittleEndian.Uint64(a[0:])^flowKey0, binary.LittleEndian.Uint64(a[8:])^flowKey1)
	dst := mix(binary.LittleEndian.Uint64(a[16:])^flowKey2, binary.LittleEndian.Uint64(a[24:])^flowKey3)
	return mixFlow(src^bits.RotateLeft64(dst, 32), last)
}

// mixFlow brings a flow's addresses and the rest together.
func mixFlow(addrs, rest uint64) uint32 {
	h := mix(mix(addrs^flowKey0, rest^flowKey1)^flowKey2, flowKey3)
	return uint32(h>>32) ^ uint32(h)
}

// mix multiplies and folds the product, so that every bit of one factor reaches
// bits all over the result.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
