package encap

import (
	"bytes"
	"testing"
)

func TestDecapECN(t *testing.T) {
	// RFC 6040 section 4.2, figure 4: the outer codepoint across, in the order
	// not-ECT, ECT(0), ECT(1), CE.
	outer := [4]uint8{NotECT, ECT0, ECT1, CE}
	const drop = 0xff
	for inner, row := range map[uint8][4]uint8{
		NotECT: {NotECT, NotECT, NotECT, drop},
		ECT0:   {ECT0, ECT0, ECT1, CE},
		ECT1:   {ECT1, ECT1, ECT1, CE},
		CE:     {CE, CE, CE, CE},
	} {
		for i, want := range row {
			for _, dscp := range []uint8{0, 0xb8} { // whole octets are taken too
				got, ok := DecapECN(dscp|inner, dscp|outer[i])
				if ok != (want != drop) || ok && got != want {
					t.Errorf("inner %02b, outer %02b: %02b, %t, want %02b", inner, outer[i], got, ok, want)
				}
			}
		}
	}
}

func TestEncapECN(t *testing.T) {
	for _, ecn := range []uint8{NotECT, ECT1, ECT0, CE} {
		equal(t, "outer", EncapECN(ecn), ecn)
		equal(t, "outer, with DSCP", EncapECN(0xb8|ecn), ecn)
	}
}

func TestInnerECN(t *testing.T) {
	for name, frame := range sampleFrames(t) {
		tos, isIP := InnerTOS(frame)
		if name == "arp" || name == "padded" || name == "llc" || name == "3 tags" {
			equal(t, name+": IP", isIP, false)
			equal(t, name+": TOS", tos, 0)
			before := bytes.Clone(frame)
			SetInnerECN(frame, CE)
			equalBytes(t, name+" is left alone", frame, before)
			continue
		}
		equal(t, name+": IP", isIP, true)
		equal(t, name+": TOS", tos, 0xb9)
		before := bytes.Clone(frame)
		for _, ecn := range []uint8{NotECT, CE, ECT0, 0xfc | ECT1} {
			SetInnerECN(frame, ecn)
			tos, isIP := InnerTOS(frame)
			equal(t, name+": still IP", isIP, true)
			equal(t, name+": TOS with another ECN", tos, 0xb8|ecn&ECNMask)
			eth, err := ParseEthernet(frame)
			if err != nil {
				t.Fatal(err)
			}
			if eth.EtherType() == EtherTypeIPv4 {
				p, err := ParseIPv4(eth.Payload())
				if err != nil {
					t.Fatal(err)
				}
				equal(t, name+": header sum", slowSum(p[:p.HeaderLen()]), 0xffff)
			}
		}
		equalBytes(t, name+" with ECN as at first", frame, before)
	}
}

// TestInnerECNCut wants no panic, and agreement, on every cut of a frame.
func TestInnerECNCut(t *testing.T) {
	for name, frame := range sampleFrames(t) {
		at, ok := FindTransport(frame)
		if !ok {
			continue
		}
		header := at.L3 + IPv4HeaderLen
		if at.V6 {
			header = at.L3 + IPv6HeaderLen
		}
		for n := range frame {
			cut := bytes.Clone(frame[:n])
			_, isIP := InnerTOS(cut)
			equal(t, name+" cut: IP", isIP, n >= header)
			SetInnerECN(cut, CE)
			equal(t, name+" cut: written", !bytes.Equal(cut, frame[:n]), n >= header)
		}
	}
}

func TestInnerECNOtherVersion(t *testing.T) {
	for _, name := range []string{"udp4", "udp6"} {
		frame := sampleFrames(t)[name]
		frame[EthernetHeaderLen] ^= 0x20 // 4 and 6
		_, isIP := InnerTOS(frame)
		equal(t, name+" with the other's version: IP", isIP, false)
	}
}
