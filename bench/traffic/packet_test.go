package traffic

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRecordTellsFates(t *testing.T) {
	p := newPackets(7, 1, 40)
	send := func(seq uint64) []byte {
		p.number(0, seq)
		return bytes.Clone(p.at(0))
	}
	flip := func(b []byte, at int) []byte {
		b[at] ^= 1
		return b
	}
	unlisted := newPackets(8, 1, 40)
	unlisted.number(0, 1)
	for _, c := range []struct {
		name string
		in   [][]byte
		want UDPResult
	}{
		{"in order", [][]byte{send(0), send(1), send(2)}, UDPResult{Received: 3, Bytes: 120}},
		{"a gap", [][]byte{send(0), send(200)}, UDPResult{Received: 2, Bytes: 80}},
		{"late", [][]byte{send(0), send(2), send(1)}, UDPResult{Received: 3, Reordered: 1, Bytes: 120}},
		{"twice", [][]byte{send(0), send(1), send(0)}, UDPResult{Received: 2, Duplicated: 1, Bytes: 80}},
		{"number flipped", [][]byte{flip(send(0), 7)}, UDPResult{Corrupted: 1}},
		{"sum flipped", [][]byte{flip(send(0), 12)}, UDPResult{Corrupted: 1}},
		{"last byte flipped", [][]byte{flip(send(0), 39)}, UDPResult{Corrupted: 1}},
		{"cut", [][]byte{send(0)[:39]}, UDPResult{Corrupted: 1}},
		{"nothing", [][]byte{{}}, UDPResult{Corrupted: 1}},
		{"too long", [][]byte{append(send(0), 0)}, UDPResult{Corrupted: 1}},
		{"of another run", [][]byte{unlisted.at(0)}, UDPResult{}},
		{"out of bounds", [][]byte{send(maxPackets)}, UDPResult{Corrupted: 1}},
	} {
		var got UDPResult
		r := record{run: 7, size: 40, res: &got}
		for _, b := range c.in {
			r.take(b)
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestRecordAgainstAMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p := newPackets(1, 1, headerLen)
	var got, want UDPResult
	r := record{run: 1, size: headerLen, res: &got}
	seen, order := map[uint64]bool{}, []uint64{}
	for range 5000 {
		seq := random.Uint64N(3000)
		p.number(0, seq)
		r.take(p.at(0))
		if seen[seq] {
			want.Duplicated++
			continue
		}
		if len(order) > 0 && seq < slices.Max(order) {
			want.Reordered++
		}
		seen[seq] = true
		order = append(order, seq)
		want.Received++
		want.Bytes += headerLen
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
