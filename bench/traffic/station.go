package traffic

import (
	"net/netip"

	"overtap/encap"
)

// MaxStations is how many stations an end may have.
const MaxStations = 1 << 20

// Stations are imagined hosts behind one end: a count of them and a number that
// tells the ends apart. They have addresses but no devices, so that an end can
// have as many as a big segment. The zero value is none.
type Stations struct {
	Side  uint8
	Count int
}

// MAC returns the address of the ith station, a locally administered one.
func (s Stations) MAC(i int) encap.MAC {
	return encap.MACFrom([]byte{0x02, 0x00, s.Side, byte(i >> 16), byte(i >> 8), byte(i)})
}

// IPv4 returns the address of the ith station, from 198.18.0.0/15, which is kept
// for benchmarks (RFC 2544 appendix C.2.2). Stations 65536 apart share one.
func (s Stations) IPv4(i int) netip.Addr {
	return netip.AddrFrom4(s.ipv4(i))
}

func (s Stations) ipv4(i int) [4]byte {
	return [4]byte{198, 18 | s.Side&1, byte(i >> 8), byte(i)}
}
