package encap

import "encoding/binary"

// Kinds of TCP options (RFC 9293 section 3.1).
const (
	tcpOptEnd = 0
	tcpOptNOP = 1
	tcpOptMSS = 2
)

// ClampMSS lowers the maximum segment size that a SYN announces to most, in
// bytes, and reports whether it did: it never raises it, and leaves a segment
// alone that announces none, or whose options are malformed. The segment is an IP
// packet's whole payload; b is changed in place. The checksum follows (RFC 1624),
// unless it is partial: left to a device, and holding the pseudo-header's sum.
func ClampMSS(b []byte, most uint16, partial bool) bool {
	s, err := ParseTCP(b)
	if err != nil || s.Flags()&TCPSYN == 0 {
		return false
	}
	for o := s.Options(); len(o) > 0 && o[0] != tcpOptEnd; {
		if o[0] == tcpOptNOP {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return false
		}
		if o[0] != tcpOptMSS || o[1] != 4 {
			o = o[o[1]:]
			continue
		}
		old := binary.BigEndian.Uint16(o[2:])
		if old <= most {
			return false
		}
		binary.BigEndian.PutUint16(o[2:], most)
		if !partial {
			was, is := old, most
			if (s.DataOffset()-len(o))&1 != 0 { // the option lies across two words
				was, is = was<<8|was>>8, is<<8|is>>8
			}
			binary.BigEndian.PutUint16(b[16:], UpdateChecksum(s.Checksum(), was, is))
		}
		return true
	}
	return false
}
