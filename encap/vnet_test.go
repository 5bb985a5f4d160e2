package encap

import "testing"

func TestVnetHdr(t *testing.T) {
	for _, c := range []struct {
		bytes string
		hdr   VnetHdr
	}{
		{"00 00 0000 0000 0000 0000", VnetHdr{}},
		{"01 01 4200 a805 2200 1000", VnetHdr{VnetNeedsCsum, VnetGSOTCPv4, 66, 1448, 34, 16}},
		{"02 84 ffff 0100 fefd 0601", VnetHdr{VnetDataValid, VnetGSOTCPv6 | VnetGSOECN, 0xffff, 1, 0xfdfe, 0x0106}},
	} {
		wire := fromHex(t, c.bytes)
		equalBytes(t, c.bytes, putInto(t, VnetHdrLen, c.hdr.Put), wire)
		equal(t, c.bytes, ParseVnetHdr(append(wire, guard)), c.hdr)
	}
	equal(t, "GSO", VnetHdr{GSOType: VnetGSOTCPv6 | VnetGSOECN}.GSO(), VnetGSOTCPv6)
	equal(t, "GSO", VnetHdr{GSOType: VnetGSOUDPL4}.GSO(), VnetGSOUDPL4)
}
