package encap

import (
	"errors"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

const macs = "02420a000105 02420a000104 "

func TestEthernet(t *testing.T) {
	for _, c := range []struct {
		frame     string
		etherType uint16
		l3, tags  int
		vlan      uint16
		payload   string
	}{
		{macs + "0800 4500", EtherTypeIPv4, 14, 0, 0, "4500"},
		{macs + "0806", EtherTypeARP, 14, 0, 0, ""},
		{macs + "0026 424203", 0x0026, 14, 0, 0, "424203"},
		{macs + "8100 b02a 86dd 60", EtherTypeIPv6, 18, 1, 42, "60"},
		{macs + "8100 e000 0806 00", EtherTypeARP, 18, 1, 0, "00"},
		{macs + "8100 ffff 0800", EtherTypeIPv4, 18, 1, 4095, ""},
		{macs + "88a8 0007 8100 002a 0800 45", EtherTypeIPv4, 22, 2, 7, "45"},
		{macs + "8100 0007 8100 002a 8100 0003 0800 45", EtherTypeVLAN, 22, 2, 7, "0003 0800 45"},
		{macs + "8100 0007 88a8 002a 88a8", EtherTypeSVLAN, 22, 2, 7, ""},
	} {
		e, err := ParseEthernet(fromHex(t, c.frame))
		if err != nil {
			t.Errorf("ParseEthernet(%s): %v", c.frame, err)
			continue
		}
		equal(t, c.frame+": Dst", e.Dst(), 0x0242_0a00_0105)
		equal(t, c.frame+": Src", e.Src(), 0x0242_0a00_0104)
		equal(t, c.frame+": EtherType", e.EtherType(), c.etherType)
		equal(t, c.frame+": L3Offset", e.L3Offset(), c.l3)
		equal(t, c.frame+": Tags", e.Tags(), c.tags)
		equal(t, c.frame+": VLANID", e.VLANID(), c.vlan)
		equalBytes(t, c.frame+": Payload", e.Payload(), fromHex(t, c.payload))
	}
}

func TestEthernetRefused(t *testing.T) {
	for _, frame := range []string{
		"", macs, macs + "08",
		macs + "8100", macs + "8100 0001 08", macs + "88a8 0007 8100 002a 08",
	} {
		if _, err := ParseEthernet(fromHex(t, frame)); !errors.Is(err, ErrShort) {
			t.Errorf("ParseEthernet(%s): %v, want %v", frame, err, ErrShort)
		}
	}
}

func FuzzEthernet(f *testing.F) {
	seedFrames(f, 0)
	f.Fuzz(func(t *testing.T, frame []byte) {
		e, err := ParseEthernet(frame)
		var ref layers.Ethernet
		refErr := ref.DecodeFromBytes(frame, gopacket.NilDecodeFeedback)
		if err != nil || refErr != nil {
			if len(frame) >= EthernetHeaderLen+maxVLANTags*VLANTagLen {
				t.Fatalf("refused: %v; gopacket: %v", err, refErr)
			}
			return
		}
		equalBytes(t, "Dst", putInto(t, MACLen, e.Dst().Put), ref.DstMAC)
		equalBytes(t, "Src", putInto(t, MACLen, e.Src().Put), ref.SrcMAC)
		if ref.EthernetType == layers.EthernetTypeLLC {
			equal(t, "802.3 length", e.EtherType(), ref.Length)
			return
		}
		etherType, payload, tags, vlan := ref.EthernetType, ref.Payload, 0, uint16(0)
		for tags < maxVLANTags && (etherType == layers.EthernetTypeDot1Q || etherType == layers.EthernetTypeQinQ) {
			var q layers.Dot1Q
			if err := q.DecodeFromBytes(payload, gopacket.NilDecodeFeedback); err != nil {
				t.Fatalf("accepted a tag that gopacket refuses: %v", err)
			}
			if tags == 0 {
				vlan = q.VLANIdentifier
			}
			etherType, payload = q.Type, q.Payload
			tags++
		}
		equal(t, "EtherType", e.EtherType(), uint16(etherType))
		equal(t, "Tags", e.Tags(), tags)
		equal(t, "VLANID", e.VLANID(), vlan)
		equal(t, "L3Offset", e.L3Offset(), len(frame)-len(payload))
		equalBytes(t, "Payload", e.Payload(), payload)
	})
}
