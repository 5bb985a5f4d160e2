package dataplane

import (
	"encoding/binary"

	"overtap/encap"
)

// What arrives as many segments goes to the TAP as one GSO packet: the kernel's
// walk from the TAP to the container's socket costs about the same for both.
// A segment joins a GRO flow only where the kernel's own GRO would join it (kernel
// tcp_gro_receive, inet_gro_receive, udp_gro_receive), so that cutting the GRO flow
// gives the segments back.

const (
	// maxTrains may wait for one flush; what is more goes alone.
	maxGROFlows = 64
	// maxTrain keeps a GRO flow below UDP_MAX_SEGMENTS of older kernels.
	maxGROSegments = 64
	// maxTrainBytes keeps a GRO flow's IP packet below 64 KiB.
	maxGROBytes = 65535 - 128

	tcpSeqAt, tcpAckAt = 4, 8
	ipv4IDAt           = 4
	ipv4DF             = 0x40
)

// groFlow is a flow's segments in a row: the first frame whole, then payloads.
type groFlow struct {
	open    bool // may grow
	hash    uint32
	out     int // index of its frame in inbound.frames
	t       encap.Transport
	first   []byte // the first frame, to the end of its IP packet
	headers int    // bytes of it before the payload
	size    int    // payload bytes of each segment but the last
	segs    int
	payload int    // bytes of all
	seq     uint32 // TCP: expected next
	id      uint16 // IPv4: expected next
	parts   [][]byte
}

// groSegment is a received frame that may join a GRO flow.
type groSegment struct {
	frame   []byte // to the end of its IP packet
	t       encap.Transport
	headers int
	hash    uint32
}

// coalesce lets the segment join a GRO flow of the frames that wait and reports
// whether it did. If not, it is to be appended by itself, and begins a GRO flow
// there when it may be joined by others.
func (in *deliverer) coalesce(s *groSegment) (joined, begins bool) {
	flags := uint8(0)
	if s.t.Proto == encap.ProtoTCP {
		flags = s.frame[s.t.L4+tcpFlagsAt]
		if flags&^(encap.TCPPSH|encap.TCPECE) != encap.TCPACK {
			in.seal(s.hash)
			return false, false
		}
		if len(s.frame) == s.headers {
			return false, false // a pure ACK passes beside its flow's GRO flow
		}
	}
	for i := range in.flows {
		tr := &in.flows[i]
		if !tr.open || tr.hash != s.hash || !tr.sameFlow(s) {
			continue
		}
		if !tr.takes(s) {
			tr.open = false
			break
		}
		tr.join(s)
		if flags&encap.TCPPSH != 0 {
			tr.first[tr.t.L4+tcpFlagsAt] |= encap.TCPPSH
			tr.open = false
		}
		f := &in.frames[tr.out]
		f.Count++
		f.Size += len(s.frame)
		return true, false
	}
	return false, flags&encap.TCPPSH == 0
}

// seal ends the flow's GRO flow: what follows must not be joined to what came
// before.
func (in *deliverer) seal(hash uint32) {
	for i := range in.flows {
		if in.flows[i].hash == hash {
			in.flows[i].open = false
		}
	}
}

// begin makes the segment, which is the frame at index out of those that wait,
// a GRO flow of one.
func (in *deliverer) begin(s *groSegment, out int) {
	if len(in.flows) == cap(in.flows) {
		return
	}
	in.flows = in.flows[:len(in.flows)+1]
	tr := &in.flows[len(in.flows)-1]
	*tr = groFlow{
		open: true, hash: s.hash, out: out, t: s.t,
		first: s.frame, headers: s.headers,
		size: len(s.frame) - s.headers, segs: 1, payload: len(s.frame) - s.headers,
		parts: append(tr.parts[:0], s.frame),
	}
	tr.expect(s)
}

// expect notes what the next segment must carry.
func (tr *groFlow) expect(s *groSegment) {
	if tr.t.Proto == encap.ProtoTCP {
		tr.seq = encap.TCP(s.frame[s.t.L4:]).Seq() + uint32(len(s.frame)-s.headers)
	}
	if !tr.t.V6 {
		tr.id = encap.IPv4(s.frame[s.t.L3:]).ID() + 1
	}
}

// sameFlow compares what names a flow: addresses, protocol and ports. The
// hashes are equal already.
func (tr *groFlow) sameFlow(s *groSegment) bool {
	a, b := tr.first, s.frame
	if tr.t.L3 != s.t.L3 || tr.t.L4 != s.t.L4 || tr.t.Kind != s.t.Kind ||
		[4]byte(a[tr.t.L4:]) != [4]byte(b[tr.t.L4:]) {
		return false
	}
	if tr.t.V6 {
		return [32]byte(a[tr.t.L3+8:]) == [32]byte(b[tr.t.L3+8:])
	}
	return [8]byte(a[tr.t.L3+12:]) == [8]byte(b[tr.t.L3+12:])
}

// takes reports whether the segment may be the GRO flow's next.
func (tr *groFlow) takes(s *groSegment) bool {
	size := len(s.frame) - s.headers
	if size > tr.size || tr.segs == maxGROSegments ||
		tr.headers != s.headers || tr.headers+tr.payload+size > maxGROBytes {
		return false
	}
	if string(tr.first[:tr.t.L3]) != string(s.frame[:s.t.L3]) || !tr.sameIP(s) {
		return false
	}
	if tr.t.Proto == encap.ProtoUDP {
		return true
	}
	a, b := tr.first[tr.t.L4:], s.frame[s.t.L4:]
	return encap.TCP(b).Seq() == tr.seq &&
		[5]byte(a[tcpAckAt:]) == [5]byte(b[tcpAckAt:]) && // with the data offset
		a[tcpFlagsAt]&^encap.TCPPSH == b[tcpFlagsAt]&^encap.TCPPSH &&
		[2]byte(a[14:]) == [2]byte(b[14:]) && // window
		string(a[encap.TCPHeaderLen:tr.headers-tr.t.L4]) == string(b[encap.TCPHeaderLen:s.headers-s.t.L4])
}

