package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"overtap/dataplane"
	"overtap/encap"
)

// The stream of a capture is a row of messages: a length in four bytes, without
// themselves, a byte that says what it is, and that. Integers are little-endian,
// texts and addresses have their length before them in a byte. JSON would cost
// more than the capture itself.
const (
	isLost   = 0
	isRecord = 1
	// maxCaptured is more than any message has.
	maxCaptured = 1 << 18
)

// Flags of a record.
const (
	unfinishedFlag = 1 << iota
	answerFlag
	inboundFlag
)

func appendLost(b []byte, lost uint64) []byte {
	b = binary.LittleEndian.AppendUint32(b, 9)
	return binary.LittleEndian.AppendUint64(append(b, isLost), lost)
}

// appendRecord appends the message of r.
func appendRecord(b []byte, r *dataplane.Record) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, isRecord)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.VNI))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Length))
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Segments))
	b = binary.LittleEndian.AppendUint16(b, uint16(r.SegmentSize))
	flags := byte(0)
	for i, set := range []bool{r.Unfinished, r.Answer, r.Direction == dataplane.Inbound} {
		if set {
			flags |= 1 << i
		}
	}
	b = append(b, flags)
	reason := ""
	if r.Point == dataplane.PointDropped {
		reason = r.Drop.String()
	}
	for _, text := range []string{r.Network, string(r.Kind), r.Point.String(), reason} {
		b = append(append(b, byte(len(text))), text...)
	}
	at := len(b)
	b, _ = r.Peer.AppendBinary(append(b, 0)) // it has no error
	b[at] = byte(len(b) - at - 1)
	b = append(append(b, byte(len(r.Outer))), r.Outer...)
	b = append(b, r.Frame...)
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

var errMessage = errors.New("what came is no message of a capture: the daemon is of another version than the command")

// readCaptured reads a message into buf, which the record refers to: a record, or a
// number of lost ones.
func readCaptured(in *bufio.Reader, buf *[]byte) (*dataplane.Record, uint64, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, 0, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxCaptured {
		return nil, 0, errMessage
	}
	if int(n) > cap(*buf) {
		*buf = make([]byte, max(n, 1<<16))
	}
	b := (*buf)[:n]
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, 0, err
	}
	switch {
	case b[0] == isLost && n == 9:
		return nil, binary.LittleEndian.Uint64(b[1:]), nil
	case b[0] == isRecord:
		r, err := parseRecord(b[1:])
		return r, 0, err
	}
	return nil, 0, errMessage
}

// parseRecord reads what appendRecord wrote behind the kind.
func parseRecord(b []byte) (*dataplane.Record, error) {
	const fixed = 8 + 4 + 4 + 2 + 2 + 1
	if len(b) < fixed {
		return nil, errMessage
	}
	le := binary.LittleEndian
	r := &dataplane.Record{
		Time: time.Unix(0, int64(le.Uint64(b))), VNI: encap.VNI(le.Uint32(b[8:])), Length: int(le.Uint32(b[12:])),
		Segments: int(le.Uint16(b[16:])), SegmentSize: int(le.Uint16(b[18:])),
		Unfinished: b[20]&unfinishedFlag != 0, Answer: b[20]&answerFlag != 0,
	}
	if b[20]&inboundFlag != 0 {
		r.Direction = dataplane.Inbound
	}
	b = b[fixed:]
	var parts [6][]byte // network, kind, point, reason, peer, outer headers
	for i := range parts {
		if len(b) == 0 || len(b)-1 < int(b[0]) {
			return nil, errMessage
		}
		n := int(b[0])
		parts[i], b = b[1:1+n:1+n], b[1+n:]
	}
	r.Network, r.Kind, r.Frame = string(parts[0]), dataplane.Kind(parts[1]), b
	if err := r.Point.UnmarshalText(parts[2]); err != nil {
		return nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	if len(parts[3]) > 0 {
		if err := r.Drop.UnmarshalText(parts[3]); err != nil {
			return nil, fmt.Errorf("%w: %w", errMessage, err)
		}
	}
	if len(parts[4]) > 0 {
		peer, ok := netip.AddrFromSlice(parts[4])
		if !ok {
			return nil, errMessage
		}
		r.Peer = peer
	}
	if len(parts[5]) > 0 {
		r.Outer = parts[5]
	}
	return r, nil
}
