package traffic

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
)

// A datagram of a UDP run starts, in network byte order, with its sequence
// number (8 bytes), the run's identifier (4) and the CRC-32C of everything else
// (4). Random bytes follow.
const (
	headerLen = 16
	sumAt     = 12
	// maxDatagram is the largest UDP payload over IPv4, in bytes.
	maxDatagram = 65507
	// maxPackets bounds a run, and with it the memory that tells duplicates.
	maxPackets = 1 << 32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// packets is a batch of equal datagrams, one after the other in memory.
type packets struct {
	run  uint32
	size int
	buf  []byte
	// The sum of each body. Bodies never change, and the header is summed
	// after them, so sending costs the same for every size.
	bodies []uint32
}

func newPackets(run uint32, n, size int) *packets {
	p := &packets{run: run, size: size, buf: make([]byte, n*size), bodies: make([]uint32, n)}
	for i := range p.bodies {
		body := p.at(i)[headerLen:]
		for j := range body {
			body[j] = byte(rand.Uint32())
		}
		p.bodies[i] = crc32.Checksum(body, castagnoli)
	}
	return p
}

func (p *packets) at(i int) []byte { return p.buf[i*p.size:][:p.size] }

// number gives the ith datagram a sequence number.
func (p *packets) number(i int, seq uint64) {
	b := p.at(i)
	binary.BigEndian.PutUint64(b, seq)
	binary.BigEndian.PutUint32(b[8:], p.run)
	binary.BigEndian.PutUint32(b[sumAt:], crc32.Update(p.bodies[i], castagnoli, b[:sumAt]))
}

// record counts what arrives at one receiver.
type record struct {
	run  uint32
	size int
	seen []uint64 // a bit for every sequence number
	next uint64   // one above the highest seen
	res  *UDPResult
}

// take counts one datagram. Unsegmented ones of another run are not counted.
func (r *record) take(b []byte) {
	if len(b) != r.size || binary.BigEndian.Uint32(b[sumAt:]) !=
		crc32.Update(crc32.Checksum(b[headerLen:], castagnoli), castagnoli, b[:sumAt]) {
		r.res.Corrupted++
		return
	}
	if binary.BigEndian.Uint32(b[8:]) != r.run {
		return
	}
	seq := binary.BigEndian.Uint64(b)
	if seq >= maxPackets {
		r.res.Corrupted++
		return
	}
	for seq/64 >= uint64(len(r.seen)) {
		r.seen = append(r.seen, 0)
	}
	bit := uint64(1) << (seq % 64)
	switch {
	case r.seen[seq/64]&bit != 0:
		r.res.Duplicated++
		return
	case seq < r.next:
		r.res.Reordered++
	default:
		r.next = seq + 1
	}
	r.seen[seq/64] |= bit
	r.res.Received++
	r.res.Bytes += int64(len(b))
}
