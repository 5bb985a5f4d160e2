package dataplane

import (
	"encoding/binary"

	"overtap/encap"
)

// What arrives as many segments goes to the TAP as one superframe: the kernel's
// walk from the TAP to the container's socket costs about the same for both.
// A segment joins a train only where the kernel's own GRO would join it (kernel
// tcp_gro_receive, inet_gro_receive, udp_gro_receive), so that cutting the train
// gives the segments back.

const (
	// maxTrains may wait for one flush; what is more goes alone.
	maxTrains = 64
	// maxTrain keeps a train below UDP_MAX_SEGMENTS of older kernels.
	maxTrain = 64
	// maxTrainBytes keeps a train's IP packet below 64 KiB.
	maxTrainBytes = 65535 - 128

	tcpSeqAt, tcpAckAt = 4, 8
	ipv4IDAt           = 4
	ipv4DF             = 0x40
)

// train is a flow's segments in a row: the first frame whole, then payloads.
type train struct {
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

// segmentOf is a received frame that may join a train.
type segmentOf struct {
	frame   []byte // to the end of its IP packet
	t       encap.Transport
	headers int
	hash    uint32
}

// coalesce lets the segment join a train of the frames that wait and reports
// whether it did. If not, it is to be appended by itself, and begins a train
// there when it may be joined by others.
func (in *inbound) coalesce(s *segmentOf) (joined, begins bool) {
	flags := uint8(0)
	if s.t.Proto == encap.ProtoTCP {
		flags = s.frame[s.t.L4+tcpFlagsAt]
		if flags&^(encap.TCPPSH|encap.TCPECE) != encap.TCPACK {
			in.seal(s.hash)
			return false, false
		}
		if len(s.frame) == s.headers {
			return false, false // a pure ACK passes beside its flow's train
		}
	}
	for i := range in.trains {
		tr := &in.trains[i]
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
		f.segs++
		f.size += len(s.frame)
		return true, false
	}
	return false, flags&encap.TCPPSH == 0
}

// seal ends the flow's train: what follows must not be joined to what came
// before.
func (in *inbound) seal(hash uint32) {
	for i := range in.trains {
		if in.trains[i].hash == hash {
			in.trains[i].open = false
		}
	}
}

// begin makes the segment, which is the frame at index out of those that wait,
// a train of one.
func (in *inbound) begin(s *segmentOf, out int) {
	if len(in.trains) == cap(in.trains) {
		return
	}
	in.trains = in.trains[:len(in.trains)+1]
	tr := &in.trains[len(in.trains)-1]
	*tr = train{
		open: true, hash: s.hash, out: out, t: s.t,
		first: s.frame, headers: s.headers,
		size: len(s.frame) - s.headers, segs: 1, payload: len(s.frame) - s.headers,
		parts: append(tr.parts[:0], s.frame),
	}
	tr.expect(s)
}

// expect notes what the next segment must carry.
func (tr *train) expect(s *segmentOf) {
	if tr.t.Proto == encap.ProtoTCP {
		tr.seq = encap.TCP(s.frame[s.t.L4:]).Seq() + uint32(len(s.frame)-s.headers)
	}
	if !tr.t.V6 {
		tr.id = encap.IPv4(s.frame[s.t.L3:]).ID() + 1
	}
}

// sameFlow compares what names a flow: addresses, protocol and ports. The
// hashes are equal already.
func (tr *train) sameFlow(s *segmentOf) bool {
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

// takes reports whether the segment may be the train's next.
func (tr *train) takes(s *segmentOf) bool {
	size := len(s.frame) - s.headers
	if size > tr.size || tr.segs == maxTrain ||
		tr.headers != s.headers || tr.headers+tr.payload+size > maxTrainBytes {
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
func (tr *train) sameIP(s *segmentOf) bool {
	a, b := tr.first[tr.t.L3:], s.frame[s.t.L3:]
	if tr.t.V6 {
		return [4]byte(a) == [4]byte(b) && [2]byte(a[6:]) == [2]byte(b[6:]) &&
			string(a[encap.IPv6HeaderLen:tr.t.L4-tr.t.L3]) == string(b[encap.IPv6HeaderLen:s.t.L4-s.t.L3])
	}
	return [2]byte(a) == [2]byte(b) && [2]byte(a[6:]) == [2]byte(b[6:]) && a[8] == b[8] &&
		(a[6]&ipv4DF != 0 || encap.IPv4(b).ID() == tr.id)
}

func (tr *train) join(s *segmentOf) {
	payload := s.frame[s.headers:]
	tr.parts = append(tr.parts, payload)
	tr.segs++
	tr.payload += len(payload)
	if len(payload) < tr.size {
		tr.open = false // the last of its run
	}
	tr.expect(s)
}

// finishTrains gives each train's frame its parts, lengths and vnet header.
func (in *inbound) finishTrains() {
	for i := range in.trains {
		if tr := &in.trains[i]; tr.segs > 1 {
			f := &in.frames[tr.out]
			f.Parts, f.VNet = tr.parts, tr.superframe()
		}
	}
	in.trains = in.trains[:0]
}

// superframe rewrites the first frame's headers for all of the payload, with
// the checksum left to the kernel. (Kernel tcp_gro_complete, udp_gro_complete.)
func (tr *train) superframe() encap.VnetHdr {
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

// joinable reports whether the frame may be part of a train: TCP or UDP without
// IP options or fragments, with checksums that are right: those of a train are
// made anew, which must not hide a fault. verified says that the
// outer checksum, which covers the inner bytes, was found right.
func joinable(frame []byte, t encap.Transport, headers int, unfinished, verified bool) bool {
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
	if !t.V6 && encap.Fold(encap.Sum(frame[t.L3:t.L4], 0)) != 0xffff {
		return false
	}
	return unfinished || verified || checksumRight(frame, t)
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
