package wiretest

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// segment is a TCP segment in VXLAN. A word of the payload is chosen so that the
// TCP checksum comes to zero.
func segment(t *testing.T) (frame []byte, checksumAt int) {
	t.Helper()
	outer := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: []byte{192, 0, 2, 1}, DstIP: []byte{192, 0, 2, 2}}
	inner := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: []byte{198, 51, 100, 1}, DstIP: []byte{198, 51, 100, 2}}
	udp := &layers.UDP{SrcPort: 50000, DstPort: 4789}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 5001, ACK: true, Window: 100}
	for _, err := range []error{udp.SetNetworkLayerForChecksum(outer), tcp.SetNetworkLayerForChecksum(inner)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ethernet := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	payload := make(gopacket.Payload, 8) // no padding follows it
	const udpSumAt, at = 14 + 20 + 6, 14 + 20 + 8 + 8 + 14 + 20
	for {
		b := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			ethernet, outer, udp, &layers.VXLAN{ValidIDFlag: true, VNI: 100}, ethernet, inner, tcp, payload)
		if err != nil {
			t.Fatal(err)
		}
		sum := binary.BigEndian.Uint16(b.Bytes()[at+16:])
		if sum == 0 {
			clear(b.Bytes()[udpSumAt : udpSumAt+2]) // the inner segment must be judged alone
			return slices.Clone(b.Bytes()), at + 16
		}
		if binary.BigEndian.Uint16(payload) != 0 {
			t.Fatalf("the checksum is %#x with the payload % x", sum, payload)
		}
		binary.BigEndian.PutUint16(payload, sum)
	}
}

// The kernel writes a TCP checksum of zero as 0xffff where it finishes it in
// software (skb_checksum_help), and every receiver takes it: it is zero's other
// name. 0xffff in the place of another sum is amiss.
func TestZeroChecksumHasTwoNames(t *testing.T) {
	shark := NewShark(t)
	zero, at := segment(t)
	ones := slices.Clone(zero)
	binary.BigEndian.PutUint16(ones[at:], 0xffff)
	wrong := slices.Clone(ones)
	wrong[len(wrong)-1] ^= 1
	other := slices.Clone(zero)
	other[at] ^= 1
	e := shark.Look(t, 4789, [][]byte{zero, ones, wrong, other})
	if got := e.Numbers(Amiss); !slices.Equal(got, []int{3, 4}) {
		t.Errorf("amiss are %v, want 3 and 4", got)
	}
	if got := e.Numbers("udp.dstport == 4789"); len(got) != 4 {
		t.Errorf("%d frames of 4", len(got))
	}
}