// sameIP compares the network headers but for lengths, checksum and the IPv4
// identifier, which must count up where routers might fragment.
func (tr *groFlow) sameIP(s *groSegment) bool {
	a, b := tr.first[tr.t.L3:], s.frame[s.t.L3:]
	if tr.t.V6 {
		return [4]byte(a) == [4]byte(b) && [2]byte(a[6:]) == [2]byte(b[6:]) &&
			string(a[encap.IPv6HeaderLen:tr.t.L4-tr.t.L3]) == string(b[encap.IPv6HeaderLen:s.t.L4-s.t.L3])
	}
	return [2]byte(a) == [2]byte(b) && [2]byte(a[6:]) == [2]byte(b[6:]) && a[8] == b[8] &&
		(a[6]&ipv4DF != 0 || encap.IPv4(b).ID() == tr.id)
}

func (tr *groFlow) join(s *groSegment) {
	payload := s.frame[s.headers:]
	tr.parts = append(tr.parts, payload)
	tr.segs++
	tr.payload += len(payload)
	if len(payload) < tr.size {
		tr.open = false // the last of its run
	}
	tr.expect(s)
}

// flushGRO gives each GRO flow's frame its parts, lengths and vnet header.
func (in *deliverer) flushGRO() {
	for i := range in.flows {
		if tr := &in.flows[i]; tr.segs > 1 {
			f := &in.frames[tr.out]
			f.Parts, f.VNet = tr.parts, tr.gsoPacket()
		}
	}
	in.flows = in.flows[:0]
}

// gsoPacket rewrites the first frame's headers for all of the payload, with
// the checksum left to the kernel. (Kernel tcp_gro_complete, udp_gro_complete.)
func (tr *groFlow) gsoPacket() encap.VnetHdr {
	l3, l4 := tr.first[tr.t.L3:], tr.first[tr.t.L4:]
	length := tr.headers - tr.t.L4 + tr.payload
	v := encap.VnetHdr{
		Flags: encap.VnetNeedsCsum, HdrLen: uint16(tr.headers), GSOSize: uint16(tr.size),
		CsumStart: uint16(tr.t.L4), CsumOffset: tcpSumAt, GSOType: encap.VnetGSOTCPv4,
	}
	var pseudo uint64
	if tr.t.V6 {
		v.GSOType = encap.VnetGSOTCPv6
		binary.BigEndian.PutUint16(l3[4:], uint16(tr.t.L4-tr.t.L3-encap.IPv6HeaderLen+length))
		ip := encap.IPv6(l3)
		pseudo = encap.PseudoSum6(ip.SrcBytes(), ip.DstBytes(), tr.t.Proto, uint32(length))
	} else {
		binary.BigEndian.PutUint16(l3[2:], uint16(encap.IPv4HeaderLen+length))
		binary.BigEndian.PutUint16(l3[10:], 0)
		binary.BigEndian.PutUint16(l3[10:], ^encap.Fold(encap.Sum(l3[:encap.IPv4HeaderLen], 0)))
		ip := encap.IPv4(l3)
		pseudo = encap.PseudoSum4(ip.SrcBytes(), ip.DstBytes(), tr.t.Proto, uint32(length))
	}
	if tr.t.Proto == encap.ProtoUDP {
		v.GSOType, v.CsumOffset = encap.VnetGSOUDPL4, udpSumAt
		binary.BigEndian.PutUint16(l4[4:], uint16(length))
	}
	binary.BigEndian.PutUint16(l4[v.CsumOffset:], encap.Fold(pseudo))
	return v
}

// joinable reports whether the frame may be part of a GRO flow: TCP or UDP without
// IP options or fragments, with checksums that are right or unfinished. A GRO flow
// gets new checksums, so a wrong one must not get in: it would become right. An
// outer checksum says nothing here: the frame may have been damaged before it was
// encapsulated. (Kernel skb_gro_checksum_validate.)
func joinable(frame []byte, t encap.Transport, headers int, unfinished bool) bool {
	if headers == 0 || t.Fragment || (!t.V6 && t.L4-t.L3 != encap.IPv4HeaderLen) ||
		headers-t.L3 > 120 {
		return false
	}
	if t.Proto == encap.ProtoUDP {
		if t.End-t.L4 != encap.UDP(frame[t.L4:]).Length() || t.End == headers ||
			encap.UDP(frame[t.L4:]).Checksum() == 0 {
			return false
		}
	}
	return headerSumRight(frame, t) && (unfinished || checksumRight(frame, t))
}

// headerSumRight sums the header of IPv4; IPv6 has no checksum. (Kernel
// ip_fast_csum.)
func headerSumRight(frame []byte, t encap.Transport) bool {
	return t.V6 || encap.Fold(encap.Sum(frame[t.L3:t.L4], 0)) == 0xffff
}

// checksumRight sums a finished transport checksum.
func checksumRight(frame []byte, t encap.Transport) bool {
	length := uint32(t.End - t.L4)
	var sum uint64
	if t.V6 {
		ip := encap.IPv6(frame[t.L3:])
		sum = encap.PseudoSum6(ip.SrcBytes(), ip.DstBytes(), t.Proto, length)
	} else {
		ip := encap.IPv4(frame[t.L3:])
		sum = encap.PseudoSum4(ip.SrcBytes(), ip.DstBytes(), t.Proto, length)
	}
	return encap.Fold(encap.Sum(frame[t.L4:t.End], sum)) == 0xffff
}
